"""`seawall explain`: which way a request would take, now or if an endpoint were down. Asks the plan, sends nothing."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from math import inf
from typing import Any

from gateway.config.schema import Config
from gateway.config.units import format_duration
from gateway.errors.taxonomy import did_you_mean
from gateway.runtime import Route, build
from policies.outcome import ErrorKind, Failure

_AT = 1.0  # a moment; nothing here depends on the clock
_WHY = {
    "primary": "first choice",
    "fallback": "next tier",
    "retry": "untried endpoint of the tier",
    "retry_same": "back to one that failed, after a pause",
}


async def explain(
    config: Config, model: str, down: Collection[str] = (), seen: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """The route of a model, its endpoints, and the attempts that a request makes if each fails, in order.

    `seen` are the endpoints as a running gateway's `/status` shows them. Raises ValueError for names that do not exist.
    """
    runtime = build(config, None, random.Random())
    route = runtime.routes.find(model)
    if route is None:
        hint = did_you_mean(model, runtime.routes.names)
        raise ValueError(f"no route takes the model {model!r}" + (f": did you mean {hint!r}?" if hint else ""))
    for name in down:
        if name not in runtime.endpoints:
            hint = did_you_mean(name, runtime.endpoints)
            raise ValueError(f"there is no backend {name!r}" + (f": did you mean {hint!r}?" if hint else ""))
    states = {}
    for name, endpoint in runtime.endpoints.items():
        states[name] = "down (as asked)" if name in down else _state((seen or {}).get(name, {}))
        endpoint.in_service = endpoint.healthy = states[name] == "up"
    lines = [f"route {route.name!r} takes {model!r} (policy {_policy(config, route)}, balance {route.balance})"]
    for number, tier in enumerate(route.tiers):
        members = ", ".join(f"{c.name} as {c.model or model!r}: {states[c.name]}" for c in tier)
        lines.append(f"  {'primary' if number == 0 else f'fallback {number}'}: {members}")
    return "\n".join([*lines, *_attempts(route)])


def _policy(config: Config, route: Route) -> str:
    return next(each.policy for each in config.routes if each.name == route.name)


def _state(shown: Mapping[str, Any]) -> str:
    if not shown.get("healthy", True):
        return f"down ({shown.get('message') or shown.get('state')})"
    if (service := shown.get("service", "active")) != "active":
        return f"{service} (by an operator)"
    if shown.get("breaker", "closed") == "open":
        return "ejected (circuit open)"
    if wait := shown.get("retry_after"):
        return f"busy (to be asked again in {format_duration(round(wait, 1))})"
    if shown.get("in_flight", 0) >= shown.get("limit", inf):
        return "busy (at its limit)"
    return "up"


def _attempts(route: Route) -> list[str]:
    """One line for each attempt, all of them failing."""
    plan = route.plan(inf, None)
    lines = ["attempts, should each fail:"]
    for number in range(1, 100):
        choice = plan.next(_AT)
        if choice is None:
            break
        lines.append(f"  {number}. {choice.target.name}: {_WHY.get(choice.why, choice.why)}")
        plan.failed(choice.target, Failure(ErrorKind.BACKEND_UNREACHABLE), _AT)
    wait = route.policy.admission.max_wait
    if len(lines) == 1:
        lines.append("  none: nothing can be asked")
    end = "an error" if route.static is None else "the static answer"
    last = f"wait {format_duration(wait)} at most for one that comes back, then {end}" if wait else end
    return [*lines, f"  then: {last}"]
