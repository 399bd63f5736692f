"""A transformers causal language model, as the engine wants it: tokens of several sequences in, logits out.

Two ways to run it. `PackedModel` batches, with attention of ours; `AloneModel` takes one sequence after another, with
the model's own attention and cache, for the kinds that cannot be packed. Which one is right for a model is found out
by `serving`, which compares them with the model's plain forward pass.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from backends.workers.embedded.kv_cache import KVCache
from backends.workers.transformers.packed import NAME, Pack

logger = logging.getLogger(__name__)

#: How far two ways to the same logits may be apart, as a share of the largest: rounding, by the size of a number.
_TOLERANCE = {8: 1e-9, 4: 1e-3, 2: 5e-2}
#: What a model's code raises where it does not take what it is given.
_REFUSALS = (NotImplementedError, TypeError, ValueError, AttributeError, KeyError)
_Batch = Sequence[tuple[Sequence[int], Any]]


class _Model:
    """What both ways share. `max_length` in tokens."""

    def __init__(self, model: Any, max_length: int) -> None:
        self._model = model
        self.max_length = max_length
        self._takes = inspect.signature(model.forward).parameters
        config = model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._bytes_per_token: int = config.num_hidden_layers * 2 * heads * head_dim * model.dtype.itemsize

    @property
    def device(self) -> torch.device:
        device: torch.device = self._model.device
        return device

    def cache_bytes(self, capacity: int) -> int:
        return self._bytes_per_token * capacity

    def _ids(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor([list(ids)], device=self.device)


class PackedModel(_Model):
    """All sequences of a step in one forward pass."""

    def new_cache(self, capacity: int) -> KVCache:
        return KVCache(capacity)

    @torch.inference_mode()
    def step(self, batch: _Batch) -> Tensor:
        counts = [len(ids) for ids, _ in batch]
        last = torch.tensor(counts, device=self.device).cumsum(0) - 1
        if "logits_to_keep" in self._takes:
            logits = self._run(self._model, batch, logits_to_keep=last).logits[0]
        else:
            logits = self._run(self._model, batch).logits[0, last]
        return _on_cpu(logits)

    @torch.inference_mode()
    def hidden_states(self, batch: _Batch) -> list[Tensor]:
        states = self._run(self._model.base_model, batch).last_hidden_state[0]
        return list(torch.split(_on_cpu(states), [len(ids) for ids, _ in batch]))

    def _run(self, part: Any, batch: _Batch, **more: Any) -> Any:
        counts, caches = [len(ids) for ids, _ in batch], [cache for _, cache in batch]
        positions = [place for ids, cache in batch for place in range(cache.length, cache.length + len(ids))]
        answer = part(
            input_ids=self._ids([token for ids, _ in batch for token in ids]),
            position_ids=self._ids(positions),
            use_cache=False,
            pack=Pack(counts, caches),
            **more,
        )
        for count, cache in zip(counts, caches, strict=True):
            cache.length += count
        return answer


class _OwnCache:
    """The model's own cache of one sequence."""

    def __init__(self, config: Any) -> None:
        self.states = DynamicCache(config=config)
        self.length = 0
        self.spoilt = False


class AloneModel(_Model):
    """One sequence after the other, each by the model's own means."""

    def new_cache(self, capacity: int) -> _OwnCache:
        return _OwnCache(self._model.config.get_text_config())

    @torch.inference_mode()
    def step(self, batch: _Batch) -> Tensor:
        return torch.stack([_on_cpu(answer.logits[0, -1]) for answer in self._each(self._model, batch)])

    @torch.inference_mode()
    def hidden_states(self, batch: _Batch) -> list[Tensor]:
        return [_on_cpu(answer.last_hidden_state[0]) for answer in self._each(self._model.base_model, batch)]

    def _each(self, part: Any, batch: _Batch) -> list[Any]:
        named = "cache" if "cache" in inspect.signature(part.forward).parameters else "past_key_values"
        answers = []
        try:
            for ids, cache in batch:
                answers.append(part(input_ids=self._ids(ids), use_cache=True, **{named: cache.states}))
                cache.length += len(ids)
        except Exception:
            for _, cache in batch:  # some have read their tokens, one perhaps half
                cache.spoilt = True
            raise
        return answers


def serving(model: Any, max_length: int) -> PackedModel | AloneModel:
    """The model, ready to serve, in the faster of the ways that give what its plain forward pass gives.

    Also pays for the first, slow steps. Raises ValueError if neither does.
    """
    width = min(8, max_length - 1)
    samples = [[(7 * place + 3 * number) % _vocabulary(model) for place in range(width - number)] for number in (0, 3)]
    with torch.inference_mode():
        plain = [_on_cpu(model(torch.tensor([ids], device=model.device)).logits[0, -1]) for ids in samples]
    own = model.config._attn_implementation
    try:
        model.set_attn_implementation(NAME)
        packed = PackedModel(model, max_length)
        if _agrees(packed, samples, plain, model.dtype):
            return packed
        reason = "other results than by itself"
    except _REFUSALS as error:
        reason = str(error).partition("\n")[0]
    logger.warning("%s cannot be batched (%s): its requests take turns", type(model).__name__, reason)
    model.set_attn_implementation(own)
    try:
        alone = AloneModel(model, max_length)
        if _agrees(alone, samples, plain, model.dtype):
            return alone
        reason = "read in pieces, a prompt gives other results"
    except _REFUSALS as error:
        reason = str(error).partition("\n")[0]
    raise ValueError(f"{type(model).__name__} is not supported: {reason}")


def _agrees(
    model: PackedModel | AloneModel, samples: Sequence[Sequence[int]], plain: Sequence[Tensor], dtype: torch.dtype
) -> bool:
    """Whether prompts read together and in pieces come to the same logits as whole and alone."""
    caches = [model.new_cache(1) for _ in samples]
    model.step([(ids[:2], cache) for ids, cache in zip(samples, caches, strict=True)])
    logits = model.step([(ids[2:], cache) for ids, cache in zip(samples, caches, strict=True)])
    expected = torch.stack(list(plain))
    bound = _TOLERANCE[dtype.itemsize] * float(expected.abs().max())
    return float((logits - expected).abs().max()) <= bound


def _vocabulary(model: Any) -> int:
    rows: int = model.get_input_embeddings().weight.shape[0]
    return rows


def _on_cpu(states: Tensor) -> Tensor:
    return (states if states.dtype.itemsize >= 4 else states.float()).cpu()
