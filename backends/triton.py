"""NVIDIA Triton Inference Server."""

from __future__ import annotations

from typing import ClassVar

from backends.openai import OpenAIDialect
from backends.rules import Rule, rule
from policies.outcome import ErrorKind


class TritonDialect(OpenAIDialect):
    """`{"error": "…"}` with the status of the core's error code; metrics are on a port of their own."""

    name = "triton"
    health_path = "/v2/health/ready"
    metrics_path: str | None = None
    rules: ClassVar[tuple[Rule, ...]] = (
        # The model is known, but no version of it is ready to serve: still loading, or being swapped.
        rule(r"^request for unknown model: '[^']*' has no available versions", ErrorKind.MODEL_LOADING),
        # It ran out of its time in the queue: busy, not slow.
        rule(r"^request timeout expired", ErrorKind.MODEL_OVERLOADED),
    )
