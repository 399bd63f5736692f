"""The image worker over a real socket with its real model."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import aiohttp
import openai
import orjson
import pytest
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image

from backends.workers.diffusers.corpus import COLOURS
from backends.workers.diffusers.image_queue import ImageQueue
from backends.workers.diffusers.loading import Loaded, load
from backends.workers.diffusers.server import ImageServer

PATH = "/v1/images/generations"
Client = TestClient[Any, Any]
Colour = tuple[int, int, int]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load("shoal")


@pytest.fixture
async def client(loaded: Loaded) -> AsyncIterator[Client]:
    server = ImageServer(["shoal", "draw"])
    async with TestClient(TestServer(server.app())) as client, server.open(loaded, ImageQueue(loaded.painter)):
        yield client


async def drawn(client: Client, prompt: str, **more: Any) -> list[Image.Image]:
    async with client.post(PATH, json={"model": "shoal", "prompt": prompt, "seed": 1} | more) as answer:
        assert answer.status == 200, await answer.text()
        document = await answer.json()
    return [image_of(entry["b64_json"]) for entry in document["data"]]


def image_of(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


def nearest(pixel: Colour) -> str:
    return min(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name], pixel, strict=True)))


def colour_at(image: Image.Image, x: int, y: int) -> str:
    pixel = image.convert("RGB").getpixel((x, y))
    assert isinstance(pixel, tuple)
    return nearest((int(pixel[0]), int(pixel[1]), int(pixel[2])))


def distance(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of any channel of any pixel, of 255."""
    return max(abs(a - b) for a, b in zip(one.tobytes(), other.tobytes(), strict=True))


@pytest.mark.parametrize(
    ("prompt", "shape", "background", "at"),
    [
        ("a large red circle on a blue background", "red", "blue", (32, 32)),
        ("a large green square on white", "green", "white", (32, 32)),
        ("a yellow circle on a black background", "yellow", "black", (32, 32)),
        ("a large purple square in the left, orange background", "purple", "orange", (22, 32)),
        ("a small pink circle on the right, cyan background", "pink", "cyan", (48, 32)),
        ("a small white square at the bottom on red", "white", "red", (32, 48)),
    ],
)
async def test_it_draws_what_the_prompt_names_where_it_says(
    client: Client, prompt: str, shape: str, background: str, at: tuple[int, int]
) -> None:
    (image,) = await drawn(client, prompt)
    assert image.size == (64, 64)
    assert image.format == "PNG"
    assert colour_at(image, *at) == shape
    corners = [colour_at(image, x, y) for x in (1, 62) for y in (1, 62)]
    assert corners == [background] * 4


async def test_a_seed_gives_the_same_image_again_and_another_seed_another(client: Client) -> None:
    (first,), (again,), (other,) = [await drawn(client, "a star", seed=seed) for seed in (5, 5, 6)]
    assert first.tobytes() == again.tobytes()
    assert distance(first, other) > 30


async def test_the_images_of_one_request_are_those_of_the_seeds_that_follow(client: Client) -> None:
    together = await drawn(client, "a red star on black", seed=5, n=3)
    alone = [(await drawn(client, "a red star on black", seed=seed))[0] for seed in (5, 6, 7)]
    assert [distance(one, other) <= 2 for one, other in zip(together, alone, strict=True)] == [True] * 3
    assert distance(together[0], together[1]) > 30


