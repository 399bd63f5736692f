"""A request made smaller: fewer tokens, steps and answers, after out of memory fewer pixels too."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import sqrt
from typing import Any

from policies.degrade import scaled

#: What a body may ask for, by the names that servers know it under. `min_tokens` must not come to lie above the rest.
_TOKENS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "min_tokens")
_OTHERS = ("num_inference_steps", "steps", "n", "best_of")
_SIZE = re.compile(r"\s*(\d{1,5})\s*[xX*]\s*(\d{1,5})\s*", re.ASCII)
#: Image servers take sides that are multiples of one of these; the largest that fits the request's own is kept to.
_MULTIPLES = (64, 32, 16, 8)


def reduction(field: Callable[[str], Any], factor: float, *, resolution: bool) -> dict[str, Any]:
    """The fields that a factor below 1 changes, with their new values; empty where the request names no amounts.

    `field` gives the body's field as it would be sent, None where it is missing. With `resolution`, the factor goes for
    the pixels of images as well.
    """
    # The budget for thinking has to be below the limit on tokens, which therefore stays as it is.
    names = _OTHERS if field("thinking") else _TOKENS + _OTHERS
    fields: dict[str, Any] = dict(scaled({name: _amount(field(name)) for name in names}, factor))
    if resolution:
        fields |= _fewer_pixels(field, factor)
    return fields


def told(field: Callable[[str], Any], fields: Mapping[str, Any]) -> str:
    """The change in words: `max_tokens 512 -> 256, size 1024x1024 -> 704x704`."""
    return ", ".join(f"{name} {str(field(name)).strip()} -> {value}" for name, value in fields.items())


def _amount(value: Any) -> int | None:
    return value if type(value) is int else None


def _fewer_pixels(field: Callable[[str], Any], factor: float) -> dict[str, Any]:
    width, height = _amount(field("width")), _amount(field("height"))
    if width is not None and height is not None:
        smaller = _smaller(width, height, factor)
        return {"width": smaller[0], "height": smaller[1]} if smaller else {}
    size = field("size")
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    smaller = _smaller(int(match[1]), int(match[2]), factor) if match else None
    return {"size": f"{smaller[0]}x{smaller[1]}"} if smaller else {}


def _smaller(width: int, height: int, factor: float) -> tuple[int, int] | None:
    """Sides with at most that share of the pixels, of about the same proportions; None when they can't be smaller."""
    side = sqrt(factor)
    for multiple in _MULTIPLES:
        if width % multiple == 0 and height % multiple == 0:
            new = (int(width * side) // multiple * multiple, int(height * side) // multiple * multiple)
            if min(new) > 0:
                return new
    return None
