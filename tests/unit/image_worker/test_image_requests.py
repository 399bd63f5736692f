"""What requests for images may say."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from backends.workers.diffusers.protocol import Drawing, RequestError, SizeRules, parse

RULES = SizeRules(default=(64, 64), multiple=8, max_pixels=256 * 256, max_steps=50)


def refusal(body: bytes | dict[str, Any]) -> tuple[int, dict[str, Any]]:
    with pytest.raises(RequestError) as caught:
        parse(body if isinstance(body, bytes) else orjson.dumps(body), ["shoal"]).drawing(RULES, 20)
    return caught.value.status, orjson.loads(caught.value.body)["error"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (64, 64, 20)),
        ({"size": "auto"}, (64, 64, 20)),
        ({"size": "128x96"}, (128, 96, 20)),
        ({"width": 80}, (80, 80, 20)),
        ({"width": 80, "height": 40, "size": "64x64"}, (80, 40, 20)),
        ({"num_inference_steps": 7}, (64, 64, 7)),
        ({"steps": 9}, (64, 64, 9)),
    ],
)
def test_size_and_steps_are_read_under_all_their_names(fields: dict[str, Any], expected: tuple[int, int, int]) -> None:
    drawing = parse(orjson.dumps({"prompt": "a circle"} | fields), ["shoal"]).drawing(RULES, 20)
    assert (drawing.width, drawing.height, drawing.steps) == expected


@pytest.mark.parametrize(
    ("body", "status", "param", "said"),
    [
        (b"{", 400, None, "not JSON"),
        (b"[]", 400, None, "must be a JSON object"),
        ({}, 400, "prompt", "Field required"),
        ({"prompt": ""}, 400, "prompt", "at least 1 character"),
        ({"prompt": "x", "n": 0}, 400, "n", "greater than or equal to 1"),
        ({"prompt": "x", "n": 11}, 400, "n", "less than or equal to 10"),
        ({"prompt": "x", "seed": -1}, 400, "seed", "greater than or equal to 0"),
        ({"prompt": "x", "size": "big"}, 400, "size", "WIDTHxHEIGHT"),
        ({"prompt": "x", "size": "60x64"}, 400, "size", "multiples of 8"),
        ({"prompt": "x", "size": "0x0"}, 400, "size", "multiples of 8"),
        ({"prompt": "x", "width": 1024, "height": 1024}, 400, "width", "at most 65536 pixels"),
        ({"prompt": "x", "steps": 51}, 400, "num_inference_steps", "at most 50"),
        ({"prompt": "x", "output_format": "gif"}, 400, "output_format", "'png', 'jpeg' or 'webp'"),
        ({"prompt": "x", "model": "sdxl"}, 404, "model", "There is: shoal"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_its_field_named(
    body: bytes | dict[str, Any], status: int, param: str | None, said: str
) -> None:
    got, error = refusal(body)
    assert (got, error["param"]) == (status, param)
    assert said in error["message"]
    assert error["type"] == "invalid_request_error"


def test_drawings_share_a_batch_unless_size_steps_or_guidance_differ() -> None:
    drawing = Drawing("a circle", "", 64, 64, 20, None)
    assert drawing.like(Drawing("a star", "red", 64, 64, 20, None))
    for other in (Drawing("", "", 64, 72, 20, None), Drawing("", "", 64, 64, 21, None), Drawing("", "", 64, 64, 20, 2)):
        assert not drawing.like(other)
