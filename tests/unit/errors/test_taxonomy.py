from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors.kinds import CODE_MESSAGES, KINDS, RANKING
from gateway.errors.taxonomy import MAX_ATTEMPTS_SHOWN, FailedAttempt, GatewayError, did_you_mean
from policies.outcome import Elsewhere, ErrorKind, Failure

K = ErrorKind

CONTRACT = [
    (K.VALIDATION_ERROR, 422, "invalid_request_error", False),
    (K.INVALID_INPUT, 400, "invalid_request_error", False),
    (K.CONTEXT_LENGTH_EXCEEDED, 400, "invalid_request_error", False),
    (K.CONTENT_FILTERED, 400, "invalid_request_error", False),
    (K.AUTHENTICATION_FAILED, 401, "authentication_error", False),
    (K.PERMISSION_DENIED, 403, "permission_error", False),
    (K.MODEL_NOT_FOUND, 404, "invalid_request_error", False),
    (K.PAYLOAD_TOO_LARGE, 413, "invalid_request_error", False),
    (K.RATE_LIMITED, 429, "rate_limit_error", True),
    (K.GENERATION_FAILED, 502, "server_error", True),
    (K.BACKEND_UNREACHABLE, 502, "server_error", True),
    (K.MODEL_OVERLOADED, 503, "server_error", True),
    (K.MODEL_LOADING, 503, "server_error", True),
    (K.INFERENCE_TIMEOUT, 504, "server_error", True),
    (K.DEADLINE_EXCEEDED, 504, "server_error", False),
    (K.OUT_OF_MEMORY, 507, "server_error", False),
    (K.MODEL_LOADING_FAILED, 503, "server_error", False),
    (K.INTERNAL_ERROR, 500, "server_error", False),
]


@pytest.mark.parametrize(("kind", "status", "openai_type", "retryable"), CONTRACT)
def test_the_contracts_table(kind, status, openai_type, retryable):
    error = GatewayError(kind)

    assert (error.status, error.type, error.is_retryable, error.code) == (status, openai_type, retryable, kind.value)


def test_the_disconnected_client_is_a_499_in_the_log():
    assert GatewayError(K.CLIENT_DISCONNECTED).status == 499


def test_every_kind_has_a_row_and_a_rank():
    assert set(KINDS) == set(RANKING) == set(ErrorKind)
    assert len(RANKING) == len(ErrorKind)


@pytest.mark.parametrize("kind", ErrorKind)
def test_every_message_says_what_happened_and_what_to_do(kind):
    message = KINDS[kind].message

    assert message[0].isupper()
    assert message.endswith(".")
    assert message.count(". ") >= 1 or ":" in message or kind is K.CLIENT_DISCONNECTED


def tried(*kinds: ErrorKind, **changes) -> list[FailedAttempt]:
    return [FailedAttempt(f"b{n}", Failure(kind, **changes), 10.0) for n, kind in enumerate(kinds)]


TOTALS = [
    ((K.GENERATION_FAILED,), K.GENERATION_FAILED),
    ((K.BACKEND_UNREACHABLE, K.GENERATION_FAILED), K.GENERATION_FAILED),
    ((K.GENERATION_FAILED, K.INFERENCE_TIMEOUT), K.INFERENCE_TIMEOUT),
    ((K.INFERENCE_TIMEOUT, K.MODEL_OVERLOADED), K.MODEL_OVERLOADED),
    ((K.MODEL_OVERLOADED, K.MODEL_LOADING, K.BACKEND_UNREACHABLE), K.MODEL_LOADING),
    ((K.MODEL_LOADING, K.OUT_OF_MEMORY), K.OUT_OF_MEMORY),
    ((K.OUT_OF_MEMORY, K.DEADLINE_EXCEEDED), K.DEADLINE_EXCEEDED),
    ((K.MODEL_OVERLOADED, K.CONTEXT_LENGTH_EXCEEDED), K.CONTEXT_LENGTH_EXCEEDED),
    ((K.CONTEXT_LENGTH_EXCEEDED, K.CONTENT_FILTERED), K.CONTENT_FILTERED),
    ((K.OUT_OF_MEMORY, K.INVALID_INPUT), K.INVALID_INPUT),
    ((K.MODEL_LOADING_FAILED, K.BACKEND_UNREACHABLE), K.BACKEND_UNREACHABLE),
    ((K.MODEL_NOT_FOUND, K.MODEL_LOADING_FAILED), K.MODEL_LOADING_FAILED),
    ((K.INTERNAL_ERROR, K.MODEL_NOT_FOUND), K.MODEL_NOT_FOUND),
]


