"""What is known of a body, how it is rewritten, and a policy's limits on it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.validation.body import parse_body
from gateway.validation.errors import InvalidRequest
from gateway.validation.facts import Facts, Limits, check_limits

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "hello"}
LIMITS = Limits(max_input_chars=100, max_tokens=50, max_pixels=64 * 64, max_steps=10)
NO_LIMITS = Limits(None, None, None, None)


def parse(path: str, **fields: Any) -> Facts:
    return parse_body(path, "application/json", orjson.dumps(fields))


def chat(**fields: Any) -> Facts:
    return parse(CHAT, **{"model": "m", "messages": [USER], **fields})


def test_facts_of_a_plain_chat() -> None:
    facts = chat()
    assert (facts.model, facts.stream, facts.max_tokens, facts.max_tokens_field, facts.n) == ("m", False, None, None, 1)
    assert (facts.temperature, facts.seed) == (None, None)


def test_facts_of_a_full_chat() -> None:
    facts = chat(
        stream=True, max_tokens=9, max_completion_tokens=7, n=3, temperature=0, seed=5,
        tools=[{"type": "function"}], logprobs=True, response_format={"type": "json_object"},
    )  # fmt: skip
    assert (facts.stream, facts.max_tokens, facts.max_tokens_field, facts.n) == (True, 7, "max_completion_tokens", 3)
    assert (facts.temperature, facts.seed) == (0.0, 5)


@pytest.mark.parametrize(
    ("path", "fields", "chars"),
    [
        (CHAT, {"model": "m", "messages": [USER, {"role": "user", "content": [{"type": "text", "text": "abc"}]}]}, 8),
        ("/v1/completions", {"model": "m", "prompt": "ab", "suffix": "c"}, 3),
        ("/v1/completions", {"model": "m", "prompt": ["ab", "cd"]}, 4),
        ("/v1/completions", {"model": "m", "prompt": [1, 2, 3]}, 12),
        ("/v1/responses", {"model": "m", "input": [USER], "instructions": "be"}, 7),
        ("/generate", {"inputs": "漢字"}, 2),
    ],
)
def test_input_is_counted_in_characters(path: str, fields: dict[str, Any], chars: int) -> None:
    assert parse(path, **fields).input_chars == chars


def test_another_model_keeps_all_else_and_the_same_model_the_same_object() -> None:
    facts = chat(unknown={"kept": [1.0]})
    assert facts.with_model("m") is facts.body
    renamed = facts.with_model("other")
    assert orjson.loads(renamed) == {**orjson.loads(facts.body), "model": "other"}
    assert facts.with_model("other") is renamed
    assert orjson.loads(facts.body)["model"] == "m"


def test_fields_are_set_and_removed() -> None:
    facts = chat(max_tokens=9, seed=1)
    changed = orjson.loads(facts.with_fields({"max_tokens": 4, "return_token_ids": True}, remove=["seed"]))
    assert changed == {"model": "m", "messages": [USER], "max_tokens": 4, "return_token_ids": True}


def test_a_field_among_tgis_parameters_is_changed_there() -> None:
    facts = parse("/generate", inputs="x", parameters={"max_new_tokens": 40, "seed": 1})
    assert (facts.max_tokens, facts.max_tokens_field) == (40, "max_new_tokens")
    changed = orjson.loads(facts.with_fields({"max_new_tokens": 20, "model": "m"}, remove=["seed"]))
    assert changed == {"inputs": "x", "model": "m", "parameters": {"max_new_tokens": 20}}


def test_prefixes_are_equal_where_the_first_text_is() -> None:
    system = {"role": "system", "content": "s" * 100}
    one = chat(messages=[system, USER]).prefix(80)
    other = chat(messages=[system, {"role": "user", "content": "else"}], seed=3).prefix(80)
    assert one == other
    assert len(one) == 80
    assert chat().prefix() != chat(messages=[system]).prefix()


@pytest.mark.parametrize(
    ("path", "name", "fields"),
    [
        (CHAT, "messages", {}),
        ("/v1/responses", "input", {"instructions": "be brief"}),
        ("/v1/messages", "messages", {"system": "be brief", "max_tokens": 9}),
    ],
)
def test_the_turns_of_a_conversation_have_one_prefix(path: str, name: str, fields: dict[str, Any]) -> None:
    turns: list[dict[str, str]] = [{"role": "user", "content": "hi"}]
    first = parse(path, **{"model": "m", name: list(turns), **fields}).prefix()
    turns += [{"role": "assistant", "content": "hello"}, {"role": "user", "content": "go on"}]
    assert parse(path, **{"model": "m", name: turns, **fields}).prefix() == first
    assert parse(path, **{"model": "m", name: turns[2:], **fields}).prefix() != first


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        (CHAT, {"messages": [USER] * 21}, {"messages": "must be at most 100 characters long; it is 105"}),
        ("/v1/completions", {"prompt": list(range(26))}, {"prompt": "must be at most 100 characters long; it is 104"}),
        (CHAT, {"messages": [USER], "max_tokens": 51}, {"max_tokens": "must be at most 50"}),
        (
            CHAT,
            {"messages": [USER], "max_tokens": 51, "max_completion_tokens": 5},
            {"max_tokens": "must be at most 50"},
        ),
        ("/v1/responses", {"input": "x", "max_output_tokens": 99}, {"max_output_tokens": "must be at most 50"}),
        ("/generate", {"inputs": "x", "parameters": {"max_new_tokens": 51}}, {"max_new_tokens": "must be at most 50"}),
        (
            "/v1/images/generations",
            {"prompt": "x", "size": "128x64"},
            {"size": "must be at most 4096 pixels (width x height); it is 128x64"},
        ),
        (
            "/generate_image",
            {"prompt": "x", "height": 65, "steps": 11},
            {
                "steps": "must be at most 10",
                "width": "must be at most 4096 pixels (width x height); it is 65x65",
            },
        ),
    ],
)  # fmt: skip
def test_what_is_over_a_limit_is_named_with_both_numbers(
    path: str, fields: dict[str, Any], expected: dict[str, str]
) -> None:
    facts = parse(path, model="m", **fields)
    with pytest.raises(InvalidRequest) as caught:
        check_limits(facts, LIMITS)
    assert caught.value.field_errors == {name: [text] for name, text in expected.items()}
    check_limits(facts, NO_LIMITS)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": [{**USER, "content": "x" * 100}], "max_tokens": 50}),
        (CHAT, {"messages": [{"role": "user", "content": [{"image_url": "https://e.org/" + "a" * 200}]}]}),
        ("/v1/completions", {"prompt": list(range(25))}),
        ("/generate_image", {"prompt": "x", "width": 64, "height": 64, "steps": 10}),
        ("/v1/images/generations", {"prompt": "x", "size": "auto"}),
    ],
)
def test_what_is_at_a_limit_passes(path: str, fields: dict[str, Any]) -> None:
    check_limits(parse(path, model="m", **fields), LIMITS)
