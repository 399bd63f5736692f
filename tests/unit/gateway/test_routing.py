"""Model names to routes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gateway.routing import RouteTable


@dataclass(frozen=True)
class Route:
    name: str
    patterns: tuple[str, ...]


TABLE = RouteTable(
    [
        Route("exact", ("llama-3", "llama-3.1")),
        Route("glob", ("llama-*",)),
        Route("hidden", ("llama-9",)),
        Route("set", ("qwen-[27]b", "phi?")),
        Route("rest", ("rest/*",)),
    ]
)


@pytest.mark.parametrize(
    ("model", "route"),
    [
        ("llama-3", "exact"),
        ("llama-3.1", "exact"),
        ("llama-4", "glob"),
        ("llama-9", "glob"),
        ("qwen-7b", "set"),
        ("qwen-5b", None),
        ("phi4", "set"),
        ("LLAMA-3", None),
        ("rest/any/thing", "rest"),
        ("", None),
    ],
)
def test_the_first_route_that_matches_wins(model: str, route: str | None) -> None:
    for _ in range(2):  # found anew, then remembered
        found = TABLE.find(model)
        assert (found.name if found is not None else None) == route


def test_only_exact_names_are_listed() -> None:
    assert TABLE.names == ["llama-3", "llama-3.1", "llama-9"]


def test_inventing_names_does_not_grow_memory() -> None:
    table = RouteTable([Route("all", ("m*",))])
    for number in range(10_000):
        assert table.find(f"m{number}") is not None
    assert len(table._found) <= 4096
