from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.texts import (
    MAX_CLIENT_TEXT,
    MAX_EVIDENCE,
    MAX_JUDGED,
    client_safe,
    context_overflow,
    ends_of,
    evidence,
    plain_param,
)

PASSED_ON = [
    ("temperature must be non-negative, got -3.0.", "temperature must be non-negative, got -3.0."),
    ("top_p must be in (0, 1], got 1.5. (parameter=top_p, value=1.5)", "top_p must be in (0, 1], got 1.5."),
    ("Input validation error: `seed` must not be set when `best_of` > 1", "`seed` must not be set when `best_of` > 1"),
    ("Bad request: n must be 1\n  when using\tgreedy sampling", "n must be 1 when using greedy sampling"),
    (
        "The endpoint /v1/chat/completions needs a chat template",
        "The endpoint /v1/chat/completions needs a chat template",
    ),
    (
        "the model `meta-llama/Llama-3.1-8B` has no chat template",
        "the model `meta-llama/Llama-3.1-8B` has no chat template",
    ),
    (
        "1 validation error:\n  {'type': 'missing', 'loc': ('body', 'messages'), 'msg': 'Field "
        "required', 'input': {'a': 1}}",
        "messages: Field required",
    ),
    (
        "1 validation error for X\nn\n  Input should be less than 9 [type=lt, input_value=99, input_type=int]\n"
        "    For further information visit https://errors.pydantic.dev/2.9/v/lt",
        "1 validation error for X n Input should be less than 9",
    ),
]


@pytest.mark.parametrize(("said", "shown"), PASSED_ON)
def test_a_servers_reason_is_passed_on_clean(said, shown):
    assert client_safe(said) == shown


DROPPED = [
    "could not fetch http://10.0.0.5:8000/image.png",
    "connection to 10.0.0.5 refused",
    "connection to [fe80:0:0:1::5] refused",
    "cannot reach gpu-node-3:8000",
    "no answer from worker.default.svc",
    "No such file: /home/model/weights.safetensors",
    "No such file: C:\\models\\weights.gguf",
    'File "/usr/lib/python3/site.py", line 3, in run',
    "Traceback (most recent call last)",
    "error in scheduler.py",
    "segfault at 0x7fff5fbff8c0",
    "Incorrect API key provided: sk-abcdef123456",
    "Authorization: Bearer abc was refused",
    "api_key=123 is wrong",
    "CUDA error: device-side assert triggered",
    "unexpected \x1b[31mred\x1b[0m",
    "token ya29" + "x" * 60,
    "",
    "   ",
]


@pytest.mark.parametrize("said", DROPPED)
def test_what_looks_internal_is_dropped_whole(said):
    assert client_safe(said) is None


@given(st.text(max_size=6000))
def test_a_passed_on_reason_is_short_and_printable(text):
    shown = client_safe(text)

    assert shown is None or (0 < len(shown) <= MAX_CLIENT_TEXT and shown.isprintable())


@given(st.text(max_size=6000))
def test_evidence_is_one_bounded_line(text):
    said = evidence(text)

    assert len(said) <= MAX_EVIDENCE
    assert "\n" not in said


@pytest.mark.parametrize("secret", ["sk-proj-a1b2c3d4", "Bearer eyJhbGciOi", "hf_AbCdEfGh", "AKIAIOSFODNN7EXAMPLE"])
def test_evidence_holds_no_credentials(secret):
    assert secret.split()[-1] not in evidence(f"the key {secret} was refused")


@pytest.mark.parametrize(
    "echo", ["'input': {'prompt': 'DIARY'}}", '"input": "DIARY"', "input_value='DIARY', input_type=str"]
)
def test_evidence_holds_no_echoed_input(echo):
    assert "DIARY" not in evidence(f"2 validation errors: {{'msg': 'bad', {echo}")


def test_a_long_texts_beginning_and_end_are_judged():
    ends = ends_of("Traceback" + "x" * 100_000 + "CUDA out of memory")

    assert (ends[:9], ends[-18:]) == ("Traceback", "CUDA out of memory")
    assert len(ends) == MAX_JUDGED


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ("temperature", "temperature"),
        ("body.messages", "messages"),
        ("body.messages.0.role", "messages"),
        ("('body', 'tools', 3)", "tools"),
        ("messages[0].content", "messages"),
        ("input_text", None),
        ("", None),
        (None, None),
        (17, None),
        ("../../etc/passwd", "etc"),
        ("<script>", "script"),
    ],
)
def test_param_is_a_plain_field_name(named, field):
    assert plain_param(named) == field


@pytest.mark.parametrize(
    "text",
    [
        "context_length must be positive",
        "unknown field context_length",
        "max_tokens must be at least 1, got 0",
        "the model is overloaded",
    ],
)
def test_not_every_mention_of_a_length_is_an_overflow(text):
    assert context_overflow(text) is None


@given(st.text(alphabet="maximum context length is 0123456789 tokens(), your prompt contains", max_size=300))
def test_numbers_of_an_overflow_are_never_negative(text):
    assert all(number >= 0 for number in (context_overflow(text) or {}).values())
