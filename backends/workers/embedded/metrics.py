"""The engine's figures in Prometheus' text format, under vLLM's names."""

from __future__ import annotations

from backends.workers.embedded.engine import Engine


def exposition(engine: Engine, model: str) -> str:
    """All metrics, each with the labels `engine` and `model_name`."""
    done = engine.counters
    figures: list[tuple[str, str, str, float]] = [
        ("num_requests_running", "gauge", "Number of requests in model execution batches.", engine.running),
        ("num_requests_waiting", "gauge", "Number of requests waiting to be processed.", engine.waiting),
        ("kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.", engine.kv_cache_usage),
        ("prompt_tokens_total", "counter", "Number of prefill tokens processed.", done.prompt_tokens),
        ("generation_tokens_total", "counter", "Number of generation tokens processed.", done.generation_tokens),
        ("admission_rejections_total", "counter", "Requests refused because the queue was full.", done.rejected),
        ("num_preemptions_total", "counter", "Sequences that gave their memory back.", done.preemptions),
    ]
    labels = f'engine="0",model_name="{model}"'
    lines = []
    for name, kind, meaning, value in figures:
        lines += _heading(name, kind, meaning)
        lines.append(f"vllm:{name}{{{labels}}} {float(value)}")
    lines += _heading("request_success_total", "counter", "Count of ended requests.")
    for reason, count in done.finished.items():
        lines.append(f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {float(count)}')
    return "\n".join(lines) + "\n"


def _heading(name: str, kind: str, meaning: str) -> list[str]:
    return [f"# HELP vllm:{name} {meaning}", f"# TYPE vllm:{name} {kind}"]
