"""The generated training text."""

from __future__ import annotations

import itertools
import re
from random import Random

import pytest

from backends.workers.embedded.corpus import Message, answers, documents, stories

SAMPLE = list(itertools.islice(documents(3), 400))


def test_the_same_seed_gives_the_same_text() -> None:
    assert list(itertools.islice(documents(3), 50)) == SAMPLE[:50]
    assert list(itertools.islice(documents(4), 50)) != SAMPLE[:50]


def test_chats_alternate_and_end_with_an_answer() -> None:
    for document in SAMPLE:
        if isinstance(document, str):
            continue
        roles = [turn.role for turn in document if turn.role != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)


def test_nothing_is_left_unfilled_or_empty() -> None:
    for document in SAMPLE:
        for turn in [Message("text", document)] if isinstance(document, str) else document:
            assert turn.content.strip()
            assert not re.search(r"[{}]|  ", turn.content)


@pytest.mark.parametrize("episodes", [0, 2, 8])
def test_a_story_keeps_its_hero_and_friend(episodes: int) -> None:
    for seed in range(40):
        rng = Random(seed)
        cast = stories.cast_of(rng, hero="crab", friend="owl")
        told = stories.story(rng, cast, episodes)
        assert cast["hero"] in told
        names = set(re.findall(r"\b[A-Z][a-z]+\b", told)) & {*stories.words.HER_NAMES, *stories.words.HIS_NAMES}
        assert names == {cast["name"], cast["fname"]}


def test_sums_are_right() -> None:
    for seed in range(200):
        _, answer = answers.arithmetic(Random(seed))
        found = re.fullmatch(r"(\d+) (plus|minus|times) (\d+) is (\d+)\.", answer)
        assert found
        one, kind, other, result = found.groups()
        signs = {"plus": int(one) + int(other), "minus": int(one) - int(other), "times": int(one) * int(other)}
        assert signs[kind] == int(result)


@pytest.mark.parametrize(
    ("noun", "expected"), [("octopus", "an octopus"), ("crab", "a crab"), ("old owl", "an old owl")]
)
def test_articles_fit(noun: str, expected: str) -> None:
    assert stories.article(noun) == expected
