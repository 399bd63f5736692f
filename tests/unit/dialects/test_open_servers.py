"""SGLang, llama.cpp, TGI, Ollama and Triton: the words of their sources and of their users' reports.

A row names the version where it is known; the allocators' messages come through whichever server is in front.
"""

from __future__ import annotations

import pytest

from policies.outcome import Blame, Elsewhere, ErrorKind

K = ErrorKind


def flat(message, type="BadRequestError", code=400):
    """SGLang's error object."""
    return {"object": "error", "message": message, "type": type, "param": None, "code": code}


def llama(code, message, type, **more):
    return {"error": {"code": code, "message": message, "type": type, **more}}


def tgi(message, type):
    return {"error": message, "error_type": type}


SGLANG = [
    (
        "0.5 input too long",
        400,
        flat("The input (5000 tokens) is longer than the model's context length (4096 tokens)."),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"input_length": 5000, "max_length": 4096},
    ),
    (
        "0.5 total too long",
        400,
        flat(
            "Requested token count exceeds the model's maximum context length of 64000 tokens. You "
            "requested a total of "
            "71897 tokens: 7897 tokens from the input messages and 64000 tokens for the completion. Please reduce the "
            "number of tokens in the input messages or the completion to fit within the limit."
        ),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"input_length": 7897, "max_length": 64000, "output_length": 64000},
    ),
    (
        "0.4 input longer than the KV pool",
        400,
        flat("Input length (265330 tokens) exceeds the maximum allowed length (262144 tokens). Use a shorter input."),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"input_length": 265330, "max_length": 262144},
    ),
    (
        "0.4.9 the same, wrapped into a 500",
        500,
        flat(
            "Internal server error: The input (5000 tokens) is longer than the model's context length (4096 tokens).",
            "InternalServerError",
            500,
        ),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"input_length": 5000, "blame": Blame.NONE},
    ),
    ("0.5 queue full", 503, flat("The request queue is full.", "Service Unavailable", 503), K.MODEL_OVERLOADED, {}),
    (
        "0.5 displaced by priority",
        503,
        flat("The request is aborted by a higher priority request.", "Service Unavailable", 503),
        K.MODEL_OVERLOADED,
        {"blame": Blame.SOFT},
    ),
    (
        "0.3 prefill",
        500,
        {"error": {"message": "Prefill out of memory. Try to lower your batch size."}},
        K.OUT_OF_MEMORY,
        {},
    ),
    (
        "0.3 decode",
        500,
        {"error": {"message": "Decode out of memory. Try to lower your batch size."}},
        K.OUT_OF_MEMORY,
        {},
    ),
    (
        "ROCm",
        500,
        flat("HIP out of memory. Tried to allocate 512.00 MiB.", "InternalServerError", 500),
        K.OUT_OF_MEMORY,
        {},
    ),
    ("router without workers", 503, {"error": {"message": "No available workers"}}, K.MODEL_OVERLOADED, {}),
    ("bad parameter", 400, flat("temperature must be non-negative, got -1."), K.INVALID_INPUT, {}),
]

