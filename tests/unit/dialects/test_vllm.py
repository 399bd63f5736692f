"""vLLM's answers.

Rows marked 0.32 were captured from a running server; the others are
wordings of other versions, whose number is the one they were reported with.
"""

from __future__ import annotations

import pytest

from policies.outcome import Blame, Elsewhere, ErrorKind

K = ErrorKind
ENGINE = "EngineCore encountered an issue. See stack trace (above) for the root cause."


def error(message, type="BadRequestError", param=None, code=400):
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


ROWS = [
    (
        "0.32 max_tokens above the model's length",
        400,
        '{"error":{"message":"max_tokens=5000 cannot be greater than max_model_len=512. Please request fewer output '
        'tokens. (parameter=max_tokens, value=5000)","type":"BadRequestError","param":"max_tokens","code":400}}',
        K.CONTEXT_LENGTH_EXCEEDED,
        {"max_length": 512, "output_length": 5000, "input_length": None, "param": "max_tokens"},
    ),
    (
        "0.32 prompt too long, counted in characters",
        400,
        '{"error":{"message":"This model\'s maximum context length is 512 tokens. However, your prompt contains 13525 '
        "characters (more than 7680 characters, which is the upper bound for 512 input tokens). Please reduce the "
        'length of the input prompt. (parameter=input_text, value=13525)","type":"BadRequestError",'
        '"param":"input_text","code":400}}',
        K.CONTEXT_LENGTH_EXCEEDED,
        {"max_length": 512, "input_length": None, "input_characters": 13525, "param": None},
    ),
    (
        "0.32 a close miss in tokens",
        400,
        error(
            "This model's maximum context length is 512 tokens. However, your request has 600 input tokens. Please "
            "reduce the length of the input messages. (parameter=input_tokens, value=600)",
            param="input_tokens",
        ),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"max_length": 512, "input_length": 600, "param": None, "elsewhere": Elsewhere.LONGER_CONTEXT},
    ),
    (
        "0.19 input and output together",
        400,
        error(
            "This model's maximum context length is 4096 tokens. However, you requested 1000 output tokens and your "
            "prompt contains at least 3097 input tokens, for a total of at least 4097 tokens. Please reduce the "
            "length of the input prompt or the number of requested output tokens.",
            param="input_tokens",
        ),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"max_length": 4096, "input_length": 3097, "output_length": 1000},
    ),
    (
        "0.19 max_model_len spelt out",
        400,
        error(
            "max_tokens=8888 cannot be greater than max_model_len=max_total_tokens=3072. Please request fewer "
            "output tokens.",
            param="max_tokens",
        ),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"max_length": 3072, "output_length": 8888},
    ),
    (
        "0.8 max_completion_tokens too large",
        400,
        {
            "object": "error",
            "message": "'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's "
            "maximum context length "
            "is 4096 tokens and your request has 12 input tokens (5000 > 4096 - 12).",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        K.CONTEXT_LENGTH_EXCEEDED,
        {"max_length": 4096, "input_length": 12, "output_length": 5000},
    ),
    (
        "0.3 flat error, messages and completion",
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 8192 tokens. However, you requested 50014 tokens (14 in "
            "the messages, 50000 in the completion). Please reduce the length of the messages or completion.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        K.CONTEXT_LENGTH_EXCEEDED,
        {"max_length": 8192, "input_length": 14, "output_length": 50000},
    ),
    (
        "kserve's vLLM: the same as a 500",
        500,
        {
            "error": {
                "code": "500",
                "message": "This model's maximum context length is 8192 tokens. However, you requested 50014 tokens "
                "(14 in the messages, 50000 in the completion). Please reduce the length of the "
                "messages or completion.",
                "param": "",
                "type": "OpenAIError",
            }
        },
        K.CONTEXT_LENGTH_EXCEEDED,
        {"max_length": 8192, "input_length": 14, "blame": Blame.NONE},
    ),
    (
        "0.6 embeddings",
        400,
        error(
            "This model's maximum context length is 512 tokens. However, you requested 733 tokens in the input for "
            "embedding generation. Please reduce the length of the input."
        ),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"max_length": 512, "input_length": 733},
    ),
    (
        "0.9 decoder prompt",
        400,
        error(
            "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure that "
            "`max_model_len` is no smaller than the number of text tokens."
        ),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"max_length": 4096, "input_length": 5000},
    ),
    (
        "Rust front end",
        400,
        error("this model's maximum context length is 2048 tokens, but the prompt contains 2100 input tokens"),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"max_length": 2048, "input_length": 2100},
    ),
    (
        "0.32 unknown model",
        404,
        '{"error":{"message":"The model `nope` does not exist. Valid aliases: tiny.","type":"NotFoundError",'
        '"param":"model","code":404}}',
        K.MODEL_NOT_FOUND,
        {"param": "model", "elsewhere": Elsewhere.NEXT_TIER, "blame": Blame.ENDPOINT},
    ),
    (
        "0.32 /v1/messages, unknown model",
        404,
        '{"type":"error","error":{"type":"NotFoundError","message":"The model `nope` does not exist. Valid: tiny."}}',
        K.MODEL_NOT_FOUND,
        {},
    ),
    (
        "0.10 unknown adapter",
        404,
        error("The lora adapter `french` does not exist.", "NotFoundError", code=404),
        K.MODEL_NOT_FOUND,
        {},
    ),
    (
        "0.32 unknown path",
        404,
        '{"detail":"Not Found"}',
        K.INVALID_INPUT,
        {"code": "unsupported_endpoint", "blame": Blame.NONE, "elsewhere": Elsewhere.NEXT_TIER},
    ),
    ("0.32 wrong method", 405, '{"detail":"Method Not Allowed"}', K.INVALID_INPUT, {"code": "unsupported_endpoint"}),
    (
        "0.32 missing field",
        400,
        "{\"error\":{\"message\":\"1 validation error:\\n  {'type': 'missing', 'loc': 'body.messages', 'msg': 'Field "
        "required', 'input': {'model': 'tiny', 'prompt': 'my secret diary'}}\","
        '"type":"Bad Request","param":"body.messages","code":400}}',
        K.INVALID_INPUT,
        {"param": "messages", "backend_message": "messages: Field required", "elsewhere": Elsewhere.NO},
    ),
    (
        "0.32 bad parameter",
        400,
        '{"error":{"message":"temperature must be non-negative, got -3.0. (parameter=temperature, value=-3.0)",'
        '"type":"BadRequestError","param":"temperature","code":400}}',
        K.INVALID_INPUT,
        {"param": "temperature", "backend_message": "temperature must be non-negative, got -3.0."},
    ),
    (
        "0.10 tools not enabled",
        400,
        error('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'),
        K.INVALID_INPUT,
        {"blame": Blame.NONE},
    ),
    (
        "0.11 not implemented for this model",
        501,
        error("The model does not support Completions API", "NotImplementedError", code=501),
        K.INVALID_INPUT,
        {"code": "unsupported_endpoint"},
    ),
    (
        "0.6 bad input as a 500",
        500,
        error("ValueError: Token id 152064 is out of vocabulary", "InternalServerError", code=500),
        K.INVALID_INPUT,
        {"blame": Blame.NONE},
    ),
    (
        "0.32 an exception's name alone in a 500",
        500,
        error("ValueError: too many values to unpack (expected 2)", "InternalServerError", code=500),
        K.INVALID_INPUT,
        {"blame": Blame.NONE, "elsewhere": Elsewhere.ONCE},
    ),
    (
        "0.32 its own answer is not valid",
        500,
        error("2 validation errors for ChatCompletionStreamResponse\nmodel\n  Field required", "internal_error"),
        K.GENERATION_FAILED,
        {"blame": Blame.ENDPOINT, "elsewhere": Elsewhere.YES},
    ),
    (
        "0.7 template error as a 500",
        500,
        error(
            "jinja2.exceptions.TemplateError: Conversation roles must alternate user/assistant/user/assistant/...",
            "InternalServerError",
            code=500,
        ),
        K.INVALID_INPUT,
        {"blame": Blame.NONE},
    ),
    (
        "0.32 engine dead",
        500,
        error(ENGINE, "InternalServerError", code=500),
        K.GENERATION_FAILED,
        {"status": 500, "blame": Blame.ENDPOINT, "elsewhere": Elsewhere.YES},
    ),
    (
        "0.5 engine dead",
        500,
        {"error": "vllm.engine.async_llm_engine.AsyncEngineDeadError: Background loop has errored already."},
        K.GENERATION_FAILED,
        {"blame": Blame.ENDPOINT},
    ),
    (
        "0.6 multiprocess engine dead",
        500,
        error("Engine loop is not running. Inspect the stacktrace: MQEngineDeadError", "InternalServerError", code=500),
        K.GENERATION_FAILED,
        {},
    ),
    (
        "0.5 nothing but the words",
        500,
        "Internal Server Error",
        K.GENERATION_FAILED,
        {"evidence": "Internal Server Error"},
    ),
    (
        "torch out of memory",
        500,
        error(
            "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has "
            "a total capacity of "
            "79.15 GiB of which 1.02 GiB is free.",
            "InternalServerError",
            code=500,
        ),
        K.OUT_OF_MEMORY,
        {"blame": Blame.ENDPOINT, "elsewhere": Elsewhere.YES},
    ),
    (
        "KV cache does not fit",
        500,
        error("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.", code=500),
        K.OUT_OF_MEMORY,
        {},
    ),
    (
        "wrong API key",
        401,
        '{"error":"Unauthorized"}',
        K.GENERATION_FAILED,
        {"code": "backend_credentials_rejected", "elsewhere": Elsewhere.YES, "blame": Blame.ENDPOINT},
    ),
    ("busy", 503, error("Service Unavailable", "ServiceUnavailableError", code=503), K.MODEL_OVERLOADED, {}),
]


@pytest.mark.parametrize(("said", "status", "body", "kind", "facts"), ROWS, ids=[row[0] for row in ROWS])
@pytest.mark.parametrize("dialect", ["vllm", "embedded"])
def test_error_answer(judge, check, dialect, said, status, body, kind, facts):
    check(judge(dialect, status, body), kind, facts)


def test_echoed_input_is_in_neither_the_evidence_nor_the_clients_message(judge):
    row = next(row for row in ROWS if row[0] == "0.32 missing field")

    failure = judge("vllm", row[1], row[2])

    assert "diary" not in failure.evidence
    assert "diary" not in str(failure.details)


@pytest.mark.parametrize(
    "prompt", ["CUDA out of memory", "EngineDeadError", "the model is overloaded", "Loading model"]
)
def test_a_refused_prompt_cannot_blame_the_server(judge, prompt):
    body = {"error": {"message": f"messages must alternate, got {prompt!r}", "type": "BadRequestError", "code": 400}}

    failure = judge("vllm", 400, body)

    assert (failure.kind, failure.blame) == (K.INVALID_INPUT, Blame.NONE)
