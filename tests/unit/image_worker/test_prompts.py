"""Reading a prompt into the built-in image model's vocabulary."""

from __future__ import annotations

import random

import pytest

from backends.workers.diffusers.corpus import COLOURS, SIZE, SLOTS, draw, random_scene, slots_of


def words(prompt: str) -> list[str | None]:
    return [SLOTS[slot][index - 1] if index else None for slot, index in enumerate(slots_of(prompt))]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red circle on a blue background", [None, "red", "circle", "center", "center", "blue"]),
        ("blue background, RED circle", [None, "red", "circle", "center", "center", "blue"]),
        ("a small yellow star in the top left, on black", ["small", "yellow", "star", "left", "top", "black"]),
        ("a big violet donut", ["large", "purple", "ring", "center", "center", None]),
        ("", [None] * 6),
        ("a portrait of a duchess", [None] * 6),
        ("upper middle", [None, None, None, "center", "top", None]),
    ],
)
def test_a_prompt_names_its_slots(prompt: str, expected: list[str | None]) -> None:
    assert words(prompt) == expected


def test_a_scene_drawn_has_its_colours_where_it_says() -> None:
    rng = random.Random(1)
    for _ in range(50):
        scene = random_scene(rng)
        image = draw(scene, rng)
        assert image.size == (SIZE, SIZE)
        colours = {colour for _, colour in image.getcolors(SIZE * SIZE) or []}
        assert {COLOURS[scene.colour], COLOURS[scene.background]} <= colours
        assert len(scene.slots()) == len(SLOTS)
        assert all(1 <= index <= len(slot) for index, slot in zip(scene.slots(), SLOTS, strict=True))
