"""Hugging Face's text-generation-inference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from backends.openai import OpenAIDialect
from backends.rules import BAD_REQUEST, BUSY, FAILED, Rule, Verdict, rule

_TYPES: Mapping[str, Verdict] = {
    "overloaded": BUSY,
    "incomplete_generation": FAILED,
    "incomplete_generation_stream": FAILED,
    "stream_serialization_error": FAILED,
    "template_error": BAD_REQUEST,
    "missing_template_variable": BAD_REQUEST,
    "tool_error": BAD_REQUEST,
    "batch size exceeded": BAD_REQUEST,
    "suffix not supported": BAD_REQUEST,
}


class TGIDialect(OpenAIDialect):
    """Flat errors with an `error_type`. `generation` and `validation` cover several causes: their words decide.

    In a stream every error claims `"http_status_code": 422`, a crashed shard's too, so that claim is not believed.
    """

    name = "tgi"
    health_path = "/health"
    metrics_path: str | None = "/metrics"
    named: ClassVar[Mapping[str, Verdict]] = _TYPES
    rules: ClassVar[tuple[Rule, ...]] = (
        rule(r"^(?:incomplete generation|stream event serialization error)", FAILED),
        rule(r"^model is overloaded", BUSY),
        rule(r"^(?:template error|missing template va\w+|tool error):", BAD_REQUEST),
        # Not the two that speak of tokens: those are context overflows, which the shared rules know.
        rule(r"^input validation error: (?!`(?:inputs` (?:tokens|must have)|max_new_tokens` must be <=))", BAD_REQUEST),
    )
    trusts_claims = False
    # `tells_finish` stays False: with tools, the token that carries the reason may be one that `ChatState::push` keeps
    # back (router/src/chat.rs of huggingface/text-generation-inference), so a whole answer can end without it.
