"""How requests are shared out."""

from __future__ import annotations

import random
from collections import Counter
from math import inf

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


# -- at a glance -----------------------------------------------------------------------------------------------------

BY_CHANCE = ["random", "p2c", "least_load"]


class Counted(Place):
    """One that counts how often it is looked at, and may be out."""

    def __init__(self, name: str, weight: float = 1.0, in_flight: int = 0, *, out: bool = False) -> None:
        super().__init__(name, weight, in_flight)
        self.out = out
        self.looks = 0

    def burden(self, now: float) -> float:
        self.looks += 1
        return inf if self.out else self.load(now)


def first_picks(kind: str, tier: list[Counted], count: int, few: int = 99) -> Counter[str]:
    """What first attempts come to: a glance, and where it finds none a pick of those that are not out."""
    balancer, rng = make_balancer(kind), random.Random(7)
    able = [place for place in tier if not place.out]
    heaviest = max(place.weight for place in tier)
    return Counter(
        (balancer.glance(tier, 0.0, rng, heaviest, few) or balancer.pick(able, 0.0, rng)).name for _ in range(count)
    )


@pytest.mark.parametrize("kind", BY_CHANCE)
def test_at_a_glance_idle_equals_share_alike(kind: str) -> None:
    counts = first_picks(kind, [Counted(name) for name in "abcd"], 4000)
    assert all(900 <= counts[name] <= 1100 for name in "abcd")


@pytest.mark.parametrize(("kind", "slack"), [("random", 120), ("least_load", 120), ("p2c", 300)])
def test_at_a_glance_weight_counts_when_load_does_not(kind: str, slack: int) -> None:
    counts = first_picks(kind, [Counted("a", 3.0), Counted("b", 1.0)], 4000)
    assert abs(counts["a"] - 3000) <= slack


def test_weight_counts_among_the_idle_beside_a_busy_one() -> None:
    tier = [Counted("a", 3.0), Counted("busy", 3.0, in_flight=9), Counted("b", 1.0), Counted("c", 1.0)]
    counts = first_picks("least_load", tier, 5000)
    assert counts["busy"] == 0
    assert abs(counts["a"] - 3000) <= 150
    assert abs(counts["b"] - 1000) <= 100


def test_one_that_comes_back_little_by_little_gets_its_small_share() -> None:
    tier = [Counted("back", 0.1), *(Counted(f"{number}") for number in range(199))]
    assert 2 <= first_picks("least_load", tier, 20_000, few=8)["back"] <= 20  # 10 by its weight, 100 by number


@pytest.mark.parametrize("kind", BY_CHANCE)
def test_a_glance_never_takes_one_that_is_out_and_finds_none_where_all_are(kind: str) -> None:
    tier = [Counted("a", out=True), Counted("b", in_flight=5), Counted("c", out=True)]
    assert first_picks(kind, tier, 300) == {"b": 300}
    gone = [Counted(name, out=True) for name in "abc"]
    assert all(make_balancer(kind).glance(gone, 0.0, random.Random(n), 1.0, 3) is None for n in range(20))


@pytest.mark.parametrize("kind", ["least_load", "prefix", "session"])
def test_of_a_busy_small_tier_a_glance_gives_the_least_loaded_of_all(kind: str) -> None:
    tier = [Counted(f"{number}", in_flight=9) for number in range(15)]
    tier.insert(7, Counted("least", in_flight=8))
    assert first_picks(kind, tier, 50, few=16) == {"least": 50}


@pytest.mark.parametrize(("kind", "looks"), [("random", 1), ("p2c", 2), ("least_load", 9)])
def test_a_glance_at_a_large_tier_looks_at_few(kind: str, looks: int) -> None:
    tier = [Counted(f"{number}", in_flight=9) for number in range(200)]
    first_picks(kind, tier, 100, few=8)
    assert sum(place.looks for place in tier) == looks * 100


def test_of_idle_ones_a_glance_looks_at_one() -> None:
    tier = [Counted(f"{number}") for number in range(200)]
    first_picks("least_load", tier, 100, few=8)
    assert sum(place.looks for place in tier) == 100


def test_whose_turn_it_is_is_not_seen_at_a_glance() -> None:
    assert make_balancer("round_robin").glance([Counted("a"), Counted("b")], 0.0, random.Random(), 1.0, 2) is None
