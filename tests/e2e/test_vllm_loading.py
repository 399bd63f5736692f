"""Real vLLM that cannot load its model, and one that is no text generator; each alone, after the stack is gone."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import openai
import pytest

from tests.support.processes import wait_until
from tests.support.vllm.install import Installed
from tests.support.vllm.stack import START_TIMEOUT, VLLMWorker

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("damage", "cause"),
    [("cut", "bad_weights"), ("no memory", "out_of_memory")],
)
def test_a_model_that_does_not_load_says_why(installed: Installed, tmp_path: Path, damage: str, cause: str) -> None:
    model = tmp_path / "broken"
    shutil.copytree(installed.model, model)
    weights = model / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:100_000])
    gib = "400" if damage == "no memory" else "1"
    options = ("--max-failures", "0", "--linger", "300")
    worker = VLLMWorker(installed, *options, model=model, env={"VLLM_CPU_KVCACHE_SPACE": gib})
    try:
        wait_until(lambda: worker.state() == "failed", START_TIMEOUT, "the end of the attempts")
        assert worker.status()["cause"] == cause
        worker.process.terminate()
        assert worker.process.wait(30) == 1
        assert f"{cause}: " in worker.process.output
    finally:
        worker.process.close()


async def test_an_embedding_model_is_served_and_its_probe_does_not_kill_it(installed: Installed) -> None:
    worker = VLLMWorker(installed, "--liveness-timeout", "2", flags=["--runner", "pooling", "--convert", "embed"])
    try:
        await asyncio.to_thread(worker.wait_ready)
        async with openai.AsyncOpenAI(base_url=f"{worker.url}/v1", api_key="none") as client:
            answer = await client.embeddings.create(model="tiny", input=["seal", "crab"], encoding_format="float")
            assert [len(each.embedding) for each in answer.data] == [128, 128]
            await asyncio.sleep(5)  # several probes, which an embedding model answers with 404
        assert (worker.state(), worker.status()["restarts"]) == ("ready", 0)
    finally:
        await asyncio.to_thread(worker.close)
