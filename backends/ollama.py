"""Ollama, through its OpenAI-compatible and its native API."""

from __future__ import annotations

from typing import ClassVar

from backends.openai import OpenAIDialect
from backends.rules import UNKNOWN_MODEL, Rule, rule
from policies.outcome import ErrorKind


class OllamaDialect(OpenAIDialect):
    """Loads models on demand: a request can meet a load that fails, lasts, or finds too little memory."""

    name = "ollama"
    health_path = "/api/version"
    metrics_path: str | None = None
    #: Only a runner whose connection was lost has no `done_reason`, and its text is cut: `DoneReason.String` in
    #: llm/server.go, which `ToChunk` in openai/openai.go of ollama/ollama passes on, null where it is empty.
    tells_finish = True
    rules: ClassVar[tuple[Rule, ...]] = (
        rule(r"not found, try pulling it first", UNKNOWN_MODEL),
        rule(
            r"prompt is longer than the context length|input length exceeds the context length",
            ErrorKind.CONTEXT_LENGTH_EXCEEDED,
        ),
        rule(r"unexpected server status: .*loading", ErrorKind.MODEL_LOADING),
    )