LLAMACPP = [
    (
        "b6000 context overflow",
        400,
        llama(
            400,
            "request (13392 tokens) exceeds the available context size (8192 tokens), try increasing it",
            "exceed_context_size_error",
            n_prompt_tokens=13392,
            n_ctx=8192,
        ),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"input_length": 13392, "max_length": 8192, "elsewhere": Elsewhere.LONGER_CONTEXT},
    ),
    (
        "b6000 without the numbers' fields",
        400,
        llama(
            400,
            "request (9412 tokens) exceeds the available context size (8192 tokens), try increasing it",
            "exceed_context_size_error",
        ),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"input_length": 9412, "max_length": 8192},
    ),
    (
        "b5000 without numbers",
        400,
        llama(400, "the request exceeds the available context size, try increasing it", "invalid_request_error"),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"input_length": None, "max_length": None},
    ),
    (
        "b6000 embeddings",
        500,
        llama(
            500,
            "input (1234 tokens) is too large to process. increase the physical batch size (current batch size: 512)",
            "server_error",
        ),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"input_length": 1234, "max_length": 512},
    ),
    (
        "b6500 larger than the slot",
        400,
        llama(
            400,
            "input (5000 tokens) is larger than the max context size (4096 tokens). skipping",
            "exceed_context_size_error",
        ),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"input_length": 5000, "max_length": 4096},
    ),
    (
        "loading",
        503,
        '{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}',
        K.MODEL_LOADING,
        {"blame": Blame.SOFT},
    ),
    ("b2000 no slot", 503, {"error": "no slot available"}, K.MODEL_OVERLOADED, {}),
    ("b2500 slot unavailable", 500, llama(500, "slot unavailable", "server_error"), K.MODEL_OVERLOADED, {}),
    (
        "not offered",
        501,
        llama(
            501,
            "This server does not support embeddings. Start it with `--embeddings`",
            "not_supported_error",
        ),
        K.INVALID_INPUT,
        {"code": "unsupported_endpoint"},
    ),
    (
        "unknown path",
        404,
        llama(404, "File Not Found", "not_found_error"),
        K.INVALID_INPUT,
        {"code": "unsupported_endpoint"},
    ),
    (
        "wrong key",
        401,
        llama(401, "Invalid API Key", "authentication_error"),
        K.GENERATION_FAILED,
        {"code": "backend_credentials_rejected"},
    ),
    (
        "bad JSON as a 500",
        500,
        llama(
            500,
            "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error while parsing object key",
            "server_error",
        ),
        K.INVALID_INPUT,
        {"blame": Blame.NONE},
    ),
    ("unsupported", 500, llama(500, "Unsupported param: echo", "server_error"), K.INVALID_INPUT, {}),
    (
        "CUDA buffer",
        500,
        llama(500, "cudaMalloc failed: out of memory", "server_error"),
        K.OUT_OF_MEMORY,
        {},
    ),
    (
        "Metal",
        500,
        llama(500, "Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)", "server_error"),
        K.OUT_OF_MEMORY,
        {},
    ),
    (
        "Vulkan",
        500,
        llama(500, "vk::Device::allocateMemory: ErrorOutOfDeviceMemory", "server_error"),
        K.OUT_OF_MEMORY,
        {},
    ),
]

TGI = [
    ("3.x overloaded", 429, tgi("Model is overloaded", "overloaded"), K.MODEL_OVERLOADED, {"blame": Blame.SOFT}),
    (
        "3.x tokens together",
        422,
        tgi(
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens "
            "and 200 `max_new_tokens`",
            "validation",
        ),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"input_length": 4000, "max_length": 4096, "output_length": 200},
    ),
    (
        "3.x inputs",
        422,
        tgi("Input validation error: `inputs` must have less than 1024 tokens. Given: 1500", "validation"),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"input_length": 1500, "max_length": 1024},
    ),
    (
        "3.x output",
        422,
        tgi("Input validation error: `max_new_tokens` must be <= 512. Given: 600", "validation"),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"input_length": None, "max_length": 512, "output_length": 600},
    ),
    (
        "3.x bad parameter",
        422,
        tgi("Input validation error: `temperature` must be strictly positive", "validation"),
        K.INVALID_INPUT,
        {"backend_message": "`temperature` must be strictly positive"},
    ),
    ("3.x template", 422, tgi("Template error: syntax error", "template_error"), K.INVALID_INPUT, {}),
    (
        "3.x crash",
        424,
        tgi("Request failed during generation: Server error: CUDA error: device-side assert triggered", "generation"),
        K.GENERATION_FAILED,
        {"blame": Blame.ENDPOINT},
    ),
    (
        "3.x out of memory",
        424,
        tgi(
            "Request failed during generation: Server error: CUDA out of memory. Tried to allocate 1.17 GiB.",
            "generation",
        ),
        K.OUT_OF_MEMORY,
        {},
    ),
    (
        "3.x warm-up",
        424,
        tgi("Server error: Not enough memory to handle 4096 prefill tokens.", "generation"),
        K.OUT_OF_MEMORY,
        {},
    ),
    ("3.x cut", 500, tgi("Incomplete generation", "incomplete_generation"), K.GENERATION_FAILED, {}),
    ("3.x sick", 503, tgi("unhealthy", "healthcheck"), K.MODEL_OVERLOADED, {}),
    (
        "hub: loading, with an estimate",
        503,
        {"error": "Model meta-llama/Llama-3.1-8B is currently loading", "estimated_time": 20.0},
        K.MODEL_LOADING,
        {"retry_after": 20.0},
    ),
]

