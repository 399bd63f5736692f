"""Runs it: calm, the blow, what follows, the sum."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from rich.console import Console
from rich.text import Text

from gateway.chaos.breakage import NotThatProcess, behind, release, strike
from gateway.chaos.how import How
from gateway.chaos.load import Load
from gateway.chaos.story import Story, summary
from gateway.operator_client import CannotRead, get, printable

_LOOK = 0.2
_KINDS_WITHOUT_CHAT = ("diffusers",)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: times in seconds. `frozen` is how long a freeze lasts, `patience` how long to wait for the recovery,
    `after` how long the load goes on once the backend is back."""

    url: str
    how: How
    backend: str | None = None
    model: str | None = None
    pid: int | None = None
    clients: int = 4
    calm: float = 5.0
    frozen: float = 10.0
    patience: float = 60.0
    after: float = 3.0
    admin_key: str | None = None
    api_key: str | None = None


def run(plan: Plan, confirm: Callable[[str], bool]) -> int:
    """Does it if `confirm` agrees to the sentence that says what will happen.

    Returns the exit code: 0 if no client saw a failure and the backend came back, else 1.
    """
    console = Console(highlight=False)
    try:
        state = _look(plan)
        backend, model = choose(state, plan)
        worker = backend["worker"]
        pid = behind(backend["url"], plan.pid or (worker["pid"] if worker else None))
    except (CannotRead, NotThatProcess, LookupError) as error:
        reason = error.args[0] if error.args else type(error).__name__
        console.print(Text(f"nothing was broken: {printable(reason)}", style="red"))
        return 1
    deed = "kill -9" if plan.how is How.KILL else f"freeze for {plan.frozen:g} s"
    if not confirm(f"This will {deed} process {pid}, which is backend {backend['name']!r}. Go on?"):
        console.print("Nothing was broken.")
        return 1
    return asyncio.run(_perform(plan, backend["name"], model, pid, console))


def _look(plan: Plan) -> dict[str, Any]:
    return get(plan.url, "/admin/state", plan.admin_key, member="backends")


def choose(state: dict[str, Any], plan: Plan) -> tuple[dict[str, Any], str]:
    """The backend to break and a model that reaches it. Raises LookupError, saying what is wrong.

    Left open, it is the first supervised one of a route that has others.
    """
    backends = {each["name"]: each for each in state["backends"]}
    if plan.backend is not None and plan.backend not in backends:
        raise LookupError(f"there is no backend {plan.backend!r}; there are {', '.join(backends)}")
    for route in state["routes"]:
        names = [target["backend"] for target in route["tiers"][0]]
        for name in names if plan.backend is None else [plan.backend] if plan.backend in names else []:
            chosen = backends[name]
            model = plan.model or next((each for each in route["models"] if not set("*?[") & set(each)), None)
            alone = sum(len(tier) for tier in route["tiers"]) == 1
            if model is None or chosen["kind"] in _KINDS_WITHOUT_CHAT:
                continue
            if plan.backend is None and (alone or chosen["worker"] is None):
                continue
            return chosen, model
    if plan.backend is None:
        raise LookupError(
            "no supervised backend has others beside it; name one with --backend, and its process with --pid"
        )
    raise LookupError(f"no route with a plain model name has {plan.backend!r} in its first tier; name one with --model")


async def _perform(plan: Plan, backend: str, model: str, pid: int, console: Console) -> int:
    story = Story(backend, lambda text, style: console.print(Text(text, style=style), soft_wrap=True))
    load = Load(plan.url, model, plan.clients, story.told, plan.api_key)
    watch = asyncio.create_task(_watch(plan, story))
    story.line(f"{plan.clients} clients stream answers of {model!r}; {plan.calm:g} s of calm")
    load.start()
    frozen = False
    try:
        await asyncio.sleep(plan.calm)
        before = len(load.outcomes)
        story.line(
            f"{before} answers so far. Now: {'kill -9' if plan.how is How.KILL else 'SIGSTOP'} {pid} ({backend})",
            "bold",
        )
        story.broken_at = monotonic()
        try:
            strike(plan.how, pid)
        except (ProcessLookupError, PermissionError) as error:
            story.line(f"could not: {error.strerror}", "bold red")
            return 1
        frozen = plan.how is How.FREEZE
        if frozen:
            await asyncio.sleep(plan.frozen)
            release(plan.how, pid)
            frozen = False
            story.released_at = monotonic()
            story.line(f"SIGCONT {pid}: it may go on", "bold")
        await _recovery(story, plan)
    finally:
        if frozen:
            release(plan.how, pid)
        await load.stop()
        watch.cancel()
    console.print()
    for line in summary(story, load.outcomes):
        console.print(Text(f"  {line}"), soft_wrap=True)
    whole = all(outcome.error is None for outcome in load.outcomes) and bool(load.outcomes)
    verdict = "No client got an error." if whole else "Clients got errors."
    console.print(Text(f"  {verdict}", style="bold green" if whole else "bold red"))
    return 0 if whole and story.back_at is not None else 1


async def _recovery(story: Story, plan: Plan) -> None:
    deadline = monotonic() + plan.patience
    while story.back_at is None and monotonic() < deadline:  # noqa: ASYNC110 - a bounded wait for others
        await asyncio.sleep(_LOOK)
    if story.back_at is None:
        story.line(f"{story.backend} is not back after {plan.patience:g} s; that is as long as this waits", "bold red")
    else:
        await asyncio.sleep(plan.after)


async def _watch(plan: Plan, story: Story) -> None:
    while True:
        try:
            story.observe(await asyncio.to_thread(_look, plan))
        except CannotRead as error:
            story.line(f"the gateway itself does not answer: {error}", "bold red")
        await asyncio.sleep(_LOOK)
