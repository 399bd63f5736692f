"""How the next token is chosen."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from backends.workers.embedded.sampling import SamplingParams, choose

PARAMS = SamplingParams(max_tokens=8, seed=1)
LOGITS = torch.tensor([0.0, 3.0, 2.0, 1.0], dtype=torch.float64)


def token(
    params: SamplingParams, *, output: list[int] | None = None, choice: int = 0, banned: list[int] | None = None
) -> int:
    return choose(LOGITS, params, [0], output or [], choice=choice, banned=banned or [])[0]


def drawn(params: SamplingParams, times: int = 400) -> Counter[int]:
    return Counter(token(replace(params, seed=seed)) for seed in range(times))


def test_temperature_zero_takes_the_likeliest() -> None:
    assert drawn(replace(PARAMS, temperature=0), 20) == {1: 20}


def test_a_banned_token_is_never_chosen() -> None:
    assert token(replace(PARAMS, temperature=0), banned=[1]) == 2
    assert 1 not in {token(replace(PARAMS, seed=seed), banned=[1]) for seed in range(100)}


def test_the_draw_depends_on_seed_choice_and_position_alone() -> None:
    hot = replace(PARAMS, temperature=5.0)
    again = [token(hot, output=[2] * place) for place in range(30)]
    assert again == [token(hot, output=[2] * place) for place in range(30)]
    # The same place in the text, reached with a longer prompt and a shorter output: a continuation.
    assert again[7] == choose(LOGITS, hot, [0, 2, 2, 2], [2] * 4, choice=0, banned=[])[0]
    assert again != [token(hot, output=[2] * place, choice=1) for place in range(30)]
    assert again != [token(replace(hot, seed=2), output=[2] * place) for place in range(30)]


def test_tokens_come_as_often_as_the_model_says() -> None:
    probabilities = torch.softmax(LOGITS, 0).tolist()
    counts = drawn(PARAMS, 4000)
    for number, probability in enumerate(probabilities):
        assert counts[number] / 4000 == pytest.approx(probability, abs=0.03)


@pytest.mark.parametrize(
    ("changes", "possible"),
    [
        ({"top_k": 1}, {1}),
        ({"top_k": 2}, {1, 2}),
        ({"top_p": 0.5}, {1}),
        ({"top_p": 0.8}, {1, 2}),
        ({"min_p": 0.3}, {1, 2}),
        ({"top_k": 0, "top_p": 1.0, "min_p": 0.0}, {0, 1, 2, 3}),
        ({"temperature": 1e-6}, {1}),
    ],
)
def test_filters_leave_only_the_likelier_tokens(changes: dict[str, float], possible: set[int]) -> None:
    assert set(drawn(replace(PARAMS, **changes), 600)) == possible  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "output", "expected"),
    [
        ({"frequency_penalty": 0.6}, [1, 1], 2),  # 3 - 2 * 0.6 < 2
        ({"frequency_penalty": 0.6}, [1], 1),
        ({"presence_penalty": 1.5}, [1, 1], 2),
        ({"repetition_penalty": 2.0}, [1], 2),
        ({"logit_bias": {3: 10.0}}, [], 3),
        ({"logit_bias": {1: -100.0}}, [], 2),
    ],
)
def test_penalties_and_bias_move_the_greedy_choice(
    changes: dict[str, object], output: list[int], expected: int
) -> None:
    assert token(replace(PARAMS, temperature=0, **changes), output=output) == expected  # type: ignore[arg-type]


def test_logprobs_are_the_models_own_before_temperature_and_penalties() -> None:
    params = replace(PARAMS, temperature=0, logprobs=2, frequency_penalty=2.0)
    chosen, logprob = choose(LOGITS, params, [0], [1, 1], choice=0, banned=[])
    assert chosen == 2
    assert logprob is not None
    assert logprob.logprob == pytest.approx(2 - math.log(sum(math.exp(x) for x in (0, 1, 2, 3))))
    assert [number for number, _ in logprob.top] == [1, 2]


def test_no_logprobs_unless_asked_for() -> None:
    assert choose(LOGITS, PARAMS, [0], [], choice=0, banned=[])[1] is None
