"""Our embedded text worker."""

from __future__ import annotations

from backends.vllm import VLLMDialect


class EmbeddedDialect(VLLMDialect):
    """Answers in vLLM's shapes."""

    name = "embedded"
