"""What vLLM 0.32 answers on /v1/messages and /v1/responses, to the byte: streams whose events name their type."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from tests.support.counting_model import Step
from tests.support.vllm_frames import Frame

#: A dead engine's error is no chunk of a chat, which is what the converter to Anthropic's events says of it.
MESSAGES_DEATH = (
    rb"event: error"
    + b"\n"
    + rb'data: {"type":"error","error":{"type":"internal_error","message":"2 validation errors '
    rb"for ChatCompletionStreamResponse\nmodel\n  Field required [type=missing, input_value={'error': {'message': "
    rb"'En...am': None, 'code': 500}}, input_type=dict]\n    For further information visit "
    rb"https://errors.pydantic.dev/2.14/v/missing\nchoices\n  Field required [type=missing, input_value={'error': "
    rb"{'message': 'En...am': None, 'code': 500}}, input_type=dict]\n    For further information visit "
    rb'https://errors.pydantic.dev/2.14/v/missing"}}' + b"\n\n"
)


@dataclass(slots=True)
class MessageShape:
    """One answer to /v1/messages."""

    answer_id: str
    model: str

    def whole(self, prompt: list[int], steps: list[Step]) -> dict[str, Any]:
        text = "".join(step.text for step in steps)
        reason, sequence = _stop_reason(steps[-1])
        answer = {"id": self.answer_id, "type": "message", "role": "assistant"}
        answer |= {"content": [{"type": "text", "text": text}], "model": self.model, "stop_reason": reason}
        if sequence is not None:
            answer["stop_sequence"] = sequence
        return answer | {"usage": _message_usage(prompt, len(steps))}

    def frames(self, prompt: list[int], steps: Iterator[Step], per_frame: int) -> Iterator[Frame]:
        message = {"id": self.answer_id, "type": "message", "role": "assistant", "content": [], "model": self.model}
        message |= {"stop_reason": None, "stop_sequence": None, "usage": _message_usage(prompt, 0)}
        yield _event({"type": "message_start", "message": message})
        made, open_, last = 0, False, None
        while batch := list(islice(steps, per_frame)):
            made, last = made + len(batch), batch[-1]
            text = "".join(step.text for step in batch)
            if text and not open_:
                block = {"type": "text", "text": ""}
                yield _event({"type": "content_block_start", "content_block": block, "index": 0})
                open_ = True
            if text:
                delta = {"type": "text_delta", "text": text}
                yield _event({"type": "content_block_delta", "delta": delta, "index": 0}, len(batch))
        assert last is not None
        if open_:
            yield _event({"type": "content_block_stop", "index": 0})
        reason, sequence = _stop_reason(last)
        ended = {"stop_reason": reason, "stop_sequence": sequence}
        usage = _message_usage(prompt, made)
        yield _event({"type": "message_delta", "delta": ended, "usage": usage}, finish=True)
        yield _event({"type": "message_stop"})


@dataclass(slots=True)
class ResponseShape:
    """One answer to /v1/responses. Its ids are random, as vLLM's are; it ignores X-Request-Id."""

    request: Mapping[str, Any]
    model: str
    seed: str
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def _item_id(self) -> str:
        return f"msg_{zlib.crc32(b'item' + self.seed.encode()):016x}"

    def whole(self, prompt: list[int], steps: list[Step]) -> dict[str, Any]:
        text = "".join(step.text for step in steps)
        return self._response(steps[-1], self._item("completed", [_part(text, None)]), len(prompt), len(steps))

    def frames(self, prompt: list[int], steps: Iterator[Step], per_frame: int) -> Iterator[Frame]:
        number, whole = 0, ""
        begun = self._response(None, None, 0, 0)

        def event(kind: str, members: dict[str, Any], tokens: int = 0, *, finish: bool = False) -> Frame:
            nonlocal number
            text = {"text": members.pop("text")} if "text" in members else {}  # members go by the order of declaration
            document = members | {"sequence_number": number} | text | {"type": kind}
            number += 1
            return _event(document, tokens, finish=finish)

        part = {"content_index": 0, "item_id": self._item_id, "output_index": 0}
        yield event("response.created", {"response": begun})
        yield event("response.in_progress", {"response": begun})
        yield event("response.output_item.added", {"item": self._item("in_progress", []), "output_index": 0})
        yield event("response.content_part.added", part | {"part": _part("", [])})
        made, last = 0, None
        while batch := list(islice(steps, per_frame)):
            made, last = made + len(batch), batch[-1]
            text = "".join(step.text for step in batch)
            whole += text
            if text:
                delta = {"content_index": 0, "delta": text, "item_id": self._item_id, "logprobs": []}
                yield event("response.output_text.delta", delta | {"output_index": 0}, len(batch))
        assert last is not None
        done = {"content_index": 0, "item_id": self._item_id, "logprobs": [], "output_index": 0, "text": whole}
        yield event("response.output_text.done", done)
        yield event("response.content_part.done", part | {"part": _part(whole, None)})
        item = self._item("completed", [_part(whole, None)])
        yield event("response.output_item.done", {"item": item, "output_index": 0})
        ended = self._response(last, item, len(prompt), made)
        yield event("response.completed", {"response": ended}, finish=True)

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        item = {"id": self._item_id, "content": content, "role": "assistant", "status": status}
        return item | {"type": "message", "phase": None}

    def _response(self, last: Step | None, item: dict[str, Any] | None, prompt: int, made: int) -> dict[str, Any]:
        cut = last is not None and last.finish_reason == "length"
        status = "in_progress" if last is None else "incomplete" if cut else "completed"
        return {
            "id": f"resp_{zlib.crc32(self.seed.encode()):016x}",
            "created_at": self.created,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            **dict.fromkeys(("instructions", "metadata")),
            "model": self.model,
            "object": "response",
            "output": [item] if item is not None else [],
            "parallel_tool_calls": True,
            "temperature": float(self.request.get("temperature", 1.0)),
            "tool_choice": "none",
            "tools": [],
            "top_p": 1.0,
            "background": False,
            "max_output_tokens": self.request.get("max_output_tokens"),
            **dict.fromkeys(("max_tool_calls", "previous_response_id", "prompt", "reasoning")),
            "service_tier": "auto",
            "status": status,
            **dict.fromkeys(("text", "top_logprobs")),
            "truncation": "disabled",
            "usage": _response_usage(prompt, made) if last is not None else None,
            "user": None,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            **dict.fromkeys(("kv_transfer_params", "ec_transfer_params", "input_messages", "output_messages")),
        }


