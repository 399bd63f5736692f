"""Waiting for what a test has brought about, without guessing how long it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def eventually(condition: Callable[[], object], timeout: float = 10.0, every: float = 0.005) -> None:
    """Returns once `condition()` is true. Raises TimeoutError after `timeout` seconds."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - the condition is anyone's
            await asyncio.sleep(every)
