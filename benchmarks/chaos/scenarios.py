"""What goes wrong, when, and to whom. Backends `a` and `b` are the primary tier, `c` is the fallback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Seconds from the start of the load: the fault begins, the fault ends, the load ends.
BEGIN, END, LAST = 2.0, 7.0, 10.0


@dataclass(frozen=True, slots=True)
class Act:
    """At `at` seconds, to one backend: `inject` (faults as the fault backend takes them), `heal`, `kill` (-9), `start`,
    `stop` (SIGSTOP) or `continue` (SIGCONT)."""

    at: float
    backend: str
    what: str
    faults: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Scenario:
    """`good`: a good backend is left at every moment, so nothing may fail. `refused`: what is answered 400 is right."""

    name: str
    title: str
    acts: tuple[Act, ...]
    good: bool = True
    refused: bool = False
    leavers: bool = False
    slow_readers: bool = False


def _faulty(name: str, title: str, *faults: dict[str, Any] | str, on: str = "a", **more: Any) -> Scenario:
    given = tuple({"kind": fault} if isinstance(fault, str) else fault for fault in faults)
    acts = [Act(BEGIN, backend, "inject", given) for backend in on] + [Act(END, backend, "heal") for backend in on]
    return Scenario(name, title, tuple(acts), **more)


def _flapping() -> Scenario:
    acts = []
    for second in range(5):
        acts += [Act(BEGIN + second, "a", "kill"), Act(BEGIN + second + 0.5, "a", "start")]
    return Scenario("flapping", "killed and restarted each second", tuple(acts))


def _rolling() -> Scenario:
    """Another fault each half second, now on one, now on another; never on all."""
    turns = (
        "rst_mid_stream",
        "oom",
        "stall",
        "html_200",
        "silent_cut",
        "overloaded",
        "engine_death",
        "rst_before_head",
    )
    acts = []
    for number, fault in enumerate((*turns, "half_json", "internal_error")):
        backend, at = "abc"[number % 3], BEGIN + number * 0.5
        acts += [Act(at, backend, "inject", ({"kind": fault},)), Act(at + 0.5, backend, "heal")]
    return Scenario("rolling", "random faults, one backend after the other", tuple(acts))


SCENARIOS: tuple[Scenario, ...] = (
    Scenario("calm", "nothing goes wrong", ()),
    Scenario("killed", "killed -9, back after 5 s", (Act(BEGIN, "a", "kill"), Act(END, "a", "start"))),
    Scenario("frozen", "frozen (SIGSTOP), thawed after 5 s", (Act(BEGIN, "a", "stop"), Act(END, "a", "continue"))),
    _faulty("hang", "accepts and never answers", "hang"),
    _faulty("half_500", "half of the answers are 500", {"kind": "internal_error", "probability": 0.5}),
    _faulty("oom", "CUDA out of memory", "oom"),
    _faulty("rst_stream", "connection reset in each stream after 10 tokens", "rst_mid_stream"),
    _faulty("stall", "each stream stalls after 10 tokens", "stall"),
    _faulty("silent_cut", "each stream ends cleanly after 10 tokens, without `[DONE]`", "silent_cut"),
    _faulty("engine_death", "error frame in the stream, then `[DONE]`", "engine_death"),
    _faulty("malformed", "a frame that is no JSON in each stream", "malformed_frame"),
    _faulty("html_200", "200 with an HTML page", "html_200"),
    _faulty("half_json", "200 with half a JSON document", "half_json"),
    _faulty("overloaded", "both primaries say 503, busy", "overloaded", on="ab"),
    _faulty("brownout", "first token 2 s late", "slow_first_token"),
    _rolling(),
    _flapping(),
    _faulty("context_400", "400, prompt too long", "context_length", refused=True),
    _faulty("leavers", "half of the clients leave after 5 tokens", leavers=True),
    _faulty("slow_readers", "clients that read a few bytes a second", slow_readers=True),
    _faulty("all_500", "all three answer 500 for 5 s", "internal_error", on="abc", good=False),
    Scenario(
        "all_killed",
        "all three killed -9, back after 5 s",
        tuple(Act(at, name, what) for at, what in ((BEGIN, "kill"), (END, "start")) for name in "abc"),
        good=False,
    ),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
