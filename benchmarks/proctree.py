"""CPU time and memory of a process and all its descendants, from /proc."""

from __future__ import annotations

import os
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def tree(pid: int) -> list[int]:
    """The process and its descendants that are alive."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        todo += children.get(one, [])
    return found


def cpu_seconds(pids: list[int]) -> float:
    """User and system time so far, ended threads and reaped children counted."""
    return sum(_TICK * sum(int(ticks) for ticks in fields[11:15]) for pid in pids if (fields := _stat(pid)))


def rss_bytes(pids: list[int]) -> int:
    """Resident memory; pages that processes share are counted for each."""
    return sum(_PAGE * int(fields[21]) for pid in pids if (fields := _stat(pid)))


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; none when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()
