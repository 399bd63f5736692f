"""`python -m benchmarks.gpu`: the text and the image worker on this machine's GPU, in one JSON document.

Without a GPU it measures the CPU, says so, and leaves out what only a GPU can show.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from backends.workers.gpu import Gpus, open_nvml, open_torch
from benchmarks.gpu import memory, rates
from benchmarks.gpu.stack import image_options, running, tell, text_options

_RESULTS = Path(__file__).parents[1] / "results"


def main() -> int:
    """The command line; the exit status is 1 where a worker did not survive."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--text", help="folder of a transformers model; default: one of a billion random weights")
    parser.add_argument(
        "--pipeline",
        help="folder of a diffusers pipeline; default: Stable Diffusion 1.5's networks, random weights",
    )
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each turn")
    parser.add_argument("--steps", type=int, default=20, help="of each image")
    parser.add_argument("--leave", type=int, default=600, help="MiB of memory left when provoking out of memory")
    parser.add_argument("--side", type=int, default=1024, help="of the images that are to run out of memory")
    parser.add_argument("--only", nargs="+", choices=("text", "images"), default=("text", "images"), help="which parts")
    parser.add_argument("--save", action="store_true", help="keep the document in benchmarks/results")
    given = parser.parse_args()
    document = asyncio.run(_measure(given))
    print(json.dumps(document, indent=2))
    if given.save:
        name = f"gpu-{time.strftime('%Y%m%dT%H%M', time.gmtime())}.json"
        (_RESULTS / name).write_text(json.dumps(document, indent=2) + "\n")
    provoked = [document[part]["out_of_memory"] for part in given.only]
    return 0 if all(part.get("survived", True) for part in provoked) else 1


async def _measure(given: argparse.Namespace) -> dict[str, Any]:
    import torch

    has_gpu = torch.cuda.is_available()
    device = given.device if has_gpu else "cpu"
    found, message, _ = Gpus(open_nvml, open_torch).read()
    document: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        "device": torch.cuda.get_device_name(device) if has_gpu else f"no GPU ({message}); CPU, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "gpus_before": [gpu.as_json() for gpu in found],
        "gpus_as_torch_tells_them": [gpu.as_json() for gpu in Gpus(open_torch).read()[0]],
    }
    env = {"PYTHONPATH": os.pathsep.join(["."] + [path for path in sys.path if path])}
    for part in given.only:
        with tempfile.TemporaryDirectory() as work:
            measure = _text if part == "text" else _images
            document[part] = await measure(given, Path(work), device if has_gpu else None, env)
            document[f"gpus_after_{part}"] = _devices()
    return document


async def _text(given: argparse.Namespace, work: Path, gpu: str | None, env: dict[str, str]) -> dict[str, Any]:
    tell("making and loading a text model")
    model = given.text or (_random_model(work) if gpu else "tide-mini")
    async with running("embedded", "embedded", *text_options(model, gpu or "cpu"), env=env) as stack:
        told: dict[str, Any] = {"model": Path(model).name, "rates": await rates.text(stack, given.seconds)}
        told["first_token_seconds"] = await rates.first_token(stack)
        length = await _context(stack.session, stack.direct)
        told["out_of_memory"] = await memory.text(stack, gpu, given.leave, length) if gpu else {"left_out": "no GPU"}
    return told


async def _images(given: argparse.Namespace, work: Path, gpu: str | None, env: dict[str, str]) -> dict[str, Any]:
    tell("making and loading a pipeline")
    pipeline = given.pipeline or (_random_pipeline(work) if gpu else "shoal")
    async with running("diffusers", "diffusers", *image_options(pipeline, gpu or "cpu"), env=env) as stack:
        told: dict[str, Any] = {"pipeline": Path(pipeline).name, "steps": given.steps}
        told["rates"] = await rates.images(stack, given.seconds, given.steps)
        told["out_of_memory"] = (
            await memory.images(stack, gpu, given.leave, given.side) if gpu else {"left_out": "no GPU"}
        )
    return told


def _devices() -> list[dict[str, Any]]:
    return [gpu.as_json() for gpu in Gpus(open_nvml, open_torch).read()[0]]


async def _context(session: Any, url: str) -> int:
    async with session.get(f"{url}/v1/models") as answer:
        return int((await answer.json())["data"][0]["max_model_len"])


def _random_model(folder: Path) -> str:
    """A Llama of about a billion random weights: its speed is that of a real one, and nothing is to be downloaded."""
    from transformers import LlamaConfig

    from tests.support.hf_models import save_random

    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        bos_token_id=0,
        eos_token_id=1,
        dtype="bfloat16",
    )
    save_random(folder / "llama-random-1b", config)
    return str(folder / "llama-random-1b")


def _random_pipeline(folder: Path) -> str:
    """Stable Diffusion 1.5 but for its weights: as fast, as large, and nothing is to be downloaded."""
    from tests.support.diffusion_models import save_stable_diffusion

    save_stable_diffusion(folder / "stable-diffusion-random", "full")
    return str(folder / "stable-diffusion-random")


if __name__ == "__main__":
    sys.exit(main())
