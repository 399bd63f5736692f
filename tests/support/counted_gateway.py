"""`seawall serve` that, on SIGUSR1, writes a line with how much it holds: what a soak compares before and after."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from gateway.cli import main


def counts() -> dict[str, Any]:
    """Descriptors, tasks, timers (of uvloop or asyncio), and objects that the collector knows, with common kinds."""
    for _ in range(2):
        gc.collect()
    kinds = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())
    tasks: set[asyncio.Task[Any]] = set()
    with contextlib.suppress(RuntimeError):
        tasks = asyncio.all_tasks()
    return {
        "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "tasks": len(tasks),
        "timers": kinds["uvloop.loop.TimerHandle"] + kinds["asyncio.events.TimerHandle"],
        "objects": kinds.total(),
        "kinds": dict(kinds.most_common(40)),
    }


def _write(*_: object) -> None:
    os.write(1, b"counts " + json.dumps(counts()).encode() + b"\n")


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _write)
    main()