async def test_size_and_format_are_honoured(client: Client) -> None:
    (image,) = await drawn(client, "a red circle on blue", size="160x96", output_format="webp")
    assert (image.size, image.format) == ((160, 96), "WEBP")
    body = {"prompt": "a red circle", "response_format": "url", "output_format": "jpeg"}
    async with client.post(PATH, json=body) as answer:
        (entry,) = (await answer.json())["data"]
    kind, _, data = entry["url"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert image_of(data).format == "JPEG"


async def test_steps_and_guidance_change_the_image(client: Client) -> None:
    images = [
        (await drawn(client, "a red circle on blue", **more))[0]
        for more in ({}, {"num_inference_steps": 3}, {"guidance_scale": 1.0}, {"negative_prompt": "red"})
    ]
    assert all(one.tobytes() != other.tobytes() for one, other in pairwise(images))


async def test_a_stream_tells_each_step_and_then_gives_the_image(client: Client) -> None:
    body = {"prompt": "a red circle on blue", "seed": 1, "steps": 6, "stream": True}
    async with client.post(PATH, json=body) as answer:
        assert answer.content_type == "text/event-stream"
        frames = [event.partition("data: ")[2] for event in (await answer.text()).split("\n\n") if event]
    *steps, last = (orjson.loads(frame) for frame in frames)
    assert [(event["type"], event["step"], event["steps"]) for event in steps] == [
        ("image_generation.progress", step, 6) for step in range(1, 7)
    ]
    assert last["type"] == "image_generation.completed"
    (whole,) = await drawn(client, "a red circle on blue", steps=6)
    assert image_of(last["b64_json"]).tobytes() == whole.tobytes()


async def test_the_openai_client_gets_its_images(client: Client) -> None:
    async with openai.AsyncOpenAI(base_url=str(client.make_url("/v1")), api_key="none") as sdk:
        answer = await sdk.images.generate(model="draw", prompt="a blue cross", n=2, size="64x64")  # type: ignore[call-overload]
        with pytest.raises(openai.BadRequestError) as caught:
            await sdk.images.generate(model="draw", prompt="a blue cross", size="1x1")  # type: ignore[call-overload]
    assert [image_of(each.b64_json).size for each in answer.data] == [(64, 64)] * 2
    assert caught.value.param == "size"


async def test_the_worker_tells_how_it_is(client: Client) -> None:
    await drawn(client, "a circle", n=2)
    async with client.get("/health") as health:
        assert health.status == 200
    async with client.get("/v1/models") as models:
        assert [model["id"] for model in (await models.json())["data"]] == ["shoal", "draw"]
    async with client.get("/metrics") as metrics:
        lines = (await metrics.text()).splitlines()
    for line in ("diffusers_requests_running 0.0", 'diffusers_requests_total{outcome="done"} 1.0'):
        assert line in lines
    assert "diffusers_images 2.0" in lines


async def test_unknown_paths_and_bodies_too_large_are_errors_in_the_same_shape(client: Client) -> None:
    async with client.post("/v1/images/variations", json={}) as answer:
        assert (answer.status, (await answer.json())["error"]["message"]) == (404, "Not Found.")
    async with client.post(PATH, data=io.BytesIO(b"x" * (21 << 20))) as answer:
        assert (answer.status, (await answer.json())["error"]["type"]) == (413, "invalid_request_error")


async def test_before_the_pipeline_is_loaded_the_worker_says_so() -> None:
    async with TestClient(TestServer(ImageServer(["shoal"]).app())) as client:
        async with client.get("/health") as health:
            assert health.status == 503
        async with client.post(PATH, json={"prompt": "x"}) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert (await answer.json())["error"]["code"] == "model_loading"


async def test_requests_at_once_are_all_answered(client: Client) -> None:
    images = await asyncio.gather(*[drawn(client, f"a {colour} circle", seed=3) for colour in list(COLOURS)[:6]])
    assert all(len(each) == 1 for each in images)


def test_a_folder_that_holds_no_pipeline_says_what_is_wanted(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        load(str(tmp_path))


async def edited(client: Client, source: bytes, **fields: Any) -> tuple[int, dict[str, Any]]:
    form = aiohttp.FormData({"prompt": "a red circle on a blue background", "seed": "1"} | fields)
    form.add_field("image", source, filename="image.png", content_type="image/png")
    async with client.post("/v1/images/edits", data=form) as answer:
        return answer.status, await answer.json()


def png(colour: str, size: tuple[int, int] = (64, 64)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, COLOURS[colour]).save(buffer, "png")
    return buffer.getvalue()


async def test_an_edit_keeps_to_its_image_as_far_as_strength_says(client: Client) -> None:
    status, document = await edited(client, png("green"), strength="0.1", prompt="a green background")
    assert status == 200
    assert colour_at(image_of(document["data"][0]["b64_json"]), 60, 60) == "green"
    status, document = await edited(client, png("green"), strength="1")
    assert colour_at(image_of(document["data"][0]["b64_json"]), 60, 60) == "blue"


async def test_the_openai_client_edits(client: Client) -> None:
    base = str(client.make_url("/v1"))
    async with openai.AsyncOpenAI(base_url=base, api_key="none") as user:
        answer = await user.images.edit(model="shoal", image=("a.png", png("white")), prompt="a red circle", n=2)
    assert answer.data is not None
    assert [image_of(entry.b64_json or "").size for entry in answer.data] == [(64, 64)] * 2


@pytest.mark.parametrize(
    ("source", "fields", "param"),
    [
        (b"", {}, "image"),
        (b"GIF89a", {}, "image"),
        (png("red")[:-40], {}, "image"),
        (png("red"), {"strength": "0"}, "strength"),
        (png("red"), {"prompt": ""}, "prompt"),
        (png("red", (4097, 4096)), {}, "image"),
    ],
)
async def test_an_edit_that_cannot_be_is_refused(
    client: Client, source: bytes, fields: dict[str, str], param: str
) -> None:
    status, document = await edited(client, source, **fields)
    assert status == 400
    assert document["error"]["param"] == param
