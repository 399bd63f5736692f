from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from gateway.observe import line_writer
from gateway.observe.line_writer import LineWriter

LINE = b"x" * 99 + b"\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        with contextlib.suppress(OSError):
            os.close(fd)


def read_exactly(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(fd, size - len(data))
    return data


def test_a_lone_line_is_written_after_the_interval(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1], interval=0.01)
    writer.write(LINE)
    assert read_exactly(pipe[0], len(LINE)) == LINE
    writer.close()


def test_a_full_batch_is_written_without_waiting_for_the_interval(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1], interval=3600, batch=1000)
    for _ in range(10):
        writer.write(LINE)
    assert read_exactly(pipe[0], 1000) == LINE * 10
    writer.close()


def test_flush_waits_until_all_is_written(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1], interval=3600)
    writer.write(LINE)
    assert writer.flush()
    os.set_blocking(pipe[0], False)
    assert os.read(pipe[0], 1000) == LINE
    writer.close()


def test_close_writes_the_rest_and_further_lines_are_counted_as_dropped(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1], interval=3600)
    writer.write(LINE)
    writer.close()
    writer.write(LINE)
    assert read_exactly(pipe[0], len(LINE)) == LINE
    assert writer.dropped == 1


@pytest.mark.parametrize("blocking", [True, False])
def test_a_stuck_reader_costs_lines_and_never_memory_or_order(pipe: tuple[int, int], blocking: bool) -> None:
    os.set_blocking(pipe[1], blocking)
    writer = LineWriter(pipe[1], interval=0, batch=1000, max_pending=200_000)
    lines = [b"%07d\n" % number for number in range(100_000)]  # 800 kB; the pipe takes 64 KiB
    for line in lines:
        writer.write(line)
    assert writer.dropped > 0
    assert not writer.flush(timeout=0.01)
    kept = len(lines) - writer.dropped
    read = read_exactly(pipe[0], kept * 8).splitlines(keepends=True)
    assert read == sorted(set(read))
    assert read[:1000] == lines[:1000]
    writer.write(LINE)  # the reader is back
    assert read_exactly(pipe[0], len(LINE)) == LINE
    writer.close()


def test_lines_that_cannot_be_written_are_counted_and_later_ones_written(pipe: tuple[int, int]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    writer = LineWriter(full, interval=0)
    for number in (1, 2):
        writer.write(LINE)
        assert writer.flush()
        assert writer.dropped == number
    os.dup2(pipe[1], full)  # there is room again
    writer.write(LINE)
    assert read_exactly(pipe[0], len(LINE)) == LINE
    assert writer.dropped == 2
    writer.close()
    os.close(full)


def test_a_line_that_was_cut_off_does_not_spoil_the_next(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = [150]

    def until_full(fd: int, data: bytes, write: Callable[[int, bytes], int] = os.write) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(fd, bytes(data[: room[0]]))
        room[0] -= written
        return written

    monkeypatch.setattr(line_writer.os, "write", until_full)
    writer = LineWriter(pipe[1], interval=3600)
    for _ in range(3):
        writer.write(LINE)
    assert writer.flush()
    assert writer.dropped == 2
    room[0] = 1000
    writer.write(LINE)
    assert writer.flush()
    assert read_exactly(pipe[0], 251) == LINE + LINE[:50] + b"\n" + LINE
    writer.close()


def test_a_reader_that_left_costs_the_lines(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1], interval=0)
    os.close(pipe[0])
    for _ in range(2):
        writer.write(LINE)
        assert writer.flush()
    assert writer.dropped == 2
    writer.close()


def test_lines_of_several_threads_stay_whole(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1], interval=0.001, max_pending=10_000_000)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(read_exactly(pipe[0], 4 * 2000 * 100)))
    reader.start()
    threads = [
        threading.Thread(target=lambda mark=mark: [writer.write(mark * 99 + b"\n") for _ in range(2000)])
        for mark in (b"a", b"b", b"c", b"d")
    ]
    for thread in threads:
        thread.start()
    for thread in [*threads, reader]:
        thread.join()
    writer.close()
    lines = received[0].splitlines()
    assert sorted(set(lines)) == [mark * 99 for mark in (b"a", b"b", b"c", b"d")]
    assert writer.dropped == 0
