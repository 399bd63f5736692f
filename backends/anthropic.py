"""Anthropic's Messages API."""

from __future__ import annotations

from typing import ClassVar

from backends.openai import OpenAIDialect
from backends.rules import QUOTA, UNKNOWN_MODEL, Rule, rule


class AnthropicDialect(OpenAIDialect):
    """`{"type": "error", "error": {"type": …, "message": …}}`, and 529 when overloaded."""

    name = "anthropic"
    health_path = "/v1/models"
    metrics_path: str | None = None
    rules: ClassVar[tuple[Rule, ...]] = (
        rule(r"^your credit balance is too low", QUOTA),
        rule(r"^model: \S+$", UNKNOWN_MODEL),
    )
