"""vLLM's OpenAI-compatible server."""

from __future__ import annotations

from backends.dialect import TokenIds
from backends.openai import OpenAIDialect


class VLLMDialect(OpenAIDialect):
    """The shared rules were written from vLLM's answers; its numeric `code` in a body is the true status."""

    name = "vllm"
    health_path = "/health"
    metrics_path: str | None = "/metrics"
    token_ids: TokenIds | None = TokenIds()
    tells_finish = True
