"""For all tests."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """Takes what the imports and thousands of collected tests hold out of the collector's sight.

    Going through it all takes some half a second each time: longer than the time-outs that some tests set.
    """
    gc.collect()
    gc.freeze()
