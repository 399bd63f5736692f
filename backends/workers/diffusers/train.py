"""Trains the built-in image model on generated pictures, on one CPU core.

`python -m backends.workers.diffusers.train [--minutes 90] [--seed 7] [--resume DIR] [--out DIR]`
"""

import argparse
import copy
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from backends.workers.diffusers.corpus import UNSPECIFIED, draw, random_scene
from backends.workers.diffusers.model import MODEL_DIR, PromptEncoder, new_scheduler, new_unet, predict, to_patches

_BATCH = 32
_POOL = 12_000
_PEAK_RATE = 1.5e-3
_WARMUP_STEPS = 100
_EMA_DECAY = 0.998
_DROP_PROMPT = 0.1
_DROP_SLOT = 0.08
_MAX_WEIGHT = 2.5
#: Below 1: noisier pictures more often, in which all but the prompt is lost.
_EARLY = 0.7
_SAVE_EVERY_S = 120.0
_REPORT_EVERY = 100


class _Networks(torch.nn.Module):
    """The two trained networks as one module, for one optimizer and one moving average."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = new_unet()
        self.encoder = PromptEncoder()


def pictures(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` drawn pictures (uint8, count x 3 x 64 x 64) and their slots (count x 6)."""
    rng = random.Random(seed)
    scenes = [random_scene(rng) for _ in range(count)]
    images = np.stack([np.asarray(draw(scene, rng)) for scene in scenes])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor([s.slots() for s in scenes])


def with_dropped_slots(slots: torch.Tensor) -> torch.Tensor:
    """Blanks single slots and whole prompts at random, so that any part of a prompt may be left out."""
    dropped = (torch.rand(slots.shape) < _DROP_SLOT) | (torch.rand(len(slots), 1) < _DROP_PROMPT)
    return slots.masked_fill(dropped, UNSPECIFIED)


def save(networks: _Networks, out: Path) -> None:
    """Writes unet, prompt encoder and scheduler under `out`, weights in float16."""
    stored = copy.deepcopy(networks).half()
    unet: UNet2DConditionModel = stored.unet
    unet.save_pretrained(out / "unet", safe_serialization=True)
    stored.encoder.save_pretrained(out / "prompt_encoder", safe_serialization=True)
    new_scheduler().save_pretrained(out / "scheduler")


def load(folder: Path) -> _Networks:
    """The networks that `save` wrote, in float32. Raises OSError if they are missing."""
    networks = _Networks()
    networks.unet = UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False).float()
    networks.encoder = PromptEncoder.from_pretrained(folder / "prompt_encoder", low_cpu_mem_usage=False).float()
    return networks


def train(minutes: float, seed: int, resume: Path | None, out: Path) -> None:
    """Trains for `minutes` of wall-clock time, saving the averaged weights to `out` every two minutes.

    Goes on from the weights in `resume`, if given.
    """
    torch.manual_seed(seed)
    images, slots = pictures(_POOL, seed)
    networks = load(resume) if resume is not None else _Networks()
    averaged = copy.deepcopy(networks).requires_grad_(False)
    optimizer = torch.optim.AdamW(networks.parameters(), lr=_PEAK_RATE, weight_decay=1e-3, betas=(0.9, 0.98))
    scheduler = new_scheduler()
    started = saved = time.monotonic()
    step, total = 0, 0.0
    while (done := (time.monotonic() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = _PEAK_RATE * _schedule(step, done)
        chosen = torch.randint(len(images), (_BATCH,))
        clean = to_patches(images[chosen].float() / 127.5 - 1)
        timesteps = (1000 * torch.rand(_BATCH) ** _EARLY).long()
        noisy = scheduler.add_noise(clean, torch.randn_like(clean), timesteps)  # type: ignore[arg-type]
        with torch.autocast("cpu", torch.bfloat16):
            predicted = predict(networks.unet, noisy, timesteps, networks.encoder(with_dropped_slots(slots[chosen])))
        kept = scheduler.alphas_cumprod[timesteps]
        # The error in the velocity is the error in the image times 1 / (1 - alpha); clipped, as in Hang et al. 2023.
        weight = (1 / (1 - kept)).clamp(max=_MAX_WEIGHT)
        loss = (weight * (predicted.float() - clean).square().mean(dim=(1, 2, 3))).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimizer.step()
        step, total = step + 1, total + loss.item()
        decay = min(_EMA_DECAY, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(averaged.parameters()), list(networks.parameters()), 1 - decay)
        if step % _REPORT_EVERY == 0:
            print(f"step {step} {time.monotonic() - started:.0f} s loss {total / _REPORT_EVERY:.4f}", flush=True)
            total = 0.0
        if time.monotonic() - saved > _SAVE_EVERY_S:
            saved = time.monotonic()
            save(averaged, out)
    save(averaged, out)


def _schedule(step: int, done: float) -> float:
    """Warm-up, then a cosine from 1 to 0.02 as `done` goes from 0 to 1."""
    return min(1.0, (step + 1) / _WARMUP_STEPS) * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--resume", type=Path, help="weights to go on from; none: from scratch")
    parser.add_argument("--out", type=Path, default=MODEL_DIR)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train(arguments.minutes, arguments.seed, arguments.resume, arguments.out)


if __name__ == "__main__":
    main()
