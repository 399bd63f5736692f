"""OpenAI, those that imitate it, and Anthropic: answers as their documents and their users' reports quote them."""

from __future__ import annotations

import pytest

from policies.outcome import Blame, Elsewhere, ErrorKind

K = ErrorKind
REJECTED = {"code": "backend_credentials_rejected", "elsewhere": Elsewhere.YES, "blame": Blame.ENDPOINT}


def error(message, type="invalid_request_error", param=None, code=None):
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def claude(type, message):
    return {"type": "error", "error": {"type": type, "message": message}, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}


OPENAI = [
    (
        "completions, total too long",
        400,
        error(
            "This model's maximum context length is 4097 tokens, however you requested 5360 tokens "
            "(1360 in your prompt; "
            "4000 for the completion). Please reduce your prompt; or completion length."
        ),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"max_length": 4097, "input_length": 1360, "output_length": 4000},
    ),
    (
        "chat, total too long",
        400,
        error(
            "This model's maximum context length is 4097 tokens. However, you requested 5000 tokens (4000 in the "
            "messages, 1000 in the completion). Please reduce the length of the messages or completion.",
            param="messages",
            code="context_length_exceeded",
        ),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"max_length": 4097, "input_length": 4000, "output_length": 1000, "param": "messages"},
    ),
    (
        "chat, messages too long",
        400,
        error(
            "This model's maximum context length is 128000 tokens. However, your messages resulted in 150000 tokens. "
            "Please reduce the length of the messages.",
            param="messages",
            code="context_length_exceeded",
        ),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"max_length": 128000, "input_length": 150000},
    ),
    (
        "responses",
        400,
        error(
            "Your input exceeds the context window of this model. Please adjust your input and try again.",
            param="input",
            code="context_length_exceeded",
        ),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"param": "input", "max_length": None},
    ),
    (
        "input tokens limit",
        400,
        error(
            "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in "
            "509178 tokens. Please "
            "reduce the length of the messages."
        ),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"max_length": 272000, "input_length": 509178},
    ),
    (
        "OpenRouter",
        400,
        {
            "error": {
                "message": "This endpoint's maximum context length is 131072 tokens. However, you "
                "requested about 200000 "
                "tokens (190000 of text input, 10000 in the output).",
                "code": 400,
            }
        },
        K.CONTEXT_LENGTH_EXCEEDED,
        {"max_length": 131072, "input_length": 190000},
    ),
    (
        "Mistral",
        400,
        {
            "object": "error",
            "message": "Prompt contains 200000 tokens, too large for model with 131072 maximum context length",
            "type": "invalid_request_error",
        },
        K.CONTEXT_LENGTH_EXCEEDED,
        {"max_length": 131072, "input_length": 200000},
    ),
    (
        "xAI",
        400,
        {"error": "This model's maximum prompt length is 131072 but the request contains 537812 tokens"},
        K.CONTEXT_LENGTH_EXCEEDED,
        {"max_length": 131072, "input_length": 537812},
    ),
    ("Groq", 400, error("Please reduce the length of the messages or completion"), K.CONTEXT_LENGTH_EXCEEDED, {}),
    (
        "Together",
        422,
        error("The input (516368 tokens) is longer than the model's context length (262144 tokens)."),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"max_length": 262144, "input_length": 516368},
    ),
    (
        "Gemini's OpenAI endpoint",
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "The input token count (1196265) exceeds the maximum number of tokens "
                    "allowed (1048575).",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
        K.CONTEXT_LENGTH_EXCEEDED,
        {"max_length": 1048575, "input_length": 1196265},
    ),
    (
        "images, content policy",
        400,
        error(
            "Your request was rejected as a result of our safety system. Your prompt may contain text that is not "
            "allowed by our safety system.",
            code="content_policy_violation",
        ),
        K.CONTENT_FILTERED,
        {"elsewhere": Elsewhere.NO, "blame": Blame.NONE},
    ),
    (
        "Azure, content filter",
        400,
        error(
            "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please "
            "modify your prompt and retry.",
            type=None,
            param="prompt",
            code="content_filter",
        ),
        K.CONTENT_FILTERED,
        {"param": "prompt"},
    ),
    ("gpt-image-1", 400, error("Your request was rejected.", code="moderation_blocked"), K.CONTENT_FILTERED, {}),
    (
        "OpenRouter moderation",
        403,
        {"error": {"code": 403, "message": "Your chosen model requires moderation and your input was flagged"}},
        K.CONTENT_FILTERED,
        {},
    ),
    (
        "wrong key",
        401,
        error(
            "Incorrect API key provided: sk-abcde***wxyz. You can find your API key at https://x.",
            code="invalid_api_key",
        ),
        K.GENERATION_FAILED,
        REJECTED,
    ),
    ("no key", 401, error("You didn't provide an API key."), K.GENERATION_FAILED, REJECTED),
    (
        "country",
        403,
        error("Country, region, or territory not supported", code="unsupported_country_region_territory"),
        K.GENERATION_FAILED,
        REJECTED,
    ),
    (
        "rate limit, wait in words",
        429,
        error(
            "Rate limit reached for gpt-4 in organization org-x on tokens per min (TPM): Limit 10000, Used 9000, "
            "Requested 2000. Please try again in 6.5s.",
            "tokens",
            code="rate_limit_exceeded",
        ),
        K.MODEL_OVERLOADED,
        {"retry_after": 6.5, "blame": Blame.SOFT, "elsewhere": Elsewhere.YES},
    ),
    (
        "rate limit in milliseconds",
        429,
        error("Rate limit reached for requests. Please try again in 860ms.", "requests", code="rate_limit_exceeded"),
        K.MODEL_OVERLOADED,
        {"retry_after": 0.86},
    ),
    (
        "quota",
        429,
        error(
            "You exceeded your current quota, please check your plan.", "insufficient_quota", code="insufficient_quota"
        ),
        K.GENERATION_FAILED,
        {"code": "backend_quota_exhausted", "blame": Blame.ENDPOINT, "elsewhere": Elsewhere.YES},
    ),
    (
        "payment required",
        402,
        {"error": {"message": "Insufficient credits", "code": 402}},
        K.GENERATION_FAILED,
        {"code": "backend_quota_exhausted"},
    ),
    (
        "unknown model",
        404,
        error("The model `gpt-9` does not exist or you do not have access to it.", code="model_not_found"),
        K.MODEL_NOT_FOUND,
        {},
    ),
    (
        "Azure, unknown deployment",
        404,
        {"error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}},
        K.MODEL_NOT_FOUND,
        {},
    ),
    ("model retired", 410, {"detail": "model reached its end of life"}, K.MODEL_NOT_FOUND, {}),
    (
        "unknown path",
        404,
        error("Invalid URL (POST /v1/foo)"),
        K.INVALID_INPUT,
        {"code": "unsupported_endpoint"},
    ),
    (
        "bad parameter",
        400,
        error(
            "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead.",
            param="temperature",
            code="decimal_above_max_value",
        ),
        K.INVALID_INPUT,
        {"param": "temperature", "code": None},
    ),
    (
        "overloaded",
        503,
        error("The engine is currently overloaded, please try again later.", "server_error"),
        K.MODEL_OVERLOADED,
        {},
    ),
    (
        "server error",
        500,
        error("The server had an error while processing your request. Sorry about that!", "server_error"),
        K.GENERATION_FAILED,
        {},
    ),
    (
        "audio too large",
        413,
        error("Maximum content size limit (26214400) exceeded (26214401 bytes read)"),
        K.PAYLOAD_TOO_LARGE,
        {"blame": Blame.NONE},
    ),
    ("request timeout", 408, error("Request timed out", "timeout"), K.INFERENCE_TIMEOUT, {}),
    (
        "FastAPI server",
        422,
        {
            "detail": [
                {"type": "missing", "loc": ["body", "messages", 0, "role"], "msg": "Field required", "input": {"a": 1}},
                {"type": "less_than_equal", "loc": ["body", "n"], "msg": "Input should be less than or equal to 8"},
            ]
        },
        K.VALIDATION_ERROR,
        {
            "field_errors": {
                "messages -> 0 -> role": ["Field required"],
                "n": ["Input should be less than or equal to 8"],
            }
        },
    ),
    (
        "a Seawall behind this one",
        507,
        {
            "error": {
                "message": "The request needs more GPU memory than is free.",
                "type": "server_error",
                "code": "out_of_memory",
                "error_type": "out_of_memory",
            }
        },
        K.OUT_OF_MEMORY,
        {},
    ),
]

