"""Becomes a worker's server process, and sees to it that nothing of it outlives the supervisor.

Run by path in a session of its own, with a pipe that only the supervisor holds open for writing:
`python -I -S supervisor_launch.py PIPE_FD PROGRAM ARGUMENT…`. Two guards, because each misses a case: the kernel kills
the server when its parent dies (Linux; it does not reach the server's own children), and a watcher in the same process
group kills the whole group when the pipe ends (anywhere, but the watcher itself might be killed).
"""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def launch(pipe: int, argv: list[str]) -> None:
    """Replaces this process by `argv`; exit status 127 with a line on stderr when that cannot be."""
    _start_watcher(pipe)
    os.close(pipe)
    _die_with_parent()
    try:
        os.execvp(argv[0], argv)  # noqa: S606  # no shell is the point
    except OSError as error:
        print(f"cannot start {argv[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127)


def _start_watcher(pipe: int) -> None:
    middle = os.fork()
    if middle:
        os.waitpid(middle, 0)
        return
    if os.fork() == 0:  # a grandchild: the server must never find a child that it did not start
        _watch(pipe)
    os._exit(0)


def _watch(pipe: int) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # held open, the output's end would never be seen
        os.dup2(null, standard)
    while os.read(pipe, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    launch(int(sys.argv[1]), sys.argv[2:])
