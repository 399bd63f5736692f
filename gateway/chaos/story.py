"""The narrative of a run, and its sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from gateway.chaos.load import Outcome

Say = Callable[[str, str], None]


@dataclass(slots=True)
class Story:
    """Follows one backend's state and the requests; says each change once, with the seconds since the start."""

    backend: str
    say: Say
    started: float = field(default_factory=monotonic)
    broken_at: float | None = None
    released_at: float | None = None
    back_at: float | None = None
    circuit_opened: float | None = None
    _known: dict[str, str] = field(default_factory=dict)
    _failures: int = 0

    def observe(self, state: dict[str, Any]) -> None:
        """Takes a state as `GET /admin/state` gives it."""
        backend = next((each for each in state["backends"] if each["name"] == self.backend), None)
        if backend is None:
            return
        now = monotonic()
        circuit = backend["breaker"]["state"]
        if circuit == "open" and self.circuit_opened is None and self.broken_at is not None:
            self.circuit_opened = now
        self._changed("health", backend["state"], backend["message"])
        self._changed("circuit", circuit.replace("_", " "), "")
        self._changed("gateway", state["health"]["overall_status"], "")
        if (worker := backend["worker"]) is not None:
            self._changed("worker", worker["state"], f"pid {worker['pid']}" if worker["pid"] else "no process")

    def told(self, outcome: Outcome) -> None:
        """Takes a finished request."""
        if outcome.error is not None:
            self._failures += 1
            if self._failures <= 10:
                self.line(f"a client got {outcome.error} after {outcome.ended - outcome.begun:.2f} s", "bold red")
        elif self.broken_at is not None and self._recovered(outcome):
            self.back_at = outcome.ended
            self.line(
                f"{self.backend} answers again, {outcome.ended - self.broken_at:.1f} s after the blow", "bold green"
            )

    def line(self, text: str, style: str = "") -> None:
        self.say(f"{monotonic() - self.started:6.1f} s  {text}", style)

    def _recovered(self, outcome: Outcome) -> bool:
        """Whether an answer begun after the blow shows that the backend is back; a frozen one must be let go first."""
        since = self.released_at if self.released_at is not None else self.broken_at
        return self.back_at is None and since is not None and outcome.backend == self.backend and outcome.begun > since

    def _changed(self, what: str, value: str, note: str) -> None:
        before = self._known.get(what)
        if before == value:
            return
        self._known[what] = value
        if before is not None:
            self.line(f"{what}: {before} -> {value}{f' ({note})' if note else ''}", "yellow")


def summary(story: Story, outcomes: Sequence[Outcome]) -> list[str]:
    """What there is to remember, in lines."""
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    hidden = [outcome for outcome in outcomes if outcome.error is None and outcome.attempts > 1]
    fallback = sum(outcome.fallback and outcome.error is None for outcome in outcomes)
    lines = [
        f"{len(outcomes)} requests: {len(outcomes) - len(failed)} answered whole, {len(failed)} failed",
        f"{len(hidden)} needed more than one attempt, {fallback} were answered by a fallback tier",
    ]
    if failed:
        kinds = Counter(outcome.error or "" for outcome in failed).most_common()
        lines.append("failed with: " + ", ".join(f"{kind} {count}" for kind, count in kinds))
    for name, chosen in (("before the blow", _before(story, outcomes)), ("after it", _after(story, outcomes))):
        if chosen:
            times = sorted(outcome.ended - outcome.begun for outcome in chosen)
            lines.append(f"answers {name}: median {times[len(times) // 2]:.2f} s, slowest {times[-1]:.2f} s")
    if story.broken_at is not None:
        opened = story.circuit_opened
        lines.append(
            "its circuit did not open"
            if opened is None
            else f"its circuit opened after {opened - story.broken_at:.1f} s"
        )
        lines.append(
            f"{story.backend} did not come back"
            if story.back_at is None
            else f"{story.backend} was back after {story.back_at - story.broken_at:.1f} s"
        )
    return lines


def _before(story: Story, outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [o for o in outcomes if o.error is None and (story.broken_at is None or o.ended < story.broken_at)]


def _after(story: Story, outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [o for o in outcomes if o.error is None and story.broken_at is not None and o.ended >= story.broken_at]
