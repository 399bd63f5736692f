"""The benchmark of the workers on a GPU runs whole; without one on the CPU, and says so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import torch

from benchmarks.gpu import memory
from benchmarks.gpu.stack import running, text_options
from tests.support.processes import ROOT

pytestmark = pytest.mark.slow


async def test_what_runs_out_of_memory_is_counted_by_how_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU nobody can take its memory away: a model that fits is served, a prompt that is too long is not."""

    @asynccontextmanager
    async def nobody(device: str, leave_mib: int) -> AsyncIterator[str]:
        yield "nothing"

    monkeypatch.setattr(memory, "_hog", nobody)
    env = {"PYTHONPATH": "."}
    async with running("embedded", "embedded", *text_options("tide-mini", "cpu"), env=env) as stack:
        told = await memory.text(stack, "cpu", 600, 256)
        assert (told["outcomes"], told["survived"]) == ({"200": 24}, True)
        refused = await memory.text(stack, "cpu", 600, 4000)
        assert (refused["outcomes"], refused["survived"]) == ({"400 context_length_exceeded": 24}, False)


def test_one_command_measures_both_workers_and_the_gateways_share() -> None:
    options = ["--seconds", "0.3", "--steps", "2", *(["--text", "tide-mini"] if not torch.cuda.is_available() else [])]
    command = [sys.executable, "-m", "benchmarks.gpu", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["date"].endswith("Z")
    for part, unit, crowds in (("text", "tokens", (1, 8, 32)), ("images", "images", (1, 4))):
        assert tuple(rate["at_a_time"] for rate in told[part]["rates"]) == crowds
        for rate in told[part]["rates"]:
            assert min(rate[f"{unit}_per_second_direct"], rate[f"{unit}_per_second_through_gateway"]) > 0
            assert rate["gateway_share_of_time"] < 1
    if torch.cuda.is_available():
        assert told["gpus_before"]
        assert told["text"]["out_of_memory"]["survived"]
        assert told["images"]["out_of_memory"]["survived"]
    else:
        assert told["device"].startswith("no GPU (")
        assert told["text"]["out_of_memory"] == told["images"]["out_of_memory"] == {"left_out": "no GPU"}
