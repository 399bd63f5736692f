"""From a model's name to a route: first match wins, exact names and globs alike."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Generic, Protocol, TypeVar

#: Names remembered, so that a glob is matched once; a client that invents names costs no more than this.
_MAX_REMEMBERED = 4096
_GLOB = frozenset("*?[")


class HasPatterns(Protocol):
    """Anything with model patterns."""

    @property
    def patterns(self) -> tuple[str, ...]: ...


R = TypeVar("R", bound=HasPatterns)


class RouteTable(Generic[R]):
    """Routes in the order of the configuration; looking a name up costs one dict lookup after the first time."""

    def __init__(self, routes: Sequence[R]) -> None:
        self.routes = tuple(routes)
        self._exact: dict[str, int] = {}
        self._globs: list[tuple[int, str]] = []
        for index, route in enumerate(routes):
            for pattern in route.patterns:
                if _GLOB.isdisjoint(pattern):
                    self._exact.setdefault(pattern, index)
                else:
                    self._globs.append((index, pattern))
        self._found: dict[str, R | None] = {}

    def find(self, model: str) -> R | None:
        """The first route that takes this model, or None."""
        try:
            return self._found[model]
        except KeyError:
            pass
        if len(self._found) >= _MAX_REMEMBERED:
            self._found.clear()
        route = self._found[model] = self._match(model)
        return route

    def _match(self, model: str) -> R | None:
        best = self._exact.get(model, len(self.routes))
        for index, pattern in self._globs:
            if index >= best:
                break
            if fnmatchcase(model, pattern):
                best = index
                break
        return self.routes[best] if best < len(self.routes) else None

    @property
    def names(self) -> list[str]:
        """Exact model names in order: what `/v1/models` lists."""
        return list(self._exact)
