"""How requests are shared out."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from policies.balance import make_balancer


class Place:
    """What a balancer sees of an endpoint."""

    def __init__(self, name: str, weight: float = 1.0, in_flight: int = 0) -> None:
        self.name = name
        self.weight = weight
        self.in_flight = in_flight

    def load(self, now: float) -> float:
        return self.in_flight / self.weight


def picks(kind: str, places: list[Place], count: int) -> Counter[str]:
    balancer, rng = make_balancer(kind), random.Random(7)
    return Counter(balancer.pick(places, 0.0, rng).name for _ in range(count))


ALL = ["round_robin", "random", "p2c", "least_load", "prefix", "session"]


@pytest.mark.parametrize("kind", ALL)
def test_one_candidate_is_the_choice(kind: str) -> None:
    place = Place("a", in_flight=1000)
    assert make_balancer(kind).pick([place], 0.0, random.Random(), b"key") is place


@pytest.mark.parametrize("kind", ALL)
def test_idle_equals_share_alike(kind: str) -> None:
    counts = picks(kind, [Place(name) for name in "abcd"], 4000)
    assert all(900 <= counts[name] <= 1100 for name in "abcd")


@pytest.mark.parametrize(("kind", "slack"), [("round_robin", 0), ("random", 100), ("least_load", 100), ("p2c", 300)])
def test_weight_counts_when_load_does_not(kind: str, slack: int) -> None:
    counts = picks(kind, [Place("a", 3.0), Place("b", 1.0)], 4000)
    assert abs(counts["a"] - 3000) <= slack


@pytest.mark.parametrize("kind", ["least_load", "p2c"])
def test_the_loaded_one_is_spared(kind: str) -> None:
    counts = picks(kind, [Place("a", in_flight=9), Place("b", in_flight=3)], 100)
    assert counts == {"b": 100}


def test_load_is_per_weight() -> None:
    assert picks("least_load", [Place("a", 4.0, 4), Place("b", 1.0, 2)], 50) == {"a": 50}


def test_least_load_shares_out_ties_fairly_whatever_their_place_in_the_list() -> None:
    counts = picks("least_load", [Place("a"), Place("busy", in_flight=5), Place("b"), Place("c")], 3000)
    assert counts["busy"] == 0
    assert all(850 <= counts[name] <= 1150 for name in "abc")


def test_power_of_two_never_picks_the_most_loaded() -> None:
    counts = picks("p2c", [Place("a", in_flight=1), Place("b", in_flight=2), Place("c", in_flight=3)], 3000)
    assert counts["c"] == 0
    assert counts["a"] > counts["b"] > 0


def test_round_robin_spreads_evenly_instead_of_in_runs() -> None:
    places = [Place("a", 5.0), Place("b", 1.0), Place("c", 1.0)]
    balancer, rng = make_balancer("round_robin"), random.Random()
    assert "".join(balancer.pick(places, 0.0, rng).name for _ in range(7)) == "aabacaa"


def test_round_robin_goes_on_fairly_when_one_drops_out_and_returns() -> None:
    a, b, c = Place("a"), Place("b"), Place("c")
    balancer, rng = make_balancer("round_robin"), random.Random()
    for _ in range(10):
        balancer.pick([a, b, c], 0.0, rng)
    without = Counter(balancer.pick([a, c], 0.0, rng).name for _ in range(100))
    assert abs(without["a"] - without["c"]) <= 2
    again = Counter(balancer.pick([a, b, c], 0.0, rng).name for _ in range(300))
    assert all(abs(again[name] - 100) <= 2 for name in "abc")


def test_round_robin_forgets_endpoints_that_are_gone() -> None:
    balancer, rng = make_balancer("round_robin"), random.Random()
    for generation in range(1000):
        balancer.pick([Place(f"a{generation}"), Place(f"b{generation}")], 0.0, rng)
    assert len(balancer._current) <= 80  # type: ignore[attr-defined]


def test_an_unknown_balancer_is_an_error() -> None:
    with pytest.raises(KeyError):
        make_balancer("fastest")
