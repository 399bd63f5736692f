"""Hanging engines are told from busy ones."""

from __future__ import annotations

import pytest

from policies.progress import ProgressWatch

Sample = tuple[float, float, float]  # running, generated, now


@pytest.mark.parametrize(
    ("samples", "hangs"),
    [
        ([(3, 100, 0), (3, 100, 15), (3, 100, 30)], True),
        ([(3, 100, 0), (3, 100, 15), (3, 100, 29)], False),  # not long enough
        ([(3, 100, 0), (3, 101, 15), (3, 101, 30)], False),  # it moved
        ([(500, 100, 0), (600, 101, 15), (700, 102, 30), (800, 103, 45)], False),  # busy, slow, alive
        ([(0, 100, 0), (0, 100, 15), (0, 100, 300)], False),  # idle
        ([(3, 100, 0), (0, 100, 15), (3, 100, 30), (3, 100, 45)], False),  # idle in between
        ([(0, 100, 0), (3, 100, 1000), (3, 100, 1010)], False),  # has just begun to work
        ([(3, 100, 0), (3, 5, 15), (3, 5, 30)], False),  # restarted
        ([(3, 100, 0), (3, 100, 1000)], False),  # a scrape that came late proves nothing
        ([(3, 100, 0), (3, 100, 1000), (3, 100, 1005)], True),
        ([(3, 0, 0), (3, 0, 15), (3, 0, 30)], True),  # never generated anything
        ([(3, 100, 0), (3, 100, 15), (3, 100, 30), (3, 101, 31)], False),  # back to life
    ],
)
def test_only_a_counter_that_stands_still_under_work_is_a_hang(samples: list[Sample], hangs: bool) -> None:
    watch = ProgressWatch(30.0)
    verdict = False
    for running, generated, now in samples:
        verdict = watch.sample(running, generated, now)
    assert verdict is hangs
