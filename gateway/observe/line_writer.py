"""Writes lines to a file descriptor without ever holding up the event loop."""

from __future__ import annotations

import fcntl
import os
import select
import threading

#: Bytes waiting at which a batch is written without waiting for more.
BATCH = 64 * 1024
#: Bytes waiting at most; further lines are dropped and counted.
MAX_PENDING = 1024 * 1024
_LINE_END = ord(b"\n")


class LineWriter:
    """Collects lines and has a thread write them in batches: when 64 KiB have come, or `interval` s after the first.

    A reader that is slow or stuck costs lines, never time: above `max_pending` bytes they are dropped and counted. So
    are those that cannot be written, on a full disk, say; the next ones are tried again.
    May be used from several threads. Call `close` to have the rest written. Where several processes write to one pipe,
    each locks the file `lock` meanwhile, as the kernel would mix lines of more than a page.
    """

    def __init__(
        self,
        fd: int,
        *,
        interval: float = 0.2,
        batch: int = BATCH,
        max_pending: int = MAX_PENDING,
        lock: int | None = None,
    ) -> None:
        self.dropped = 0
        self._fd = fd
        self._between = lock
        self._interval = interval
        self._batch = batch
        self._max_pending = max_pending
        self._lines: list[bytes] = []
        self._pending = 0  # bytes in `_lines` and in the batch being written
        self._closed = False
        self._cut = False  # what was written last is a part of a line
        self._lock = threading.RLock()  # the garbage collector may log while a line is taken
        self._some = threading.Event()  # there is something to write
        self._now = threading.Event()  # it should be written without waiting for more
        self._written = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Takes one line, its newline included."""
        with self._lock:
            if self._closed or self._pending + len(line) > self._max_pending:
                self.dropped += 1
                return
            self._lines.append(line)
            before = self._pending
            self._pending = before + len(line)
            if before == 0:
                self._some.set()
            if before < self._batch <= self._pending:
                self._now.set()

    def flush(self, timeout: float = 2.0) -> bool:
        """Waits until everything taken so far is written; False if that takes longer than `timeout` seconds."""
        self._now.set()
        with self._lock:
            return self._written.wait_for(lambda: self._pending == 0, timeout)

    def close(self, timeout: float = 2.0) -> None:
        """Writes the rest, for at most `timeout` seconds; what is still unwritten then is lost."""
        with self._lock:
            self._closed = True
        self._some.set()
        self._now.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._now.wait(self._interval)
            with self._lock:
                lines, self._lines = self._lines, []
                self._some.clear()
                self._now.clear()
                if self._closed:
                    self._some.set()
                    self._now.set()
            if lines:
                self._write_out(lines)
            elif self._closed:
                return

    def _write_out(self, lines: list[bytes]) -> None:
        data = b"".join((b"\n" * self._cut, *lines))
        written = self._write_locked(data)
        if written:
            self._cut = data[written - 1] != _LINE_END
        with self._lock:
            self._pending -= sum(map(len, lines))
            left = len(data) - written
            while left > 0 and lines:
                left -= len(lines.pop())
                self.dropped += 1
            if self._lines:
                self._some.set()
                if self._pending >= self._batch:
                    self._now.set()
            self._written.notify_all()

    def _write_locked(self, data: bytes) -> int:
        """Writes with no other process in between; how many bytes could be."""
        if self._between is None:
            return _write(self._fd, data)
        try:
            fcntl.lockf(self._between, fcntl.LOCK_EX)
        except OSError:
            return 0
        try:
            return _write(self._fd, data)
        finally:
            fcntl.lockf(self._between, fcntl.LOCK_UN)


def _write(fd: int, data: bytes) -> int:
    """Writes everything, however slowly it is taken, or as much as can be; how many bytes that was."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # someone made the descriptor non-blocking
            select.select([], [fd], [])
        except OSError:  # nobody reads any more, or the disk is full
            break
    return len(data) - len(rest)