ANTHROPIC = [
    (
        "prompt too long",
        400,
        claude("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"input_length": 210000, "max_length": 200000},
    ),
    (
        "together too long",
        400,
        claude(
            "invalid_request_error",
            "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease input length or "
            "`max_tokens` and try again",
        ),
        K.CONTEXT_LENGTH_EXCEEDED,
        {"input_length": 188240, "output_length": 21333, "max_length": 200000},
    ),
    ("overloaded", 529, claude("overloaded_error", "Overloaded"), K.MODEL_OVERLOADED, {"blame": Blame.SOFT}),
    (
        "rate limit",
        429,
        claude("rate_limit_error", "This request would exceed your organization's rate limit"),
        K.MODEL_OVERLOADED,
        {},
    ),
    ("wrong key", 401, claude("authentication_error", "invalid x-api-key"), K.GENERATION_FAILED, REJECTED),
    (
        "no permission",
        403,
        claude("permission_error", "Your API key does not have permission"),
        K.GENERATION_FAILED,
        REJECTED,
    ),
    ("too large", 413, claude("request_too_large", "Request exceeds the maximum size"), K.PAYLOAD_TOO_LARGE, {}),
    ("unknown model", 404, claude("not_found_error", "model: claude-99"), K.MODEL_NOT_FOUND, {}),
    ("internal", 500, claude("api_error", "Internal server error"), K.GENERATION_FAILED, {}),
    ("timeout", 504, claude("timeout_error", "Request timed out."), K.INFERENCE_TIMEOUT, {}),
    (
        "credit",
        400,
        claude("invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
        K.GENERATION_FAILED,
        {"code": "backend_quota_exhausted"},
    ),
    (
        "filtered",
        400,
        claude("invalid_request_error", "Output blocked by content filtering policy"),
        K.CONTENT_FILTERED,
        {},
    ),
    (
        "bad parameter",
        400,
        claude("invalid_request_error", "max_tokens: Field required"),
        K.INVALID_INPUT,
        {"backend_message": "max_tokens: Field required"},
    ),
]

ROWS = [("openai", *row) for row in OPENAI] + [("anthropic", *row) for row in ANTHROPIC]


@pytest.mark.parametrize(
    ("dialect", "said", "status", "body", "kind", "facts"), ROWS, ids=[f"{row[0]}: {row[1]}" for row in ROWS]
)
def test_error_answer(judge, check, dialect, said, status, body, kind, facts):
    check(judge(dialect, status, body), kind, facts)


def test_our_key_is_not_in_the_evidence(judge):
    row = next(row for row in OPENAI if row[0] == "wrong key")

    assert "sk-" not in judge("openai", row[1], row[2]).evidence
