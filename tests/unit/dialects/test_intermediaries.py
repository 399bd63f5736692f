"""What stands between: nginx, Envoy, Cloudflare and load balancers answer in their own words, and so may any server."""

from __future__ import annotations

import pytest

from policies.outcome import Blame, Elsewhere, ErrorKind

K = ErrorKind
KINDS = ["vllm", "sglang", "llamacpp", "tgi", "ollama", "openai", "anthropic", "triton", "diffusers", "embedded"]


def nginx(reason):
    return (
        f"<html>\r\n<head><title>{reason}</title></head>\r\n<body>\r\n<center><h1>{reason}</h1></center>\r\n"
        "<hr><center>nginx/1.26.2</center>\r\n</body>\r\n</html>\r\n"
    )


ROWS = [
    ("nginx 502", 502, nginx("502 Bad Gateway"), K.BACKEND_UNREACHABLE, {"blame": Blame.ENDPOINT}),
    ("nginx 503", 503, nginx("503 Service Temporarily Unavailable"), K.MODEL_OVERLOADED, {"blame": Blame.SOFT}),
    ("nginx 504", 504, nginx("504 Gateway Time-out"), K.INFERENCE_TIMEOUT, {}),
    ("nginx 413", 413, nginx("413 Request Entity Too Large"), K.PAYLOAD_TOO_LARGE, {}),
    (
        "nginx 404: not the model server at all",
        404,
        nginx("404 Not Found"),
        K.GENERATION_FAILED,
        {"elsewhere": Elsewhere.YES},
    ),
    ("nginx 500", 500, nginx("500 Internal Server Error"), K.GENERATION_FAILED, {}),
    ("nginx 499", 499, b"", K.GENERATION_FAILED, {"blame": Blame.SOFT}),
    ("Envoy, nobody there", 503, "no healthy upstream", K.BACKEND_UNREACHABLE, {}),
    (
        "Envoy, refused",
        503,
        "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
        K.BACKEND_UNREACHABLE,
        {},
    ),
    ("Envoy, slow", 504, "upstream request timeout", K.INFERENCE_TIMEOUT, {}),
    ("Cloudflare 522", 522, nginx("522: Connection timed out"), K.INFERENCE_TIMEOUT, {}),
    ("Cloudflare 521", 521, "error code: 521", K.BACKEND_UNREACHABLE, {}),
    ("Cloudflare 524", 524, "error code: 524", K.INFERENCE_TIMEOUT, {}),
    ("an empty 500", 500, b"", K.GENERATION_FAILED, {}),
    ("an empty 503", 503, b"", K.MODEL_OVERLOADED, {}),
    ("an empty 429", 429, b"", K.MODEL_OVERLOADED, {}),
    ("a 501 that no model server wrote", 501, nginx("501 Not Implemented"), K.GENERATION_FAILED, {}),
    ("a redirect", 302, b"", K.GENERATION_FAILED, {"status": 302}),
    ("a teapot", 418, "I'm a teapot", K.INVALID_INPUT, {"blame": Blame.NONE, "backend_message": None}),
    ("torch, MPS", 500, "MPS backend out of memory (MPS allocated: 8.1 GB)", K.OUT_OF_MEMORY, {}),
    ("torch, newer name", 500, "torch.OutOfMemoryError: CUDA out of memory.", K.OUT_OF_MEMORY, {}),
    ("CUDA driver", 500, "CUDA error: out of memory", K.OUT_OF_MEMORY, {}),
    (
        "cuBLAS",
        500,
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`",
        K.OUT_OF_MEMORY,
        {},
    ),
    (
        "CPU",
        500,
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes",
        K.OUT_OF_MEMORY,
        {},
    ),
    ("JAX", 500, "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1.2G", K.OUT_OF_MEMORY, {}),
    (
        "a traceback",
        500,
        "Traceback (most recent call last):\n" + "  File x\n" * 900 + "HIP out of memory.",
        K.OUT_OF_MEMORY,
        {},
    ),
    ("507", 507, b"", K.OUT_OF_MEMORY, {}),
]


@pytest.mark.parametrize(("said", "status", "body", "kind", "facts"), ROWS, ids=[row[0] for row in ROWS])
@pytest.mark.parametrize("dialect", KINDS)
def test_error_answer(judge, check, dialect, said, status, body, kind, facts):
    check(judge(dialect, status, body, headers={}), kind, facts)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_servers_retry_after_is_kept(judge, status):
    assert judge("openai", status, b"", headers={"retry-after": "7"}).retry_after == 7.0


def test_a_clients_fault_keeps_no_retry_after(judge):
    assert judge("openai", 400, b"{}", headers={"retry-after": "7"}).retry_after is None
