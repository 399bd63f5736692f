"""What JSON bodies are refused, with which words, and which go through."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.validation.body import parse_body
from gateway.validation.errors import MAX_FIELD_ERRORS, InvalidRequest, wrong_fields
from gateway.validation.facts import JsonFacts
from gateway.validation.schemas import JSON_ENDPOINTS
from policies.outcome import ErrorKind

CHAT = "/v1/chat/completions"
JSON = "application/json"
USER = {"role": "user", "content": "hi"}
GIF = base64.b64encode(b"GIF89a\x01\x00\x01\x00").decode()


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [USER], **fields}


def parse(path: str, document: Any) -> JsonFacts:
    facts = parse_body(path, JSON, orjson.dumps(document))
    assert isinstance(facts, JsonFacts)
    return facts


def refusal(path: str, body: bytes, content_type: str = JSON) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_body(path, content_type, body)
    return caught.value


ACCEPTED = [
    (CHAT, chat()),
    (CHAT, chat(unknown={"x": [1]}, temperature=5, n=None, stop=["a", "b"], seed=-1, top_p=0)),
    (CHAT, chat(stream=True, stream_options={"include_usage": True}, tools=[{"type": "function"}])),
    (CHAT, chat(messages=[{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}])),
    (CHAT, chat(messages=[{"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "x"}]}])),
    (CHAT, chat(messages=[{"role": "user", "content": [{"image_url": "https://e.org/a.png"}, "text"]}])),
    (CHAT, chat(messages=[{"role": "user", "content": [{"image_url": {"url": f"data:image/gif;base64,{GIF}"}}]}])),
    ("/v1/completions", {"model": "m", "prompt": "x", "max_tokens": 0, "echo": True, "logprobs": 5}),
    ("/v1/completions", {"model": "m", "prompt": ["x", "y"], "logprobs": True}),
    ("/v1/completions", {"model": "m", "prompt": [1, 2, 3]}),
    ("/v1/completions", {"model": "m", "prompt": [[1], [2, 3]]}),
    ("/v1/completions", {"model": "m", "prompt": ""}),
    ("/v1/embeddings", {"model": "m", "input": [[1, 2]], "dimensions": 8}),
    ("/v1/embeddings", {"model": "m", "messages": [USER]}),
    ("/v1/responses", {"model": "m", "input": [{"type": "function_call_output", "output": "x"}]}),
    ("/v1/responses", {"model": "m", "input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}]}),
    ("/v1/messages", {"model": "m", "max_tokens": 5, "messages": [USER], "system": [{"type": "text", "text": "s"}]}),
    ("/v1/rerank", {"model": "m", "query": "q", "documents": ["a", {"text": "b"}]}),
    ("/v1/score", {"model": "m", "text_1": "a", "text_2": ["b", "c"]}),
    ("/v1/audio/speech", {"model": "m", "input": "hi", "voice": "alloy", "speed": 1.5}),
    ("/v1/images/generations", {"prompt": "a cat", "size": "1024x1024", "n": 2}),
    ("/v1/images/generations", {"prompt": "a cat", "size": "auto"}),
    ("/tokenize", {"content": "x"}),
    ("/tokenize", {"model": "m", "messages": [USER]}),
    ("/detokenize", {"model": "m", "tokens": [1, 2]}),
    ("/generate", {"prompt": "x", "max_tokens": 3}),
    ("/generate", {"inputs": "x", "parameters": {"max_new_tokens": 3}}),
    ("/generate_image", {"prompt": "a red circle", "width": 64, "height": 64, "steps": 4, "seed": 1}),
]


@pytest.mark.parametrize(("path", "document"), ACCEPTED, ids=lambda v: v if isinstance(v, str) else "")
def test_what_servers_take_goes_through_as_the_same_object(path: str, document: dict[str, Any]) -> None:
    body = orjson.dumps(document)
    assert parse_body(path, JSON, body).body is body


REFUSED = [
    (CHAT, {}, {"model": "This field is required", "messages": "This field is required"}),
    (CHAT, chat(model=None), {"model": "must be a string"}),
    (CHAT, chat(model=""), {"model": "must not be empty"}),
    (CHAT, chat(model="m" * 300), {"model": "must be at most 256 characters long"}),
    (CHAT, chat(model="m\r\nx: y"), {"model": "must not contain control characters"}),
    (CHAT, chat(Model="other"), {"Model": "must be spelt model"}),
    (CHAT, chat(messages=[]), {"messages": "must not be empty"}),
    (CHAT, chat(messages="hi"), {"messages": "must be a list"}),
    (CHAT, chat(messages=[{"content": "x"}]), {"messages -> 0 -> role": "This field is required"}),
    (CHAT, chat(messages=[USER, 5]), {"messages -> 1": "must be an object"}),
    (
        CHAT,
        chat(messages=[{"role": "user", "content": 5}]),
        {"messages -> 0 -> content": "must be a string or a list of content parts"},
    ),
    (
        CHAT,
        chat(messages=[{"role": "user", "content": [{"type": "text", "text": 5}]}]),
        {"messages -> 0 -> content -> 0 -> text": "must be a string"},
    ),
    (
        CHAT,
        chat(messages=[{"role": "user", "content": [{"image_url": {"url": f"data:image/png;base64,{GIF}"}}]}]),
        {"messages -> 0 -> content -> 0 -> image_url -> url": "is declared as image/png but holds a GIF image"},
    ),
    (CHAT, chat(temperature=-0.1), {"temperature": "must be at least 0"}),
    (CHAT, chat(temperature="hot"), {"temperature": "must be a number"}),
    (CHAT, chat(temperature="Infinity"), {"temperature": "must be a finite number"}),
    (CHAT, chat(top_p=1.5), {"top_p": "must be at most 1"}),
    (CHAT, chat(n=0), {"n": "must be at least 1"}),
    (CHAT, chat(n=129), {"n": "must be at most 128"}),
    (CHAT, chat(n=1.5), {"n": "must be an integer"}),
    (CHAT, chat(max_tokens=0), {"max_tokens": "must be at least 1"}),
    (CHAT, chat(max_tokens=1e30), {"max_tokens": "is too large"}),
    (CHAT, chat(stream="maybe"), {"stream": "must be true or false"}),
    (CHAT, chat(stop=5), {"stop": "must be a string or a list of strings"}),
    (CHAT, chat(stop=[5]), {"stop -> 0": "must be a string"}),
    (CHAT, chat(stream_options={}), {"stream_options": "can only be given when stream is true"}),
    ("/v1/completions", {"model": "m"}, {"prompt": "This field is required"}),
    ("/v1/completions", {"model": "m", "prompt": [1, "a"]}, {"prompt -> 1": "must be an integer"}),
    (
        "/v1/completions",
        {"model": "m", "prompt": {}},
        {"prompt": "must be a string, a list of strings, a list of token ids or a list of lists of token ids"},
    ),
    ("/v1/embeddings", {"model": "m", "input": None}, {"input": "This field is required"}),
    ("/v1/messages", {"model": "m", "messages": [USER]}, {"max_tokens": "This field is required"}),
    ("/v1/rerank", {"model": "m", "query": "q", "documents": []}, {"documents": "must not be empty"}),
    ("/v1/audio/speech", {"model": "m", "input": "x", "speed": 0}, {"speed": "must be greater than 0"}),
    ("/v1/images/generations", {"prompt": ""}, {"prompt": "must not be empty"}),
    ("/detokenize", {}, {"tokens": "This field is required"}),
    ("/generate", {"max_tokens": 5}, {"prompt": "This field is required"}),
    (
        "/generate",
        {"inputs": "x", "max_new_tokens": 1, "parameters": {"max_new_tokens": 9}},
        {"parameters -> max_new_tokens": "is also given outside parameters"},
    ),
    ("/generate_image", {"prompt": "x", "width": -1}, {"width": "must be at least 1"}),
    ("/v1/unheard/of", {"model": 5}, {"model": "must be a string"}),
]


@pytest.mark.parametrize(("path", "document", "expected"), REFUSED)
def test_wrong_fields_are_named_in_plain_words(path: str, document: dict[str, Any], expected: dict[str, str]) -> None:
    error = refusal(path, orjson.dumps(document))
    assert error.kind is ErrorKind.VALIDATION_ERROR
    assert error.field_errors == {name: [text] for name, text in expected.items()}


def test_param_is_the_first_wrong_field_as_openai_writes_it() -> None:
    error = refusal(CHAT, orjson.dumps(chat(messages=[USER, {"role": 5}])))
    assert error.param == "messages[1].role"
    assert error.message == "Invalid request: messages -> 1 -> role: must be a string"


def test_values_are_never_echoed_and_names_only_in_part() -> None:
    secret = "s3cret" * 50
    error = refusal(CHAT, orjson.dumps(chat(temperature=secret, stop={secret: secret})))
    assert secret[:20] not in f"{error.message} {error.field_errors}"
    long = wrong_fields([(("n" * 1000, "a\x00b"), "is wrong")])
    assert long.field_errors == {"n" * 64 + "… -> a�b": ["is wrong"]}


def test_at_most_twenty_problems_are_told() -> None:
    error = wrong_fields([((f"f{i}",), "is wrong") for i in range(30)])
    assert error.field_errors is not None
    assert len(error.field_errors) == MAX_FIELD_ERRORS
    assert error.message == "Invalid request: f0: is wrong (and 29 more problems)"


def test_a_list_of_many_wrong_items_is_one_problem() -> None:
    error = refusal(CHAT, orjson.dumps(chat(messages=[5] * 100_000)))
    assert error.field_errors == {"messages -> 0": ["must be an object"]}


UNREADABLE = [
    (b"", "is empty"),
    (b" \n", "is empty"),
    (b"[]", "must be a JSON object"),
    (b'"x"', "must be a JSON object"),
    (b'{"model": }', "line 1, column 11"),
    (b'{"model":"m",\n "messages": tru}', "line 2, column"),
    (b'{"temperature": NaN}', "not valid JSON"),
    (b'{"temperature": Infinity}', "not valid JSON"),
    (b'{"seed": ' + b"9" * 400 + b"}", "not valid JSON"),
    (b'{"a": 1,}', "trailing comma"),
    (b'{"a": "\x00"}', "control character"),
    (b'{"a": "\xff"}', "not valid UTF-8"),
    (b'\xef\xbb\xbf{"a": 1}', "BOM"),
    (b'{"a": ' + b"[" * 65 + b"]" * 65 + b"}", "64 levels"),
    (b'{"a": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}", "64 levels"),
    (b'{"a": ' + b"[" * 100_000, "64 levels"),
    (b'{"a": "' + b"\\ud83d" * 250_001 + b'"}', "surrogate"),
    (b'{"a": [' + b"[]," * 600_000 + b"1]}", "too many arrays"),
]


@pytest.mark.parametrize(("body", "part"), UNREADABLE, ids=[part for _, part in UNREADABLE])
def test_unreadable_bodies_are_invalid_input(body: bytes, part: str) -> None:
    error = refusal(CHAT, body)
    assert error.kind is ErrorKind.INVALID_INPUT
    assert part in error.message


def test_depth_up_to_the_limit_is_read() -> None:
    nested: Any = 1
    for _ in range(63):
        nested = [nested]
    assert parse(CHAT, chat(deep=nested)).model == "m"
    assert "64 levels" in refusal(CHAT, orjson.dumps(chat(deep=[nested]))).message


@pytest.mark.parametrize(
    "content_type",
    ["", "application/json", "application/json; charset=utf-8", "Application/JSON", "application/x+json"],
)
def test_json_is_read_under_these_content_types(content_type: str) -> None:
    assert parse_body(CHAT, content_type, orjson.dumps(chat())).model == "m"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_other_content_types_are_refused(content_type: str) -> None:
    error = refusal(CHAT, orjson.dumps(chat()), content_type)
    assert error.kind is ErrorKind.INVALID_INPUT
    assert "application/json" in error.message


def test_an_unknown_paths_body_is_read_where_it_is_json_and_let_through_otherwise() -> None:
    assert parse_body("/v1/new", JSON, b'{"model":"m","stream":true,"x":1}').stream
    body = b"\x00raw"
    facts = parse_body("/v1/new", "application/octet-stream", body)
    assert facts.body is body
    assert facts.model is None
    assert facts.with_model("x") is body


def test_numbers_in_strings_count_as_their_servers_read_them() -> None:
    facts = parse(CHAT, chat(max_tokens="50", stream="true"))
    assert (facts.max_tokens, facts.stream) == (50, True)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b","messages":[{"role":"user","content":"x"}]}',
        b'{"model":"a","mod\\u0065l":"b","messages":[{"role":"user","content":"x"}]}',
    ],
)
def test_a_model_named_twice_goes_on_as_the_one_that_was_checked(body: bytes) -> None:
    facts = parse_body(CHAT, JSON, body)
    assert facts.model == "b"
    assert json.loads(facts.body, object_pairs_hook=lambda pairs: [k for k, _ in pairs]) == ["model", "messages"]
    assert orjson.loads(facts.body)["model"] == "b"


def test_control_characters_are_taken_out_of_text_and_nothing_else() -> None:
    document = chat(messages=[{"role": "user", "content": "a\x00b\x7f\x85c\td"}], stop="\x1b", user="é")
    facts = parse_body(CHAT, JSON, json.dumps(document).encode())
    sent = orjson.loads(facts.body)
    assert sent["messages"][0]["content"] == "abc\td"
    assert sent["stop"] == "\x1b"


def test_half_an_emoji_is_taken_out() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"cut \\ud83d \\ud83d\\ude00 \\\\ud83d"}]}'
    facts = parse_body(CHAT, JSON, body)
    assert orjson.loads(facts.body)["messages"][0]["content"] == "cut  😀 \\ud83d"


def test_a_prompt_of_nothing_but_control_characters_is_refused() -> None:
    error = refusal("/generate", orjson.dumps({"prompt": "\x00\x01"}))
    assert error.field_errors == {"prompt": ["must not be empty: it held only control characters"]}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
field_names = st.sampled_from(sorted({name for e in JSON_ENDPOINTS.values() for name in e.names}))
parts = st.dictionaries(
    st.sampled_from(["role", "content", "text", "type", "image_url", "input_audio", "source", "url"]), json_values
)
paths = st.sampled_from([*JSON_ENDPOINTS, "/v1/new"])


@given(paths, st.sampled_from([JSON, "", "text/plain", "multipart/form-data; boundary=b"]), st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_raise_nothing_else(path: str, content_type: str, body: bytes) -> None:
    with suppress(InvalidRequest):
        parse_body(path, content_type, body)


@given(paths, st.dictionaries(field_names, json_values | st.lists(parts, max_size=3), max_size=8))
@settings(max_examples=150, deadline=None)
def test_arbitrary_json_raises_nothing_else(path: str, document: dict[str, Any]) -> None:
    body = json.dumps({"model": "m", "messages": [USER], **document}).encode()
    try:
        facts = parse_body(path, JSON, body)
    except InvalidRequest:
        return
    assert orjson.loads(facts.with_model("other"))["model"] == "other"
    assert facts.input_chars <= 2 * len(facts.body)
    assert len(facts.prefix(50)) <= 50


@given(st.text())
@settings(deadline=None)
def test_what_is_sent_is_clean_and_checking_it_again_changes_nothing(text: str) -> None:
    body = json.dumps(chat(messages=[{"role": "user", "content": "x" + text}])).encode()
    first = parse_body(CHAT, JSON, body)
    content = orjson.loads(first.body)["messages"][0]["content"]
    assert all(c in "\t\n\r" or not (c < " " or "\x7f" <= c <= "\x9f") for c in content)
    assert parse_body(CHAT, JSON, first.body).body is first.body
