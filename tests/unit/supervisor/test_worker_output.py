"""What a worker's output and exit status are turned into."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.workers.load_failure import telling_line
from backends.workers.supervisor import Supervisor, WorkerSpec
from backends.workers.supervisor_process import LineSplitter, describe_exit

BIND_FAILED = [
    "INFO: Started server process [71]",
    "ERROR: [Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address already in use",
    "INFO: Waiting for application shutdown.",
]


def all_lines(splitter: LineSplitter, *chunks: bytes) -> list[str]:
    return [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.end()


def test_lines_end_at_newlines_and_at_the_carriage_returns_of_progress_bars() -> None:
    assert all_lines(LineSplitter(), b"a\r\nb\n\n 10%\r 20%\rend") == ["a", "b", " 10%", " 20%", "end"]


def test_a_line_that_never_ends_is_bounded() -> None:
    assert all_lines(LineSplitter(limit=10), *[b"x" * 1000] * 100, b"\nnext") == ["x" * 10, "next"]


@given(st.text(max_size=200), st.lists(st.integers(0, 400), max_size=10))
def test_lines_do_not_depend_on_where_the_chunks_are_cut(text: str, cuts: list[int]) -> None:
    data = text.encode()
    at = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    pieces = [data[a:b] for a, b in pairwise(at)]
    assert all_lines(LineSplitter(), *pieces) == all_lines(LineSplitter(), data)


@pytest.mark.parametrize(
    ("lines", "telling"),
    [
        (BIND_FAILED, BIND_FAILED[1]),
        (["Traceback (most recent call last):", "ValueError: bad weights"], "ValueError: bad weights"),
        (["loading", "bye"], "bye"),
        ([], ""),
    ],
)
def test_telling_line_is_the_last_that_speaks_of_an_error(lines: list[str], telling: str) -> None:
    assert telling_line(lines) == telling


@pytest.mark.parametrize(
    ("returncode", "text"),
    [
        (0, "exited with status 0"),
        (-15, "killed by SIGTERM"),
        (-9, "killed by SIGKILL (the kernel's out-of-memory killer, or someone's kill -9)"),
        (-200, "killed by signal 200"),
    ],
)
def test_exit_status_is_put_into_words(returncode: int, text: str) -> None:
    assert describe_exit(returncode) == text


def test_two_workers_of_one_name_are_refused() -> None:
    spec = WorkerSpec(name="a", argv=["true"], health_url="http://127.0.0.1:1/")
    with pytest.raises(ValueError, match="same name"):
        Supervisor([spec, spec])
