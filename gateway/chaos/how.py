"""The ways to break a process."""

from __future__ import annotations

from enum import StrEnum


class How(StrEnum):
    """`kill`: SIGKILL, the process is gone. `freeze`: SIGSTOP, it hangs with its connections open, then SIGCONT."""

    KILL = "kill"
    FREEZE = "freeze"
