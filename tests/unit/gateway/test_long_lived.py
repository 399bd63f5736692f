"""What is there for good is not looked at in each collection; what a reload left behind is collected all the same."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from gateway.long_lived import LongLived


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


class Ring:
    """An object that only the collector can free."""

    def __init__(self) -> None:
        self.itself = self


def test_what_is_there_is_frozen() -> None:
    LongLived()
    assert gc.get_freeze_count() > 10_000
    assert len(gc.get_objects(2)) < gc.get_freeze_count() / 10


def test_a_cycle_that_a_reload_left_behind_is_collected_once_its_requests_are_over() -> None:
    old = Ring()
    left = weakref.ref(old)
    kept = LongLived()
    kept.changed(100.0)
    del old
    kept.look(101.0)
    gc.collect()
    assert left() is not None  # frozen: no collection looks at it
    kept.changed(125.0)
    kept.look(131.0)
    assert left() is None
    assert gc.get_freeze_count() > 10_000


def test_many_changes_are_one_collection() -> None:
    kept = LongLived()
    collections = gc.get_stats()[2]["collections"]
    for number in range(60):
        kept.changed(100.0 + number / 3)
        kept.look(100.0 + number / 3)
    assert gc.get_stats()[2]["collections"] == collections
    kept.look(130.5)
    assert gc.get_stats()[2]["collections"] == collections + 1
