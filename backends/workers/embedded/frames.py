"""The JSON of answers, whole and streamed, in vLLM 0.32's shapes and field order."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from backends.workers.embedded.generation import Delta
from backends.workers.embedded.interfaces import TextTokenizer
from backends.workers.embedded.sampling import TokenLogprob

DONE = b"data: [DONE]\n\n"
_LOWEST = -9999.0  # stands for minus infinity, which JSON cannot say


@dataclass(slots=True)
class _Choice:
    """What one choice has come to so far."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    def add(self, delta: Delta) -> None:
        self.text += delta.text
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs
        self.finish_reason, self.stop_reason = delta.finish_reason, delta.stop_reason


@dataclass(slots=True)
class Answer:
    """One answer in the making, chat or completion. `prompts` are token ids, `n` the choices for each.

    `with_ids` is return_token_ids, `continuous` continuous_usage_stats; `logprobs` says whether they were asked for.
    """

    answer_id: str
    model: str
    fingerprint: str
    tokenizer: TextTokenizer
    prompts: Sequence[Sequence[int]]
    chat: bool
    n: int = 1
    with_ids: bool = False
    logprobs: bool = False
    include_usage: bool = False
    continuous: bool = False
    role: str = "assistant"
    created: int = field(default_factory=lambda: int(time.time()))
    _choices: list[_Choice] = field(init=False)

    def __post_init__(self) -> None:
        self._choices = [_Choice() for _ in range(len(self.prompts) * self.n)]

    def add(self, deltas: Sequence[Delta]) -> None:
        """Takes in deltas of an answer that will be sent whole."""
        for delta in deltas:
            self._choices[delta.index].add(delta)

    def whole(self) -> bytes:
        """The complete answer."""
        body = self._envelope("chat.completion") | {
            "choices": [self._whole_choice(index, choice) for index, choice in enumerate(self._choices)],
            "service_tier": None,
            "system_fingerprint": self.fingerprint,
            "usage": self._total_usage() | {"prompt_tokens_details": None},
        }
        if self.chat:
            body |= {"prompt_logprobs": None, "prompt_token_ids": list(self.prompts[0]) if self.with_ids else None}
        return orjson.dumps(body | {"kv_transfer_params": None})

    def opening(self) -> bytes:
        """The frames before any text: in a chat, the role of every choice; in a completion, none."""
        if not self.chat:
            return b""
        frames = []
        for index in range(self.n):
            delta = {"role": self.role, "content": ""}
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            ids = {"prompt_token_ids": list(self.prompts[0]) if self.with_ids else None, "prompt_text": None}
            frames.append(self._frame([choice], self._running_usage(index) | ids))
        return b"".join(frames)

    def frame(self, delta: Delta) -> bytes:
        """The frame of one delta."""
        so_far = self._choices[delta.index]
        first = not so_far.token_ids
        offset = len(so_far.text)
        so_far.add(delta)
        so_far.logprobs.clear()
        logprobs = self._logprobs(delta.logprobs, offset)
        choice: dict[str, Any] = {"index": delta.index}
        if self.chat:
            choice |= {"delta": {"content": delta.text}, "logprobs": logprobs, "finish_reason": delta.finish_reason}
        else:
            choice |= {"text": delta.text, "logprobs": logprobs, "finish_reason": delta.finish_reason}
        if delta.finish_reason is not None or not self.chat:
            choice["stop_reason"] = delta.stop_reason
        if not self.chat:
            prompt = self.prompts[delta.index // self.n]
            choice["prompt_token_ids"] = list(prompt) if first and self.with_ids else None
        choice["token_ids"] = list(delta.token_ids) if self.with_ids else None
        usage = self._running_usage(delta.index)
        return self._frame([choice], usage or ({} if self.chat else {"usage": None}))

    def closing(self) -> bytes:
        """The frames after all text: the usage if it was asked for, and `[DONE]`."""
        if not self.include_usage:
            return DONE
        return self._frame([], {"usage": self._total_usage(), "system_fingerprint": self.fingerprint}) + DONE

    def _whole_choice(self, index: int, choice: _Choice) -> dict[str, Any]:
        ended = {
            "logprobs": self._logprobs(choice.logprobs, 0),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        ids = {"token_ids": choice.token_ids if self.with_ids else None}
        if self.chat:
            empty: dict[str, Any] = {"refusal": None, "annotations": None, "audio": None, "function_call": None}
            message = {"role": self.role, "content": choice.text, **empty, "tool_calls": [], "reasoning": None}
            return {"index": index, "message": message} | ended | ids
        prompt = list(self.prompts[index // self.n]) if self.with_ids else None
        return (
            {"index": index, "text": choice.text} | ended | ids | {"prompt_logprobs": None, "prompt_token_ids": prompt}
        )

    def _envelope(self, chat_object: str) -> dict[str, Any]:
        kind = chat_object if self.chat else "text_completion"
        return {"id": self.answer_id, "object": kind, "created": self.created, "model": self.model}

    def _frame(self, choices: Sequence[Mapping[str, Any]], extra: Mapping[str, Any]) -> bytes:
        event = self._envelope("chat.completion.chunk") | {"choices": choices, **extra}
        return b"data: " + orjson.dumps(event) + b"\n\n"

    def _running_usage(self, index: int) -> dict[str, Any]:
        if not self.continuous:
            return {}
        return {"usage": _usage(len(self.prompts[index // self.n]), len(self._choices[index].token_ids))}

    def _total_usage(self) -> dict[str, Any]:
        return _usage(sum(map(len, self.prompts)), sum(len(choice.token_ids) for choice in self._choices))

    def _logprobs(self, logprobs: Sequence[TokenLogprob], offset: int) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        if self.chat:
            return {"content": [self._chat_logprob(each) for each in logprobs]}
        texts = [self.tokenizer.decode([each.token]) for each in logprobs]
        offsets = [offset + sum(map(len, texts[:place])) for place in range(len(texts))]
        return {
            "text_offset": offsets,
            "token_logprobs": [max(each.logprob, _LOWEST) for each in logprobs],
            "tokens": texts,
            "top_logprobs": [
                {self.tokenizer.decode([token]): max(value, _LOWEST) for token, value in _with_chosen(each)}
                for each in logprobs
            ],
        }

    def _chat_logprob(self, each: TokenLogprob) -> dict[str, Any]:
        top = [self._one_logprob(token, value) for token, value in each.top]
        return self._one_logprob(each.token, each.logprob) | {"top_logprobs": top}

    def _one_logprob(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.tokenizer.decode([token])
        raw = self.tokenizer.token_bytes(token) or text.encode()
        return {"token": text, "logprob": max(logprob, _LOWEST), "bytes": list(raw)}


def _with_chosen(each: TokenLogprob) -> list[tuple[int, float]]:
    return [*each.top, *([] if any(token == each.token for token, _ in each.top) else [(each.token, each.logprob)])]


def _usage(prompt: int, made: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + made, "completion_tokens": made}
