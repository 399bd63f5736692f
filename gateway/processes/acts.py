"""What operators have done to backends and not undone, for workers that start later."""

from __future__ import annotations

from collections.abc import Iterable

#: Backends remembered at most; of more, the oldest acts are forgotten.
_MOST = 1000
#: Acts after which nothing is left to be told, and of which kinds.
_UNDOING = {"restore": ("service", "breaker"), "breaker/reset": ("breaker",)}


class Acts:
    """The last act of each kind upon each backend."""

    def __init__(self) -> None:
        self._acts: dict[tuple[str, str], str] = {}

    def remember(self, verb: str, backend: str) -> None:
        """Takes note of an act."""
        kind = "breaker" if verb.startswith("breaker/") else "service"
        for each in _UNDOING.get(verb, (kind,)):
            self._acts.pop((each, backend), None)
        if verb not in _UNDOING:
            self._acts[kind, backend] = verb
        while len(self._acts) > _MOST:
            del self._acts[next(iter(self._acts))]

    def all(self) -> Iterable[tuple[str, str]]:
        """(verb, backend) of what is in effect, oldest first."""
        return [(verb, backend) for (_, backend), verb in self._acts.items()]
