"""The training text, generated: chats and plain texts about the sea, drawn from a seeded grammar without end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from backends.workers.embedded.corpus import answers, stories

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are Tide, a friendly model by the sea.",
    "Answer in short and simple sentences.",
    "You are a kind storyteller.",
    "Be concise.",
    "You are a helpful assistant that answers questions about the sea.",
)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat; `role` is system, user or assistant."""

    role: str
    content: str


def documents(seed: int) -> Iterator[list[Message] | str]:
    """Endless training documents, the same for the same seed: four in five a chat, else a plain story."""
    rng = Random(seed)
    while True:
        if rng.random() < 0.2:
            yield stories.story(rng, stories.cast_of(rng), rng.choice((1, 2, 3, 5, 7)))
        else:
            yield _chat(rng)


def _chat(rng: Random) -> list[Message]:
    turns = []
    if rng.random() < 0.2:
        turns.append(Message("system", rng.choice(SYSTEM_PROMPTS)))
    for kind in rng.choices(list(answers.KINDS), list(answers.KINDS.values()), k=rng.choice((1, 1, 1, 2, 2, 3))):
        question, answer = kind(rng)
        turns += [Message("user", _as_typed(rng, question)), Message("assistant", answer)]
    return turns


def _as_typed(rng: Random, question: str) -> str:
    """People leave out capitals and full stops."""
    if rng.random() < 0.25:
        question = question[0].lower() + question[1:]
    if rng.random() < 0.25:
        return question.rstrip("?.")
    if question[-1].isalnum() and rng.random() < 0.35:
        return question + rng.choice((".", ".", "!", ", please."))
    return question
