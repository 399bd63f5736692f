"""For all tests."""

from __future__ import annotations

import gc

from hypothesis import settings

settings.register_profile("seawall", deadline=None)  # how long an example takes depends on who else uses the machine
settings.load_profile("seawall")


def pytest_collection_finish() -> None:
    """Takes what the imports and thousands of collected tests hold out of the collector's sight.

    Going through it all takes some half a second each time: longer than the time-outs that some tests set.
    """
    gc.collect()
    gc.freeze()
