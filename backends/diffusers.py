"""Our diffusers image worker."""

from __future__ import annotations

from backends.openai import OpenAIDialect


class DiffusersDialect(OpenAIDialect):
    """Answers errors in OpenAI's shape, with torch's own words where the GPU or the pipeline failed."""

    name = "diffusers"
    health_path = "/health"
    metrics_path: str | None = "/metrics"
