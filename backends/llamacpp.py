"""llama.cpp's `llama-server`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from backends.openai import OpenAIDialect
from backends.rules import UNSUPPORTED, Verdict
from policies.outcome import ErrorKind


class LlamaCppDialect(OpenAIDialect):
    """Error types of its own, and the numbers of a context overflow in fields beside the message."""

    name = "llamacpp"
    health_path = "/health"
    metrics_path: str | None = "/metrics"
    #: The final result's reason is never null ("length" unless a stop was met): `server_task_result_cmpl_final` in
    #: tools/server/server-task.cpp of ggml-org/llama.cpp. `[DONE]` comes only after that result.
    tells_finish = True
    named: ClassVar[Mapping[str, Verdict]] = {
        "exceed_context_size_error": Verdict(ErrorKind.CONTEXT_LENGTH_EXCEEDED),
        "unavailable_error": Verdict(ErrorKind.MODEL_LOADING),
        "not_supported_error": UNSUPPORTED,
    }

    def details_of(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """`n_prompt_tokens` and `n_ctx`, which beat numbers read from the message."""
        error = body.get("error")
        if not isinstance(error, dict):
            return {}
        fields = {"input_length": error.get("n_prompt_tokens"), "max_length": error.get("n_ctx")}
        return {name: number for name, number in fields.items() if isinstance(number, int)}