@pytest.mark.parametrize(("kinds", "reported"), TOTALS)
def test_a_total_failure_is_the_most_telling_attempts(kinds, reported):
    assert GatewayError.from_failures(tried(*kinds)).kind is reported
    assert GatewayError.from_failures(tried(*reversed(kinds))).kind is reported


def test_a_fallback_models_refusal_does_not_hide_what_befell_the_primary():
    attempts = [
        FailedAttempt("big", Failure(K.MODEL_OVERLOADED), 1.0),
        FailedAttempt("small", Failure(K.CONTEXT_LENGTH_EXCEEDED, details={"max_length": 512}), 1.0, fallback=True),
    ]

    assert GatewayError.from_failures(attempts).kind is K.MODEL_OVERLOADED


def test_rejected_credentials_are_reported_only_when_nothing_else_is():
    rejected = Failure(K.GENERATION_FAILED, code="backend_credentials_rejected")
    alone = GatewayError.from_failures([FailedAttempt("a", rejected, 1.0)])
    both = GatewayError.from_failures(
        [FailedAttempt("a", rejected, 1.0), FailedAttempt("b", Failure(K.BACKEND_UNREACHABLE), 1.0)]
    )

    assert (alone.status, alone.code, alone.is_retryable) == (502, "backend_credentials_rejected", False)
    assert "API key is not at fault" in alone.message
    assert both.code == "backend_unreachable"


def test_no_attempts_are_no_failure():
    with pytest.raises(ValueError):
        GatewayError.from_failures([])


def test_the_trail_names_backends_and_kinds_and_nothing_else():
    failure = Failure(K.OUT_OF_MEMORY, "CUDA out of memory at 10.0.0.5", status=500)

    error = GatewayError.from_failures([FailedAttempt("llama-a", failure, 412.4)])

    assert error.details["attempts"] == [
        {"backend": "llama-a", "error_type": "out_of_memory", "status": 500, "ms": 412}
    ]


def test_the_trail_keeps_the_last_attempts():
    attempts = [FailedAttempt(str(n), Failure(K.GENERATION_FAILED), 1.0) for n in range(100)]

    shown = GatewayError.from_failures(attempts).details["attempts"]

    assert len(shown) == MAX_ATTEMPTS_SHOWN
    assert shown[-1]["backend"] == "99"


@pytest.mark.parametrize("kind", ErrorKind)
def test_evidence_never_reaches_the_client(kind):
    failure = Failure(kind, "SECRET host 10.0.0.5 key sk-abc", status=500)

    error = GatewayError.from_failures([FailedAttempt("a", failure, 1.0)])

    assert "SECRET" not in error.message + str(error.details)


def test_the_wait_advised_is_the_shortest_stated():
    attempts = [
        FailedAttempt("a", Failure(K.MODEL_OVERLOADED, retry_after=30.0), 1.0),
        FailedAttempt("b", Failure(K.MODEL_OVERLOADED, retry_after=7.0), 1.0),
        FailedAttempt("c", Failure(K.BACKEND_UNREACHABLE), 1.0),
    ]

    assert GatewayError.from_failures(attempts).retry_after == 7.0


@pytest.mark.parametrize("stated", [None, -1.0, math.nan, math.inf])
def test_a_senseless_wait_gives_way_to_the_kinds_own(stated):
    assert GatewayError(K.MODEL_LOADING, retry_after=stated).retry_after == KINDS[K.MODEL_LOADING].retry_after


def test_a_long_wait_is_cut_to_an_hour():
    assert GatewayError(K.MODEL_OVERLOADED, retry_after=1e9).retry_after == 3600.0


def test_no_wait_is_advised_where_trying_again_does_not_help():
    assert GatewayError(K.INVALID_INPUT, retry_after=5.0).retry_after is None


CONTEXTS = [
    (
        {"max_length": 4097, "input_length": 4000, "output_length": 1000},
        "This model's maximum context length is 4097 tokens, but the request asks for 4000 input "
        "tokens and 1000 output "
        "tokens. Shorten the input or lower max_tokens to 97.",
    ),
    (
        {"max_length": 4096, "input_length": 5000},
        "This model's maximum context length is 4096 tokens, but the request asks for 5000 input tokens. "
        "Shorten the input.",
    ),
    (
        {"max_length": 512, "output_length": 5000},
        "This model's maximum context length is 512 tokens, but the request asks for 5000 output tokens. "
        "Lower max_tokens: input and output together must fit into 512 tokens.",
    ),
    (
        {"max_length": 512},
        "This model's maximum context length is 512 tokens. Shorten the input or lower max_tokens.",
    ),
    ({}, KINDS[K.CONTEXT_LENGTH_EXCEEDED].message),
]