OLLAMA = [
    (
        "0.12 unknown model",
        404,
        {"error": {"message": 'model "llama9" not found, try pulling it first', "type": "not_found_error"}},
        K.MODEL_NOT_FOUND,
        {},
    ),
    ("0.12 native, unknown model", 404, {"error": "model 'llama9' not found"}, K.MODEL_NOT_FOUND, {}),
    (
        "queue full",
        503,
        {"error": "server busy, please try again.  maximum pending requests exceeded"},
        K.MODEL_OVERLOADED,
        {"blame": Blame.SOFT},
    ),
    (
        "prompt too long",
        400,
        {
            "error": "the prompt is longer than the context length currently available to the "
            "model; shorten the prompt, "
            "adjust the context length in settings, or use a model with a longer context length"
        },
        K.CONTEXT_LENGTH_EXCEEDED,
        {},
    ),
    (
        "embedding too long",
        400,
        {"error": "the input length exceeds the context length"},
        K.CONTEXT_LENGTH_EXCEEDED,
        {},
    ),
    (
        "too big for the machine",
        500,
        {"error": "model requires more system memory (5.6 GiB) than is available (3.1 GiB)"},
        K.OUT_OF_MEMORY,
        {},
    ),
    (
        "runner out of memory",
        500,
        {"error": "llama runner process has terminated: cudaMalloc failed: out of memory"},
        K.OUT_OF_MEMORY,
        {},
    ),
    (
        "runner cannot load",
        500,
        {"error": "llama runner process has terminated: error loading model: unknown model architecture"},
        K.MODEL_LOADING_FAILED,
        {},
    ),
    (
        "runner slow to start",
        500,
        {"error": "timed out waiting for llama runner to start - progress 0.00 - "},
        K.MODEL_LOADING_FAILED,
        {},
    ),
    (
        "runner still loading",
        500,
        {"error": "unexpected server status: llm server loading model"},
        K.MODEL_LOADING,
        {},
    ),
    (
        "runner gone",
        500,
        {
            "error": "model runner has unexpectedly stopped, this may be due to resource limitations or an internal "
            "error, check ollama server logs for details"
        },
        K.GENERATION_FAILED,
        {"blame": Blame.ENDPOINT},
    ),
    ("cancelled", 499, {"error": "request canceled"}, K.GENERATION_FAILED, {"blame": Blame.SOFT}),
    ("unknown path", 404, "404 page not found", K.INVALID_INPUT, {"code": "unsupported_endpoint"}),
    ("no such ability", 400, {"error": '"all-minilm" does not support generate'}, K.INVALID_INPUT, {}),
]

TRITON = [
    ("unknown model", 404, {"error": "Request for unknown model: 'nope' is not found"}, K.MODEL_NOT_FOUND, {}),
    (
        "unknown model before 23.x",
        400,
        {"error": "Request for unknown model: 'nope' is not found"},
        K.MODEL_NOT_FOUND,
        {},
    ),
    (
        "no version ready",
        400,
        {"error": "Request for unknown model: 'sdxl' has no available versions"},
        K.MODEL_LOADING,
        {"blame": Blame.SOFT},
    ),
    ("queue full", 503, {"error": "Exceeds maximum queue size"}, K.MODEL_OVERLOADED, {}),
    ("queue timeout", 503, {"error": "Request timeout expired"}, K.MODEL_OVERLOADED, {}),
    (
        "stopping",
        503,
        {"error": "Server is stopping, scheduler for model has stopped accepting new inference requests"},
        K.MODEL_OVERLOADED,
        {},
    ),
    (
        "bad shape",
        400,
        {"error": "unexpected shape for input 'INPUT0' for model 'simple'. Expected [-1,16], got [1,17]"},
        K.INVALID_INPUT,
        {},
    ),
    (
        "python backend",
        500,
        {
            "error": "Failed to process the request(s) for model instance 'sdxl_0', message: "
            "OutOfMemoryError: CUDA out "
            "of memory. Tried to allocate 1.00 GiB"
        },
        K.OUT_OF_MEMORY,
        {},
    ),
    (
        "TensorRT-LLM",
        500,
        {"error": "Executor failed: Prompt length (5000) exceeds maximum input length (4096)."},
        K.CONTEXT_LENGTH_EXCEEDED,
        {"input_length": 5000, "max_length": 4096, "blame": Blame.NONE},
    ),
]

ROWS = [
    (kind, *row)
    for kind, rows in (
        ("sglang", SGLANG),
        ("llamacpp", LLAMACPP),
        ("tgi", TGI),
        ("ollama", OLLAMA),
        ("triton", TRITON),
    )
    for row in rows
]


@pytest.mark.parametrize(
    ("dialect", "said", "status", "body", "kind", "facts"), ROWS, ids=[f"{row[0]}: {row[1]}" for row in ROWS]
)
def test_error_answer(judge, check, dialect, said, status, body, kind, facts):
    check(judge(dialect, status, body), kind, facts)
