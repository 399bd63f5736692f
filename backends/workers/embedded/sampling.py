"""From logits to the next token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request wants its tokens chosen; names and meanings are vLLM's. `logprobs`: how many alternatives."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    include_stop_str_in_output: bool = False
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A chosen token, its log probability, and the likeliest alternatives, best first."""

    token: int
    logprob: float
    top: Sequence[tuple[int, float]]


def choose(
    logits: Tensor,
    params: SamplingParams,
    prompt: Sequence[int],
    output: Sequence[int],
    *,
    choice: int,
    banned: Sequence[int],
) -> tuple[int, TokenLogprob | None]:
    """The token after `prompt + output`, from its logits `[vocab]`, and its log probability if that was asked for.

    Temperature 0 is greedy. Otherwise the one random number is a function of the seed, the number of the choice and
    the token's position, not of a generator's history: a seeded answer, too, goes on exactly from its token ids.
    """
    scores = logits.clone()
    if banned:
        scores[list(banned)] = -torch.inf
    raw = scores
    if _penalised(params):
        scores = _apply_penalties(scores, params, prompt, output)
    if params.temperature == 0:
        token = int(scores.argmax())
    else:
        draw = Random(f"{params.seed}/{choice}/{len(prompt) + len(output)}").random()  # a string seed is hashed well
        token = _sample(scores / params.temperature, params, draw)
    return token, None if params.logprobs is None else _logprob(raw, token, params.logprobs)


def _penalised(params: SamplingParams) -> bool:
    penalties = (params.presence_penalty, params.frequency_penalty, params.repetition_penalty)
    return bool(params.logit_bias) or penalties != (0.0, 0.0, 1.0)


def _apply_penalties(scores: Tensor, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]) -> Tensor:
    """OpenAI's penalties look at the output alone, the repetition penalty (Keskar et al., 2019) at the prompt too."""
    scores = scores.clone()
    seen = torch.tensor(sorted({*prompt, *output}), dtype=torch.long)
    known = scores[seen]
    scores[seen] = torch.where(known > 0, known / params.repetition_penalty, known * params.repetition_penalty)
    counts = torch.bincount(torch.tensor(output, dtype=torch.long), minlength=len(scores)).to(scores.dtype)
    scores -= params.frequency_penalty * counts + params.presence_penalty * (counts > 0)
    for token, bias in params.logit_bias.items():
        scores[token] += bias
    return scores


def _sample(scores: Tensor, params: SamplingParams, draw: float) -> int:
    """Inverse transform sampling over the tokens in falling order, after top-k, top-p (nucleus) and min-p."""
    probabilities, order = torch.softmax(scores, dim=0).sort(descending=True, stable=True)
    if params.top_k > 0:
        probabilities[params.top_k :] = 0
    if params.top_p < 1:
        before = probabilities.cumsum(0) - probabilities
        probabilities[before >= params.top_p * probabilities.sum()] = 0
    if params.min_p > 0:
        probabilities[probabilities < params.min_p * probabilities[0]] = 0
    reached = probabilities.cumsum(0)
    place = int(torch.searchsorted(reached, draw * reached[-1], right=True))
    return int(order[min(place, int((probabilities > 0).sum()) - 1)])


def _logprob(scores: Tensor, token: int, alternatives: int) -> TokenLogprob:
    logprobs = torch.log_softmax(scores, dim=0)
    values, tokens = logprobs.topk(alternatives)
    return TokenLogprob(token, float(logprobs[token]), list(zip(tokens.tolist(), values.tolist(), strict=True)))
