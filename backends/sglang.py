"""SGLang's server (and its router's answers)."""

from __future__ import annotations

from typing import ClassVar

from backends.openai import OpenAIDialect
from backends.rules import Rule, rule
from policies.outcome import ErrorKind


class SGLangDialect(OpenAIDialect):
    """Flat errors (`{"object": "error", "message": …, "code": 400}`), and 503 where the scheduler's queue is full."""

    name = "sglang"
    health_path = "/health"
    metrics_path: str | None = "/metrics"
    #: Its last chunk of each choice says why, whatever comes after it (usage, hidden states, token ids):
    #: python/sglang/srt/entrypoints/openai/serving_chat.py and serving_completions.py of sgl-project/sglang.
    tells_finish = True
    rules: ClassVar[tuple[Rule, ...]] = (
        rule(r"^the request queue is full|aborted by a higher priority request", ErrorKind.MODEL_OVERLOADED),
    )
