"""Our embedded text worker."""

from __future__ import annotations

from backends.dialect import TokenIds
from backends.vllm import VLLMDialect


class EmbeddedDialect(VLLMDialect):
    """Answers in vLLM's shapes."""

    name = "embedded"
    token_ids: TokenIds | None = TokenIds(aligned=True, seeded=True)