@pytest.mark.parametrize(("details", "message"), CONTEXTS)
def test_a_context_overflow_says_the_numbers_and_what_to_do(details, message):
    error = GatewayError.from_failure(Failure(K.CONTEXT_LENGTH_EXCEEDED, details=details))

    assert error.message == message
    assert error.details["suggestion"] in (message, message[-len(error.details["suggestion"]) :])
    assert details.items() <= error.details.items()


def test_the_servers_reason_becomes_the_message():
    failure = Failure(K.INVALID_INPUT, param="n", details={"backend_message": "n must be 1"})

    error = GatewayError.from_failure(failure)

    assert error.message == "The model's server refused the request: n must be 1"
    assert (error.param, error.details) == ("n", {})


def test_an_unsupported_endpoint_is_told_from_a_bad_request():
    error = GatewayError.from_failure(Failure(K.INVALID_INPUT, code="unsupported_endpoint"))

    assert (error.status, error.code, error.message) == (
        400,
        "unsupported_endpoint",
        CODE_MESSAGES["unsupported_endpoint"],
    )


def test_validation_lists_every_field():
    error = GatewayError.validation({"messages -> 0 -> role": ["This field is required"], "n": ["must be at least 1"]})

    assert error.status == 422
    assert error.param == "messages"
    assert error.details == {
        "field_errors": {"messages -> 0 -> role": ["This field is required"], "n": ["must be at least 1"]}
    }
    assert "messages -> 0 -> role, n" in error.message


def test_validation_names_only_the_first_fields_in_its_message():
    error = GatewayError.validation({f"f{n}": ["bad"] for n in range(50)})

    assert "f2, …" in error.message
    assert len(error.details["field_errors"]) == 50


def test_an_unknown_model_brings_the_nearest_name():
    error = GatewayError.model_not_found("lama-3.1-8b", ["llama-3.1-8b", "sdxl"])

    assert error.message == "The model 'lama-3.1-8b' does not exist here. Did you mean 'llama-3.1-8b'?"
    assert error.details == {"model": "lama-3.1-8b", "suggestion": "llama-3.1-8b"}
    assert (error.status, error.param) == (404, "model")


def test_an_unknown_model_like_no_other_points_to_the_list():
    assert "GET /v1/models" in GatewayError.model_not_found("zzz", ["llama"]).message


def test_a_long_unknown_name_is_cut():
    assert len(GatewayError.model_not_found("x" * 10_000).message) < 250


@pytest.mark.parametrize(("name", "found"), [("SDXL", "sdxl"), ("sdxl-turbo", None), ("qwen3", "Qwen-3"), ("", None)])
def test_did_you_mean(name, found):
    assert did_you_mean(name, ["sdxl", "Qwen-3", "mixtral"]) == found


@given(st.text(max_size=300), st.lists(st.text(max_size=30), max_size=5))
def test_did_you_mean_only_suggests_known_names(name, known):
    assert did_you_mean(name, known) in {None, *known}


def test_method_not_allowed_says_what_is():
    error = GatewayError.method_not_allowed(["GET", "HEAD"])

    assert (error.status, error.headers) == (405, {"Allow": "GET, HEAD"})


def test_an_unknown_path_is_a_404():
    assert (GatewayError.unknown_path().status, GatewayError.unknown_path().code) == (404, "unknown_path")


@pytest.mark.parametrize(("doubts", "reported"), [(1, K.BACKEND_UNREACHABLE), (2, K.INVALID_INPUT)])
def test_a_refusal_in_doubt_is_believed_when_a_second_one_confirms_it(doubts: int, reported: ErrorKind) -> None:
    refused = Failure(K.INVALID_INPUT, elsewhere=Elsewhere.ONCE)
    attempts = [FailedAttempt(f"b{n}", refused, 1.0) for n in range(doubts)]
    assert GatewayError.from_failures(attempts).kind is K.INVALID_INPUT
    attempts.append(FailedAttempt("away", Failure(K.BACKEND_UNREACHABLE), 1.0))
    assert GatewayError.from_failures(attempts).kind is reported
