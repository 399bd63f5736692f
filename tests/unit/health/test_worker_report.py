"""What the gateway takes from the answer of a worker that is down."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.workers.load_failure import Cause, LoadFailure
from backends.workers.supervisor_report import answer_in_place
from backends.workers.supervisor_state import WorkerState
from gateway.health.worker_report import WorkerReport, device_failed, worker_report
from tests.support.workers import snapshot


@pytest.mark.parametrize(
    ("body", "failed"),
    [
        (b'{"status":"failed","error":{"message":"GPU 0: Xid 79","type":"device_failed"}}', True),
        (b'{"error":{"type":"model_loading"}}', False),
        (b'{"error":"device_failed"}', False),
        (b"[]", False),
        (b"", False),
    ],
)
def test_a_failed_device_is_told_by_its_type_alone(body: bytes, failed: bool) -> None:
    assert device_failed(body) is failed


def test_progress_and_lines_arrive_without_credentials() -> None:
    lines = ("Loading with token hf_abcdefgh", *[f"line {number}" for number in range(30)])
    answer = answer_in_place(snapshot(WorkerState.LOADING, progress=0.5, last_lines=lines))
    report = worker_report(orjson.dumps(answer))
    assert report.loading == "loading its model, 50% done"
    assert (len(report.last_lines), report.last_lines[-1]) == (20, "line 29")
    few = worker_report(orjson.dumps(answer_in_place(snapshot(WorkerState.LOADING, last_lines=lines[:1]))))
    assert (few.loading, few.last_lines) == ("loading its model", ("Loading with token [redacted]",))


def test_the_cause_arrives_with_advice() -> None:
    failure = LoadFailure(Cause.MEMORY, "CUDA out of memory at 10.0.0.5")
    answer = answer_in_place(snapshot(WorkerState.FAILED, failure=failure, last_error="exited with status 1"))
    assert answer["error"]["type"] == "model_loading_failed"
    report = worker_report(orjson.dumps(answer))
    assert report.failed.startswith("its model cannot be loaded: out_of_memory. Free memory on the device")
    assert "10.0.0.5" not in report.failed


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"error": "Loading model"}',
        b'{"error": {"message": "Loading model", "code": 503}}',
        b'{"error": {"worker": {"progress": null, "cause": {}, "last_lines": 7}}}',
        b'{"error": {"worker": {"progress": [], "cause": "made up", "last_lines": [1, null]}}}',
    ],
)
def test_any_other_answer_is_an_empty_report(body: bytes) -> None:
    assert worker_report(body) == WorkerReport()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_report(body: bytes) -> None:
    assert isinstance(worker_report(body), WorkerReport)