def _part(text: str, logprobs: list[Any] | None) -> dict[str, Any]:
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": logprobs}


def _stop_reason(last: Step) -> tuple[str, str | None]:
    if last.finish_reason == "length":
        return "max_tokens", None
    return ("stop_sequence", last.stop_reason) if last.stop_reason is not None else ("end_turn", None)


def _message_usage(prompt: list[int], made: int) -> dict[str, int]:
    return {"input_tokens": len(prompt), "output_tokens": made}


def _response_usage(prompt: int, made: int) -> dict[str, Any]:
    before = {"cached_tokens": 0, "cache_write_tokens": 0, "input_tokens_per_turn": [], "cached_tokens_per_turn": []}
    after: dict[str, Any] = {"reasoning_tokens": 0, "tool_output_tokens": 0}
    after |= {"output_tokens_per_turn": [], "tool_output_tokens_per_turn": []}
    return {
        "input_tokens": prompt,
        "input_tokens_details": before,
        "output_tokens": made,
        "output_tokens_details": after,
        "total_tokens": prompt + made,
    }


def _event(document: dict[str, Any], tokens: int = 0, *, finish: bool = False) -> Frame:
    data = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    return Frame(b"event: %b\ndata: %b\n\n" % (str(document["type"]).encode(), data), tokens, finish)
