"""Finds and loads a pipeline: the built-in one, or any diffusers text-to-image pipeline in a local folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from backends.workers.diffusers.painter import Painter
from backends.workers.diffusers.protocol import Drawing, SizeRules

BUILT_IN = "shoal"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A pipeline ready to draw, what sizes it takes, and the steps it does when none are asked for."""

    name: str
    painter: Painter
    rules: SizeRules
    default_steps: int


def load(pipeline: str, device: str = "auto", *, max_pixels: int | None = None, max_steps: int = 100) -> Loaded:
    """Loads the built-in pipeline or the one in the folder `pipeline`; `device` is torch's name for one, or `auto`.

    The memory and the kernels of a first image are paid here. Raises OSError or ValueError if there is no such
    pipeline, RuntimeError if the device cannot take it.
    """
    chosen = torch.device(device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    if chosen.type == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    loaded = (
        _built_in(chosen, max_steps) if pipeline == BUILT_IN else _local(Path(pipeline), chosen, max_pixels, max_steps)
    )
    width, height = loaded.rules.default
    loaded.painter.paint([(Drawing("a circle", "", width, height, 2, None), 0)], lambda _step: None)
    return loaded


def _built_in(device: torch.device, max_steps: int) -> Loaded:
    from backends.workers.diffusers.pipeline import ShoalPipeline

    pipeline = ShoalPipeline.load().to(device)
    pipeline.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]
    return Loaded(
        BUILT_IN,
        Painter(pipeline, 8, editor=pipeline),
        SizeRules((64, 64), 8, 1024 * 1024, max_steps),
        default_steps=20,
    )


def _local(folder: Path, device: torch.device, max_pixels: int | None, max_steps: int) -> Loaded:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    if not (folder / "model_index.json").is_file():
        raise ValueError(
            f"{folder} is not a diffusers pipeline: it has no model_index.json. Give the folder of a pipeline saved "
            f"with save_pretrained(), or {BUILT_IN} for the built-in one."
        )
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True, torch_dtype=dtype).to(device)
    pipeline.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]
    scale = int(getattr(pipeline, "vae_scale_factor", 8))
    network = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    side = int(getattr(getattr(network, "config", None), "sample_size", 64)) * scale
    rules = SizeRules((side, side), max(8, scale), max_pixels or max(1024 * 1024, side * side), max_steps)
    painter = Painter(pipeline, rules.multiple, _editor(pipeline))
    return Loaded(folder.name, painter, rules, default_steps=30)


def _editor(pipeline: Any) -> Any:
    """The image-to-image pipeline of the same networks, or None where diffusers has none for their kind."""
    from diffusers.pipelines.auto_pipeline import AutoPipelineForImage2Image

    try:
        editor = AutoPipelineForImage2Image.from_pipe(pipeline)  # type: ignore[no-untyped-call]
    except ValueError:
        return None
    editor.set_progress_bar_config(disable=True)
    return editor
