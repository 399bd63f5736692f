"""The built-in image model as a `diffusers` pipeline, called like any text-to-image pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from PIL import Image

from backends.workers.diffusers.corpus import SIZE
from backends.workers.diffusers.model import CHANNELS, GRID, MODEL_DIR, PromptEncoder, predict, to_patches, to_pixels

OnStep = Callable[["ShoalPipeline", int, Any, dict[str, Any]], dict[str, Any]]


class ShoalPipeline(DiffusionPipeline):
    """Draws coloured shapes at 64x64 pixels; other sizes are scaled from that."""

    def __init__(self, unet: UNet2DConditionModel, prompt_encoder: PromptEncoder, scheduler: DDIMScheduler) -> None:
        super().__init__()
        self.register_modules(unet=unet, prompt_encoder=prompt_encoder, scheduler=scheduler)  # type: ignore[no-untyped-call]

    @classmethod
    def load(cls, folder: Path = MODEL_DIR) -> ShoalPipeline:
        """Reads the trained networks. Raises OSError if they are missing."""
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False).float()
        encoder = PromptEncoder.from_pretrained(folder / "prompt_encoder", low_cpu_mem_usage=False).float()
        return cls(unet, encoder, DDIMScheduler.from_pretrained(folder / "scheduler"))

    @torch.inference_mode()
    def __call__(
        self,
        prompt: Sequence[str],
        *,
        negative_prompt: Sequence[str] | None = None,
        image: Sequence[Image.Image] | None = None,
        strength: float = 0.8,
        height: int = SIZE,
        width: int = SIZE,
        num_inference_steps: int = 20,
        guidance_scale: float = 1.5,
        generator: Sequence[torch.Generator] | None = None,
        callback_on_step_end: OnStep | None = None,
    ) -> ImagePipelineOutput:
        """One picture for each prompt, as PIL images; sizes in pixels.

        With an `image` for each prompt, that is what the picture starts from, noised by `strength` (SDEdit, Meng et al.
        2022), and the sizes are theirs.
        `callback_on_step_end(pipeline, step, timestep, {})` may raise to stop between two steps.
        """
        device = self.unet.device
        generators = generator or [torch.Generator(device).manual_seed(0) for _ in prompt]
        prompts = self.prompt_encoder.encode([*(negative_prompt or [""] * len(prompt)), *prompt])
        noise = [torch.randn((CHANNELS, GRID, GRID), generator=one, device=device) for one in generators]
        patches = torch.stack(noise)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        timesteps = self.scheduler.timesteps
        if image is not None:
            width, height = image[0].size
            timesteps = timesteps[num_inference_steps - max(1, round(num_inference_steps * strength)) :]
            patches = self.scheduler.add_noise(_patches(image, device), patches, timesteps[:1])
        for step, timestep in enumerate(timesteps):
            away, towards = predict(self.unet, torch.cat([patches, patches]), timestep, prompts).chunk(2)
            patches = self.scheduler.step(away + guidance_scale * (towards - away), timestep, patches).prev_sample
            if callback_on_step_end is not None:
                callback_on_step_end(self, step, timestep, {})
        levels = ((to_pixels(patches).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        images = [Image.fromarray(each.cpu().numpy()) for each in levels]
        if (width, height) != (SIZE, SIZE):
            images = [drawn.resize((width, height), Image.Resampling.LANCZOS) for drawn in images]
        return ImagePipelineOutput(images=images)


def _patches(images: Sequence[Image.Image], device: torch.device) -> torch.Tensor:
    """What the denoiser would have made these images of."""
    levels = [np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)) for image in images]
    pixels = torch.from_numpy(np.stack(levels)).to(device).permute(0, 3, 1, 2)
    return to_patches(pixels.float() / 127.5 - 1)
