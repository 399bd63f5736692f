from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors.render import Rendering, iso_timestamp, render, render_frame, rendering_for
from gateway.errors.taxonomy import FailedAttempt, GatewayError
from policies.outcome import ErrorKind, Failure

NOW = 1_767_225_600.0
STAMP = "2026-01-01T00:00:00.000Z"
OVERLOADED = GatewayError.from_failures(
    [FailedAttempt("llama-a", Failure(ErrorKind.MODEL_OVERLOADED, status=503, retry_after=1.2), 412.0)]
)
EXTRAS = {
    "error_type": "model_overloaded",
    "is_retryable": True,
    "details": {"attempts": [{"backend": "llama-a", "error_type": "model_overloaded", "status": 503, "ms": 412}]},
    "correlation_id": "corr-1",
    "timestamp": STAMP,
}
MESSAGE = "The model is at capacity right now. Wait as long as Retry-After says, then try again."
BODIES = {
    Rendering.OPENAI: {
        "error": {"message": MESSAGE, "type": "server_error", "code": "model_overloaded", "param": None, **EXTRAS}
    },
    Rendering.ANTHROPIC: {
        "type": "error",
        "error": {
            "type": "overloaded_error",
            "message": MESSAGE,
            "code": "model_overloaded",
            "param": None,
            **EXTRAS,
        },
        "request_id": "corr-1",
    },
    Rendering.NATIVE: {"error": MESSAGE, **EXTRAS},
    Rendering.PROBLEM: {
        "type": "urn:seawall:error:model_overloaded",
        "title": "Model overloaded",
        "status": 503,
        "detail": MESSAGE,
        "instance": "/requests/corr-1",
        "code": "model_overloaded",
        "param": None,
        **EXTRAS,
    },
}


@pytest.mark.parametrize("rendering", Rendering)
def test_body(rendering):
    status, headers, body = render(OVERLOADED, rendering, "corr-1", NOW)

    assert status == 503
    assert json.loads(body) == BODIES[rendering]
    assert headers["Content-Type"] == (
        "application/problem+json" if rendering is Rendering.PROBLEM else "application/json"
    )


def test_retry_advice_is_rounded_up_to_what_the_headers_can_say():
    _, headers, _ = render(OVERLOADED, Rendering.OPENAI, "c", NOW)

    assert (headers["x-should-retry"], headers["Retry-After"], headers["retry-after-ms"]) == ("true", "2", "1200")


def test_retry_after_is_never_zero_seconds():
    error = GatewayError(ErrorKind.MODEL_OVERLOADED, retry_after=0.0)

    _, headers, _ = render(error, Rendering.OPENAI, "c", NOW)

    assert (headers["Retry-After"], headers["retry-after-ms"]) == ("1", "0")


@pytest.mark.parametrize("kind", ErrorKind)
@pytest.mark.parametrize("rendering", Rendering)
def test_advice_and_body_agree(kind, rendering):
    _, headers, body = render(GatewayError(kind), rendering, "c", NOW)

    flat = json.loads(body)
    inner = flat["error"] if isinstance(flat.get("error"), dict) else flat
    assert headers["x-should-retry"] == str(inner["is_retryable"]).lower()
    assert ("Retry-After" in headers) == ("retry-after-ms" in headers) == inner["is_retryable"]


def test_the_errors_own_headers_are_sent():
    _, headers, _ = render(GatewayError.method_not_allowed(["GET"]), Rendering.OPENAI, "c", NOW)

    assert headers["Allow"] == "GET"


@pytest.mark.parametrize("rendering", Rendering)
def test_a_frame_is_one_event_that_names_the_error(rendering):
    frame = render_frame(OVERLOADED, rendering, "corr-1", NOW)

    event, _, data = frame.decode().removesuffix("\n\n").rpartition("data: ")
    assert frame.endswith(b"\n\n")
    assert event == ("event: error\n" if rendering is Rendering.ANTHROPIC else "")
    assert "\n" not in data
    expected = Rendering.OPENAI if rendering is Rendering.PROBLEM else rendering
    assert json.loads(data) == BODIES[expected]


PATHS = [
    ("/v1/chat/completions", None, Rendering.OPENAI),
    ("/v1/messages", None, Rendering.ANTHROPIC),
    ("/v1/messages/count_tokens", None, Rendering.ANTHROPIC),
    ("/v1/messagesx", None, Rendering.OPENAI),
    ("/generate", None, Rendering.NATIVE),
    ("/generate_image", "*/*", Rendering.NATIVE),
    ("/generate_stream", None, Rendering.NATIVE),
    ("/status", "text/html", Rendering.OPENAI),
    ("/v1/messages", "application/problem+json", Rendering.PROBLEM),
    ("/generate", "application/json, application/problem+json", Rendering.PROBLEM),
    ("/v1/models", "Application/Problem+JSON; q=0.5", Rendering.PROBLEM),
    ("/v1/models", "application/json, application/problem+json;q=0.5", Rendering.OPENAI),
    ("/v1/models", "application/problem+json;q=0", Rendering.OPENAI),
    ("/v1/models", "application/problem+json;q=much", Rendering.OPENAI),
    ("/v1/models", "application/problem+jsonx", Rendering.OPENAI),
    ("/v1/models", "", Rendering.OPENAI),
]


@pytest.mark.parametrize(("path", "accept", "rendering"), PATHS)
def test_rendering_for(path, accept, rendering):
    assert rendering_for(path, accept) is rendering


@pytest.mark.parametrize(
    ("epoch", "text"),
    [
        (NOW, STAMP),
        (NOW + 0.9999, "2026-01-01T00:00:00.999Z"),
        (NOW - 0.001, "2025-12-31T23:59:59.999Z"),
        (0.0, "1970-01-01T00:00:00.000Z"),
    ],
)
def test_timestamp(epoch, text):
    assert iso_timestamp(epoch) == text


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(details=st.dictionaries(st.text(max_size=5), ANYTHING, max_size=4), rendering=st.sampled_from(Rendering))
def test_any_details_can_be_rendered(details, rendering):
    error = GatewayError(ErrorKind.INVALID_INPUT, details=details)

    assert json.loads(render(error, rendering, "c", NOW)[2])
    assert render_frame(error, rendering, "c", NOW).count(b"\n\n") == 1


@pytest.mark.parametrize("odd", ["\ud800", 2**70, object(), {1, 2}, b"bytes"])
def test_what_json_cannot_carry_does_not_hide_the_error(odd):
    _, _, body = render(GatewayError(ErrorKind.INVALID_INPUT, details={"x": odd}), Rendering.OPENAI, "c", NOW)

    assert json.loads(body)["error"]["error_type"] == "invalid_input"


def test_a_hostile_correlation_id_cannot_leave_the_problems_instance():
    _, _, body = render(OVERLOADED, Rendering.PROBLEM, "a/../b?c", NOW)

    assert json.loads(body)["instance"] == "/requests/a%2F..%2Fb%3Fc"
