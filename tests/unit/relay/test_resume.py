"""An answer cut anywhere is the undisturbed one, or a beginning of it and a typed error; never anything else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.resuming import UNRESUMED, Seen, Stage

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def _stage(path: str, prompt: str, fields: dict[str, Any], **more: Any) -> Stage:
    asked: dict[str, Any] = {"model": "tiny", "stream": True, "max_tokens": 24}
    asked |= {"messages": [{"role": "user", "content": prompt}]} if path == CHAT else {"prompt": prompt}
    return Stage(path, asked | fields, **more)


_PROMPTS = st.sampled_from(["count", "from 96 please", "euro", "euro from 8 please"])
_STOPS = st.sampled_from([None, "9", " 11", ["€ 9€", " 7€ 8"], " 9 10 11 12", ["8€", "0"], "zebra", "00 101"])
_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "stop": _STOPS,
        "temperature": st.sampled_from([0, 0.7]),
        "max_tokens": st.sampled_from([1, 5, 24, None]),
        "min_tokens": st.sampled_from([0, 3, 9]),
        "include_stop_str_in_output": st.booleans(),
        "stream_options": st.sampled_from(
            [None, {"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True}]
        ),
        "return_token_ids": st.booleans(),
    },
)
_FRAMES = st.lists(st.integers(1, 4), min_size=1, max_size=3)
_CUTS = st.lists(st.integers(0, 20_000), min_size=1, max_size=3)


def _expect_undisturbed_or_beginning(stage: Stage, cuts: list[int]) -> bool:
    right, got = Seen.of(stage.undisturbed()), stage.client_gets(cuts)
    if got.endswith(UNRESUMED):
        seen = Seen.of(got.removesuffix(UNRESUMED))
        assert right.text.startswith(seen.text)
        assert not seen.done
        return False
    seen = Seen.of(got)
    if stage.asked.get("stop") and max(stage.tokens_per_frame) > 1:  # a frame's further tokens were made, so they count
        right, seen = replace(right, usage=None), replace(seen, usage=None)
    assert seen == right
    return True


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([CHAT, COMPLETIONS]), _PROMPTS, _FIELDS, _FRAMES, _CUTS, st.booleans())
def test_an_answer_cut_at_any_byte(
    path: str, prompt: str, fields: dict[str, Any], frames: list[int], cuts: list[int], detokenizes: bool
) -> None:
    stage = _stage(path, prompt, fields, tokens_per_frame=frames, detokenizes=detokenizes)
    _expect_undisturbed_or_beginning(stage, cuts)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    ("fields", "frames"),
    [
        ({}, [1]),
        ({"temperature": 0.7, "top_p": 0.9, "logit_bias": {"5": 1}}, [1]),
        ({"temperature": 0.7, "stop": " 9 10"}, [1]),
        ({"temperature": 0.7, "stop": ["€ 9€"]}, [3]),
        ({"temperature": 0.7}, [2, 3]),
        ({"min_tokens": 12, "stop": "5", "temperature": 0}, [1]),
        ({"seed": 3}, [1]),
        ({"temperature": 0, "presence_penalty": 1}, [2]),
        ({"temperature": 0, "response_format": {"type": "json_object"}}, [1]),
        ({"temperature": 0, "tools": []}, [1]),
        ({"stream_options": {"include_usage": True}}, [1]),
    ],
)
def test_these_are_never_left_unresumed(path: str, fields: dict[str, Any], frames: list[int]) -> None:
    stage = _stage(path, "euro from 7 please", fields, tokens_per_frame=frames)
    size = len(stage.undisturbed())
    for cut in range(0, size, 97):
        assert _expect_undisturbed_or_beginning(stage, [cut, cut // 2]), cut


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"n": 2, "temperature": 0},
        {"logprobs": True},
        {"temperature": 0.7, "response_format": {"type": "json_object"}},
        {"temperature": 0.7, "frequency_penalty": 0.5},
        {"temperature": 0.7, "guided_regex": "[0-9 ]+"},
        {"temperature": 0.7, "tools": [{"type": "function", "function": {"name": "f"}}]},
        {"temperature": 0.7, "min_tokens": 20, "stop": "5"},
        {"temperature": 0.7, "a_field_of_tomorrow": 1},
    ],
)
def test_what_would_be_a_guess_is_not_resumed(fields: dict[str, Any]) -> None:
    assert not _expect_undisturbed_or_beginning(_stage(CHAT, "count", fields), [2000])


def test_an_image_in_the_prompt_is_not_in_its_ids() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://pictures.invalid/cat.png"}}
    content = [{"type": "text", "text": "count"}, image]
    stage = _stage(CHAT, "count", {"messages": [{"role": "user", "content": content}]})
    assert not _expect_undisturbed_or_beginning(stage, [2000])


@pytest.mark.parametrize("kind", ["openai", "sglang", "llamacpp", "tgi"])
def test_kinds_without_token_ids_resume_deterministic_answers_only(kind: str) -> None:
    assert not _expect_undisturbed_or_beginning(_stage(CHAT, "count", {}, kind=kind), [2000])
    assert _expect_undisturbed_or_beginning(_stage(CHAT, "count", {"temperature": 0}, kind=kind), [2000, 1500])


def test_an_answer_made_again_that_differs_ends_in_the_typed_error() -> None:
    stage = _stage(CHAT, "count", {"temperature": 0, "presence_penalty": 1})
    right = stage.undisturbed()
    answer = stage.model.answer

    def another(*given: Any, **named: Any) -> Any:
        if given[2]["x-request-id"] != "try-0":
            body = given[3].replace(b'"count"', b'"from 3 please"')
            return answer(*given[:3], body, **named)
        return answer(*given, **named)

    stage.model = type("Other", (), {"answer": staticmethod(another)})()
    got = stage.client_gets([2000])
    assert got.endswith(UNRESUMED)
    assert Seen.of(right).text.startswith(Seen.of(got.removesuffix(UNRESUMED)).text)
