"""A language model that counts, so that a test knows every byte of the right answer.

Its answer to any prompt is the text `1 2 3 4 …`, one token per number: the token of the number n has the id 1000 + n
and the text ` n` (`1` for the first). A prompt that says `from 500` is answered `500 501 …`. What follows depends on
the token ids alone, so an answer continued from `prompt ids + delivered ids` is the undisturbed answer to the byte.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

NUMBER_BASE = 1000
_FROM = 7
_ROLE_OPENS, _ROLE_ENDS, _ASSISTANT = 2, 1, 3
_WORDS = range(100, 1000)
_MAX_NUMBER = 10**9


def number_text(number: int) -> str:
    """Text of one token."""
    return "1" if number == 1 else f" {number}"


def count_text(first: int, last: int) -> str:
    """The right answer from number `first` to number `last`, both included."""
    return "".join(number_text(number) for number in range(first, last + 1))


def tokenize(text: str) -> list[int]:
    """Token ids of a prompt's text: one per word."""
    return [_word_id(word) for word in re.findall(r"\d+|\w+|[^\w\s]", text)]


def detokenize(ids: Sequence[int]) -> str:
    """Text of token ids; a word's text cannot be had back and is rendered as `?`."""
    return "".join(number_text(i - NUMBER_BASE) if i > NUMBER_BASE else "?" for i in ids)


def chat_prompt(messages: Sequence[Mapping[str, Any]], *, open_answer: bool = True) -> list[int]:
    """Token ids of a conversation; `open_answer` False leaves the last message to be continued, as its text."""
    ids: list[int] = []
    for message in messages:
        ids += [_ROLE_OPENS, *tokenize(_content_text(message.get("content"))), _ROLE_ENDS]
    return [*ids, _ASSISTANT] if open_answer else ids[:-1]


@dataclass(frozen=True, slots=True)
class Step:
    """One generated token. `text` may be empty while a possible stop string is held back, as vLLM does."""

    token_id: int
    text: str
    finish_reason: str | None = None
    stop_reason: str | None = None


def generate(prompt: Sequence[int], *, max_tokens: int, length: int, stop: Sequence[str] = ()) -> Iterator[Step]:
    """Counts on from `prompt` until `max_tokens`, a stop string, or the `length`-th number of the whole answer."""
    first, number = _counted(prompt)
    hold = max((len(text) for text in stop), default=1) - 1
    whole, sent = "", 0
    for made in range(1, max_tokens + 1):
        number += 1
        whole += number_text(number)
        cut = min((at for text in stop if (at := whole.find(text)) >= 0), default=-1)
        if cut >= 0:
            matched = next(text for text in stop if whole.startswith(text, cut))
            yield Step(NUMBER_BASE + number, whole[sent:cut], "stop", matched)
            return
        ended = "stop" if number - first + 1 >= length else "length" if made == max_tokens else None
        upto = len(whole) if ended else max(sent, len(whole) - hold)
        yield Step(NUMBER_BASE + number, whole[sent:upto], ended)
        if ended:
            return
        sent = upto


def _counted(prompt: Sequence[int]) -> tuple[int, int]:
    """(first number of the answer, last number already counted) of a prompt."""
    ids = list(prompt)
    tail = len(ids)
    while tail > 0 and ids[tail - 1] > NUMBER_BASE and (tail == len(ids) or ids[tail - 1] == ids[tail] - 1):
        tail -= 1
    if tail < len(ids):
        return ids[tail] - NUMBER_BASE, ids[-1] - NUMBER_BASE
    starts = [b for a, b in pairwise(ids) if a == _FROM and b > NUMBER_BASE]
    first = starts[-1] - NUMBER_BASE if starts else 1
    return first, first - 1


def _word_id(word: str) -> int:
    if word.isdigit() and 0 < int(word) < _MAX_NUMBER:
        return NUMBER_BASE + int(word)
    if word.lower() == "from":
        return _FROM
    return _WORDS.start + zlib.crc32(word.encode()) % len(_WORDS)


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return ""
