"""Draws batches with a pipeline, and copes with memory running out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from PIL import Image

from backends.workers.diffusers.protocol import Drawing
from backends.workers.memory import free_cache, is_out_of_memory


class Pipeline(Protocol):
    """What is used of a `diffusers` text-to-image pipeline."""

    @property
    def device(self) -> torch.device: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn image; `warning` says what was reduced, if anything."""

    image: Image.Image
    seed: int
    warning: str | None = None


class Painter:
    """Draws with one pipeline, on one thread. `multiple`: what widths and heights must be a multiple of, in pixels.

    `editor` is the same model's image-to-image pipeline, None where it has none.
    """

    def __init__(self, pipeline: Pipeline, multiple: int, editor: Pipeline | None = None) -> None:
        self._pipeline = pipeline
        self._editor = editor
        self._multiple = multiple
        self.device = pipeline.device

    @property
    def edits(self) -> bool:
        """Whether it can start from an image."""
        return self._editor is not None

    def paint(self, drawings: Sequence[tuple[Drawing, int]], on_step: Callable[[int], None]) -> list[Picture]:
        """Draws like drawings, each with its seed, in one batch; the same seed gives the same picture.

        `on_step(step)` is called after each step, from 1, and may raise to stop. When memory runs out: one by one, then
        each once more with half the width and height. Raises what the pipeline raises, the last failed allocation too.
        """
        try:
            return self._once(drawings, on_step)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        free_cache(self.device)  # outside the handler: its traceback keeps the tensors of the failed batch alive
        if len(drawings) > 1:
            return [picture for drawing in drawings for picture in self.paint([drawing], on_step)]
        return self._smaller(drawings[0], on_step)

    def _smaller(self, drawn: tuple[Drawing, int], on_step: Callable[[int], None]) -> list[Picture]:
        drawing, seed = drawn
        smaller = replace(drawing, width=self._half(drawing.width), height=self._half(drawing.height))
        if drawing.source is not None:
            smaller = replace(smaller, source=drawing.source.resize((smaller.width, smaller.height)))
        try:
            pictures = self._once([(smaller, seed)], on_step)
        except Exception:
            free_cache(self.device)
            raise
        warning = (
            f"There was not enough memory for {drawing.width}x{drawing.height} pixels; "
            f"this image has {smaller.width}x{smaller.height}."
        )
        return [replace(picture, warning=warning) for picture in pictures]

    def _half(self, side: int) -> int:
        return max(self._multiple, side // 2 // self._multiple * self._multiple)

    def _once(self, drawings: Sequence[tuple[Drawing, int]], on_step: Callable[[int], None]) -> list[Picture]:
        first = drawings[0][0]

        def stepped(_pipeline: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            on_step(step + 1)
            return tensors

        options: dict[str, Any] = {} if first.guidance is None else {"guidance_scale": first.guidance}
        negatives = [drawing.negative_prompt for drawing, _ in drawings]
        if any(negatives):
            options["negative_prompt"] = negatives
        pipeline = self._pipeline
        if first.source is None:
            options |= {"width": first.width, "height": first.height}
        else:
            assert self._editor is not None
            pipeline = self._editor
            options |= {"image": [drawing.source for drawing, _ in drawings], "strength": first.strength}
        drawn = pipeline(
            [drawing.prompt for drawing, _ in drawings],
            num_inference_steps=first.steps,
            generator=[torch.Generator(self.device).manual_seed(seed) for _, seed in drawings],
            callback_on_step_end=stepped,
            **options,
        )
        return [Picture(image, seed) for image, (_, seed) in zip(drawn.images, drawings, strict=True)]
