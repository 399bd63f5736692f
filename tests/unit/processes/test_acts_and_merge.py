"""What operators did, for workers that start later; and several workers' endpoints as one."""

from __future__ import annotations

import pytest

from gateway.processes.acts import Acts
from gateway.processes.merge import merge_endpoints


@pytest.mark.parametrize(
    ("done", "left"),
    [
        ([("drain", "a")], [("drain", "a")]),
        ([("drain", "a"), ("eject", "a")], [("eject", "a")]),
        ([("drain", "a"), ("restore", "a")], []),
        ([("breaker/open", "a"), ("drain", "a"), ("drain", "b"), ("restore", "a")], [("drain", "b")]),
        ([("breaker/open", "a"), ("drain", "a"), ("breaker/reset", "a")], [("drain", "a")]),
        ([("drain", "b"), ("breaker/open", "a")], [("drain", "b"), ("breaker/open", "a")]),
    ],
)
def test_acts_that_are_not_undone_are_kept(done: list[tuple[str, str]], left: list[tuple[str, str]]) -> None:
    acts = Acts()
    for verb, backend in done:
        acts.remember(verb, backend)
    assert list(acts.all()) == left


def test_acts_are_bounded() -> None:
    acts = Acts()
    for number in range(3000):
        acts.remember("drain", f"b{number}")
    assert len(list(acts.all())) == 1000


def endpoint(**changes: object) -> dict[str, object]:
    return {"breaker": "closed", "healthy": True, "in_flight": 1, "limit": 10, "connections": 2} | changes


@pytest.mark.parametrize(
    ("workers", "breaker", "healthy"),
    [
        ([{}, {}], "closed", True),
        ([{"breaker": "open"}, {}], "open", True),
        ([{"breaker": "half_open"}, {"breaker": "open"}], "open", True),
        ([{}, {"healthy": False}], "closed", False),
        ([{"breaker": "open"}, {"healthy": False}], "closed", False),
    ],
)
def test_loads_are_added_and_the_worst_is_shown(workers: list[dict[str, object]], breaker: str, healthy: bool) -> None:
    merged = merge_endpoints([{"endpoints": {"a": endpoint(**changes)}} for changes in workers])["a"]
    assert (merged["breaker"], merged["healthy"]) == (breaker, healthy)
    assert (merged["in_flight"], merged["limit"], merged["connections"]) == (2, 20, 4)
