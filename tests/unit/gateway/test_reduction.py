"""Requests made smaller."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.reduction import reduction, told


@pytest.mark.parametrize(
    ("body", "factor", "fields"),
    [
        ({"max_tokens": 100, "min_tokens": 60, "n": 4, "best_of": 4}, 0.5,
         {"max_tokens": 50, "min_tokens": 30, "n": 2, "best_of": 2}),
        ({"max_completion_tokens": 9}, 0.7, {"max_completion_tokens": 6}),
        ({"max_tokens": 1, "n": 1}, 0.5, {}),
        ({"max_tokens": True, "n": "2", "steps": None}, 0.5, {}),
        ({"num_inference_steps": 30, "size": "1024x1024"}, 0.5, {"num_inference_steps": 15, "size": "704x704"}),
        ({"size": " 768 X 512 "}, 0.5, {"size": "512x320"}),
        ({"size": "64x64"}, 0.5, {"size": "32x32"}),
        ({"size": "8x8"}, 0.5, {}),
        ({"size": "auto"}, 0.5, {}),
        ({"size": "1023x1023"}, 0.5, {}),
        ({"width": 512, "height": 512}, 0.25, {"width": 256, "height": 256}),
        ({"width": 512}, 0.25, {}),
        ({"max_tokens": 2000, "thinking": {"budget_tokens": 1500}, "n": 2}, 0.5, {"n": 1}),
    ],
)  # fmt: skip
def test_what_becomes_smaller(body: dict[str, Any], factor: float, fields: dict[str, Any]) -> None:
    assert reduction(body.get, factor, resolution=True) == fields


def test_the_size_of_images_stays_where_it_is_not_to_change() -> None:
    assert reduction({"size": "1024x1024", "steps": 4}.get, 0.5, resolution=False) == {"steps": 2}


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([8, 16, 64]), st.floats(0.05, 0.95))
def test_pixels_shrink_by_the_factor_and_sides_stay_multiples(a: int, b: int, unit: int, factor: float) -> None:
    width, height = a * unit, b * unit
    smaller = reduction({"width": width, "height": height}.get, factor, resolution=True)
    if smaller:
        assert smaller["width"] * smaller["height"] <= factor * width * height * (1 + 1e-9)
        assert smaller["width"] % 8 == smaller["height"] % 8 == 0
        assert min(smaller.values()) > 0


def test_the_change_is_told_in_words() -> None:
    body = {"max_tokens": 512, "size": "1024x1024"}
    words = told(body.get, {"max_tokens": 256, "size": "704x704"})
    assert words == "max_tokens 512 -> 256, size 1024x1024 -> 704x704"
