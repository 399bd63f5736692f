from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.signals import LoadSignals, parse_signals

VLLM = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 3.0
vllm:num_requests_running{engine="1",model_name="ti}ny"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="tiny"} 7.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="tiny"} 0.75
vllm:generation_tokens_total{engine="0",model_name="tiny"} 1.5e+06
vllm:generation_tokens_created{engine="0",model_name="tiny"} 1.795e+09
"""


@pytest.mark.parametrize(
    ("text", "signals"),
    [
        (VLLM, LoadSignals(running=5, waiting=7, kv_cache=0.75, generation_tokens=1.5e6)),
        (VLLM.replace(b"\n", b"\r\n"), LoadSignals(running=5, waiting=7, kv_cache=0.75, generation_tokens=1.5e6)),
        (
            b'seawall_gpu_memory_used_bytes{gpu="0",name="H100"} 4e10'
            b'\nseawall_gpu_memory_used_bytes{gpu="1",name="}"} 6e10'
            b'\nseawall_gpu_memory_total_bytes{gpu="0",name="H100"} 8e10'
            b'\nseawall_gpu_memory_total_bytes{gpu="1",name="}"} 8e10'
            b'\nseawall_gpu_healthy{gpu="0",name="H100"} 1\nseawall_gpu_healthy{gpu="1",name="}"} 0\n',
            LoadSignals(gpu_memory=0.75, gpu_unhealthy=True),
        ),
        (b"vllm:gpu_cache_usage_perc 0.5", LoadSignals(kv_cache=0.5)),
        (
            b'sglang:num_running_reqs{m="x"} 1\nsglang:num_queue_reqs{m="x"} 2\nsglang:token_usage{m="x"} 0.1\n',
            LoadSignals(running=1, waiting=2, kv_cache=0.1),
        ),
        (
            b"llamacpp:requests_processing 1\nllamacpp:requests_deferred 4\nllamacpp:tokens_predicted_total 99\n",
            LoadSignals(running=1, waiting=4, generation_tokens=99),
        ),
        (b"tgi_queue_size 3\ntgi_batch_current_size 2\n", LoadSignals(running=2, waiting=3)),
        (b"vllm:num_requests_running 0", LoadSignals(running=0)),
        (b"vllm:num_requests_running 1 1795477771000", LoadSignals(running=1)),
        (b"vllm:kv_cache_usage_perc 1.7", LoadSignals(kv_cache=1.0)),
        (b"vllm:num_requests_running NaN\nvllm:num_requests_waiting 1", LoadSignals(waiting=1)),
        (b"vllm:num_requests_running -1", None),
        (b"vllm:num_requests_running{", None),
        (b"vllm:num_requests_running", None),
        (b"some vllm:num_requests_running 5", None),
        (b"# HELP vllm:num_requests_running 5", None),
        (b"<html>502</html>", None),
        (b"", None),
    ],
)
def test_the_gauges_that_matter_are_found(text: bytes, signals: LoadSignals | None) -> None:
    assert parse_signals(text) == signals


@given(st.binary(max_size=200), st.binary(max_size=60), st.integers(0, 200))
def test_no_bytes_break_it(head: bytes, inserted: bytes, at: int) -> None:
    parse_signals(head)
    parse_signals(VLLM[:at] + inserted + VLLM[at:])
