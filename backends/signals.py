"""How loaded a model server says it is: the few gauges that matter, picked out of its Prometheus text."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadSignals:
    """Requests that run and that wait, share of the KV cache in use (0 to 1), tokens generated since its start.

    None where the server doesn't say. Summed over a server's engines; of the KV cache the fullest. `asleep`: vLLM's
    sleep mode, in which a model's memory is given back and no request may come. `gpu_memory`: share of its fullest
    device's memory in use (0 to 1); `gpu_unhealthy`: one of its devices failed or is nearly out of memory.
    """

    running: float | None = None
    waiting: float | None = None
    kv_cache: float | None = None
    generation_tokens: float | None = None
    asleep: bool = False
    gpu_memory: float | None = None
    gpu_unhealthy: bool = False


# Names by server: vLLM (the older one of the KV cache too), SGLang, llama.cpp, TGI, our image worker.
_RUNNING = (
    b"vllm:num_requests_running",
    b"sglang:num_running_reqs",
    b"llamacpp:requests_processing",
    b"tgi_batch_current_size",
    b"diffusers_requests_running",
)
_WAITING = (
    b"vllm:num_requests_waiting",
    b"sglang:num_queue_reqs",
    b"llamacpp:requests_deferred",
    b"tgi_queue_size",
    b"diffusers_requests_waiting",
)
_KV_CACHE = (
    b"vllm:kv_cache_usage_perc",
    b"vllm:gpu_cache_usage_perc",
    b"sglang:token_usage",
    b"llamacpp:kv_cache_usage_ratio",
)
_TOKENS = (
    b"vllm:generation_tokens_total",
    b"sglang:generation_tokens_total",
    b"llamacpp:tokens_predicted_total",
)
_GPU_USED, _GPU_TOTAL = (b"seawall_gpu_memory_used_bytes",), (b"seawall_gpu_memory_total_bytes",)
_GPU_HEALTHY = (b"seawall_gpu_healthy",)
_AWAKE = re.compile(rb'\nvllm:engine_sleep_state\{[^}\n]*sleep_state="awake"[^}\n]*\} 0(?:\.0*)?\s')


def parse_signals(text: bytes) -> LoadSignals | None:
    """The signals in an exposition; None if it has none of them. Never raises.

    Looks for the names only, instead of parsing the hundreds of kilobytes of histograms around them.
    """
    text = b"\n" + text
    running, waiting, tokens = (_values(text, names) for names in (_RUNNING, _WAITING, _TOKENS))
    kv_cache = _values(text, _KV_CACHE)
    asleep = _AWAKE.search(text) is not None
    gpu_used, gpu_total = _values(text, _GPU_USED), _values(text, _GPU_TOTAL)
    if not (running or waiting or kv_cache or tokens or asleep or gpu_total):
        return None
    shares = [used / total for used, total in zip(gpu_used, gpu_total, strict=False) if total]
    return LoadSignals(
        running=sum(running) if running else None,
        waiting=sum(waiting) if waiting else None,
        kv_cache=min(1.0, max(kv_cache)) if kv_cache else None,
        generation_tokens=sum(tokens) if tokens else None,
        asleep=asleep,
        gpu_memory=min(1.0, max(shares)) if shares else None,
        gpu_unhealthy=0.0 in _values(text, _GPU_HEALTHY),
    )


def _values(text: bytes, names: tuple[bytes, ...]) -> list[float]:
    """The values of the first of these families that is there."""
    for name in names:
        values = []
        at = text.find(b"\n" + name)
        while at >= 0:
            end = text.find(b"\n", at + 1)
            value = _value(text[at + 1 + len(name) : end if end >= 0 else len(text)])
            if value is not None:
                values.append(value)
            at = text.find(b"\n" + name, at + 1)
        if values:
            return values
    return []


def _value(rest: bytes) -> float | None:
    """The value on a sample's line, given what follows the name: `{labels} value` or ` value`."""
    if rest[:1] == b"{":
        rest = rest.rpartition(b"}")[2]
    elif rest[:1] not in (b" ", b"\t"):
        return None  # a longer name
    try:
        value = float(rest.split(None, 1)[0])
    except (ValueError, IndexError):
        return None
    return value if math.isfinite(value) and value >= 0 else None
