"""guidellm, a load generator for model servers, against the gateway: it takes it for one and sees no fault of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.demo import Demo
from tests.support import parts
from tests.support.figures import Figures
from tests.support.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.nightly]
VERSION = "0.8.1"
REQUESTS, STREAMS, TOKENS = 40, 4, 24


@pytest.fixture(scope="session")
def guidellm() -> Path:
    """The program, in an environment of its own (some 2 GB)."""
    return parts.environment("guidellm", f"guidellm=={VERSION}") / "guidellm"


def measured(program: Path, url: str, folder: Path) -> dict[str, Any]:
    """What it reports of one run: requests by outcome and distributions of times."""
    prompts, report = folder / "prompts.txt", folder / "report.json"
    prompts.write_text("\n".join(f"Tell me a story about whale number {number}." for number in range(REQUESTS)))
    backend = f"kind=openai_http,target={url},model=tide,max_tokens={TOKENS},http2=false,timeout=60"
    argv = [
        *(program, "run", "--disable-console"),
        *("--backend", backend),
        *("--profile", f"kind=concurrent,streams={STREAMS}"),
        *("--constraint", f"kind=max_requests,count={REQUESTS}"),
        *("--data", f"kind=text_file,path={prompts}"),
        *("--output", f"kind=json,path={report}"),
    ]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=400, cwd=folder, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(report.read_text())["benchmarks"][0]
    return found


def read(report: dict[str, Any], name: str) -> dict[str, float]:
    """The distribution of a figure over the successful requests."""
    found: dict[str, float] = report["metrics"][name]["successful"]
    return found


def note(figures: Figures, report: dict[str, Any], when: str) -> None:
    for name, unit in (
        ("time_to_first_token_ms", "ms"),
        ("inter_token_latency_ms", "ms"),
        ("output_tokens_per_second", "/s"),
    ):
        figures.add(f"guidellm, {when}: {name} median", read(report, name)["median"], unit)


def test_it_measures_what_the_worker_does(demo: Demo, guidellm: Path, tmp_path: Path, figures: Figures) -> None:
    report = measured(guidellm, demo.url, tmp_path)
    note(figures, report, "all well")
    assert report["metrics"]["request_totals"] == {
        "successful": REQUESTS,
        "errored": 0,
        "incomplete": 0,
        "total": REQUESTS,
    }
    assert read(report, "output_token_count")["max"] <= TOKENS
    assert 0 < read(report, "time_to_first_token_ms")["median"] < 5000
    assert 15 < read(report, "inter_token_latency_ms")["median"] < 60  # the workers' pace: 40 tokens a second
    assert read(report, "output_tokens_per_second")["mean"] > 20


def test_it_sees_no_error_when_a_worker_is_killed_under_it(
    demo: Demo, guidellm: Path, tmp_path: Path, figures: Figures
) -> None:
    def worker() -> dict[str, Any]:
        backends = json.loads(demo.get("/admin/state"))["backends"]
        found: dict[str, Any] = next(each for each in backends if each["name"] == "tide-a")
        return found

    before = worker()["worker"]

    def kill() -> None:
        wait_until(lambda: worker()["in_flight"] > 0, 120, "the load")
        os.kill(before["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    report = measured(guidellm, demo.url, tmp_path)
    killer.join()
    note(figures, report, "with a killed worker")
    assert report["metrics"]["request_totals"] == {
        "successful": REQUESTS,
        "errored": 0,
        "incomplete": 0,
        "total": REQUESTS,
    }
    assert worker()["worker"]["restarts"] == before["restarts"] + 1
    wait_until(lambda: (worker()["healthy"] and demo.breaker("tide-a") == 0) or ask(demo), 60, "tide-a's return")


def ask(demo: Demo) -> bool:
    """A circuit closes by good answers alone."""
    demo.post(
        "/v1/chat/completions", {"model": "tide", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    )
    return False
