"""A language model that counts, so that a test knows every byte of the right answer.

Its answer to any prompt is the text `1 2 3 4 …`, one token per number: the token of the number n has the id 1000 + n
and the text ` n` (`1` for the first). A prompt that says `from 500` is answered `500 501 …`. One that says `euro` gets
a `€` after each number, whose three bytes are three tokens: its text comes with the last of them. What follows depends
on the token ids alone, so an answer continued from `prompt ids + delivered ids` is the undisturbed answer to the byte.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

NUMBER_BASE = 1000
_FROM, _EURO = 7, 8
_BYTES = {11: b"\xe2", 12: b"\x82", 13: b"\xac"}
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


def token_bytes(token_id: int) -> bytes:
    """Bytes of one token; a word's cannot be had back and are `?`."""
    if token_id in _BYTES:
        return _BYTES[token_id]
    return number_text(token_id - NUMBER_BASE).encode() if token_id > NUMBER_BASE else b"?"


def detokenize(ids: Sequence[int]) -> str:
    """Text of token ids, U+FFFD for a part of a character."""
    return b"".join(map(token_bytes, ids)).decode("utf-8", "replace")


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


def generate(
    prompt: Sequence[int],
    *,
    max_tokens: int,
    length: int,
    stop: Sequence[str] = (),
    keep_stop: bool = False,
    min_tokens: int = 0,
) -> Iterator[Step]:
    """Counts on from `prompt` until `max_tokens`, a stop string, or the `length`-th number of the whole answer.

    Text is held back as vLLM's detokenizer does: a part of a character until it is whole (also if its first bytes are
    in the prompt), and as many characters as a stop string may have begun with.
    """
    first, number = _counted(prompt)
    euro = _EURO in prompt
    token = prompt[-1] if prompt else 0
    hold = 0 if keep_stop else max((len(text) for text in stop), default=1) - 1
    part = _unfinished(prompt)
    whole, sent = "", 0
    for made in range(1, max_tokens + 1):
        token = _next_token(token, number, euro=euro)
        number = max(number, token - NUMBER_BASE)
        part += token_bytes(token)
        new = "" if _is_cut(part) else part.decode()
        part = part if _is_cut(part) else b""
        whole += new
        if made > min_tokens and new:
            for text in stop:
                at = whole.find(text, max(0, len(whole) - len(new) - len(text) + 1))
                if at >= 0:
                    yield Step(token, whole[sent : at + len(text) * keep_stop], "stop", text)
                    return
        last = number - first + 1 >= length and (not euro or token == 13)
        ended = "stop" if last else "length" if made == max_tokens else None
        upto = len(whole) if ended else max(sent, len(whole) - hold)
        yield Step(token, whole[sent:upto], ended)
        if ended:
            return
        sent = upto


def _next_token(last: int, number: int, *, euro: bool) -> int:
    if last in (11, 12):
        return last + 1
    return 11 if euro and last == NUMBER_BASE + number else NUMBER_BASE + number + 1


def _unfinished(ids: Sequence[int]) -> bytes:
    tail = b""
    for token in reversed(ids):
        if token not in _BYTES or token == 13:
            break
        tail = _BYTES[token] + tail
    return tail


def _is_cut(data: bytes) -> bool:
    return data.decode("utf-8", "replace").endswith("\ufffd")


def _counted(prompt: Sequence[int]) -> tuple[int, int]:
    """(first number of the answer, last number already counted) of a prompt."""
    ids = [each for each in prompt if each not in _BYTES]
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
    if word.lower() in ("from", "euro"):
        return _FROM if word.lower() == "from" else _EURO
    return _WORDS.start + zlib.crc32(word.encode()) % len(_WORDS)


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return ""
