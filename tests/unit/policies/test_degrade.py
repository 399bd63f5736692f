"""Degradation levels and what they do to a request."""

from __future__ import annotations

from math import nan

import pytest

from policies.degrade import DWELL, Degradation, DegradeSettings, Level, LevelSettings, scaled

SETTINGS = DegradeSettings(("gpu", "queue"), LevelSettings(0.7, 0.7), LevelSettings(0.9, 0.4))


def degradation(pressure: float = 0.0, now: float = 0.0) -> Degradation:
    state = Degradation(SETTINGS)
    state.update({"gpu": pressure}, now)
    return state


@pytest.mark.parametrize(
    ("signals", "level", "quality"),
    [
        ({}, Level.FULL, 1.0),
        ({"gpu": 0.7}, Level.FULL, 1.0),
        ({"gpu": 0.71}, Level.REDUCED, 0.7),
        ({"gpu": 0.1, "queue": 0.95}, Level.MINIMAL, 0.4),
        ({"cpu": 1.0}, Level.FULL, 1.0),  # not watched
        ({"gpu": nan, "queue": 0.8}, Level.REDUCED, 0.7),
        ({"gpu": 40.0}, Level.MINIMAL, 0.4),
    ],
)
def test_the_highest_watched_pressure_sets_the_level(signals: dict[str, float], level: Level, quality: float) -> None:
    state = Degradation(SETTINGS)
    assert (state.update(signals, 0.0), state.quality) == (level, quality)


def test_it_comes_down_one_level_at_a_time_after_a_calm_while() -> None:
    state = degradation(0.95)
    levels = [state.update({"gpu": 0.1}, now) for now in (1.0, 1.0 + DWELL / 2, 1.0 + DWELL, 1.0 + 2 * DWELL)]
    assert levels == [Level.MINIMAL, Level.MINIMAL, Level.REDUCED, Level.FULL]


def test_pressure_just_below_a_threshold_does_not_bring_it_down() -> None:
    state = degradation(0.75)
    assert [state.update({"gpu": 0.65}, now) for now in (1.0, 100.0, 200.0)] == [Level.REDUCED] * 3


def test_a_relapse_starts_the_calm_anew() -> None:
    state = degradation(0.75)
    state.update({"gpu": 0.5}, 1.0)
    state.update({"gpu": 0.65}, 9.0)
    assert state.update({"gpu": 0.5}, 12.0) is Level.REDUCED
    assert state.update({"gpu": 0.5}, 12.0 + DWELL) is Level.FULL


def test_pressure_around_a_threshold_does_not_make_it_flap() -> None:
    state = degradation()
    changes = 0
    for second in range(600):
        before = state.level
        state.update({"gpu": 0.68 + 0.04 * (second % 2)}, float(second))
        changes += state.level is not before
    assert changes == 1


def test_an_emergency_takes_one_level_and_holds_for_the_dwell() -> None:
    state = degradation()
    levels = []
    for _ in range(3):
        state.emergency()
        levels.append(state.level)
    assert levels == [Level.REDUCED, Level.MINIMAL, Level.MINIMAL]
    assert state.update({}, 1.0) is Level.MINIMAL
    assert state.update({}, 1.0 + DWELL) is Level.REDUCED


def test_a_threshold_near_zero_can_be_left() -> None:
    state = Degradation(DegradeSettings(("gpu",), LevelSettings(0.05, 0.7), LevelSettings(0.9, 0.4)))
    state.update({"gpu": 0.06}, 0.0)
    state.update({"gpu": 0.0}, 1.0)
    assert state.update({"gpu": 0.0}, 1.0 + DWELL) is Level.FULL


@pytest.mark.parametrize(
    ("amounts", "factor", "changed"),
    [
        ({"max_tokens": 1000, "n": 4}, 0.5, {"max_tokens": 500, "n": 2}),
        ({"max_tokens": None, "steps": 30}, 0.4, {"steps": 12}),
        ({"n": 1, "max_tokens": 2}, 0.4, {"max_tokens": 1}),
        ({"max_tokens": 0}, 0.4, {}),
        ({"max_tokens": 1000}, 1.0, {}),
    ],
)
def test_amounts_are_scaled_and_what_changed_is_told(
    amounts: dict[str, int | None], factor: float, changed: dict[str, int]
) -> None:
    assert scaled(amounts, factor) == changed


def test_labels_are_those_of_headers_and_metrics() -> None:
    assert [level.label for level in Level] == ["full", "reduced", "minimal"]
