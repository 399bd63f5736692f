"""Attention for several sequences in one row, each with a cache of its own, behind transformers' attention interface.

The tokens of all sequences go through the model as one row `[1, tokens]`, so that they share every matrix product;
only attention looks at each sequence alone, at its own keys and values. Which tokens are whose travels along as the
forward pass's argument `pack`, as transformers' own continuous batching hands on its paged cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from backends.workers.embedded.kv_cache import KVCache, chunk_mask

NAME = "seawall_packed"
#: Arguments of some models' attention that change its result and are not served here.
_UNKNOWN = ("softcap", "s_aux", "position_bias", "head_mask")


@dataclass(frozen=True, slots=True)
class Pack:
    """How many of the row's tokens are each sequence's, and the sequences' caches."""

    counts: Sequence[int]
    caches: Sequence[KVCache]


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    pack: Pack,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Answers `[1, tokens, heads, dim]` of queries, keys and values `[1, heads, tokens, dim]`.

    Raises NotImplementedError for a kind of attention that it does not know.
    """
    unknown = [name for name in _UNKNOWN if more.get(name) is not None]
    if unknown or attention_mask is not None:
        raise NotImplementedError(f"attention with {', '.join(unknown) or 'a mask of its own'}")
    rows = zip(*(torch.split(part[0], list(pack.counts), dim=1) for part in (query, key, value)), strict=True)
    mixed = []
    for (queries, keys, values), cache in zip(rows, pack.caches, strict=True):
        past, new = cache.length, queries.shape[1]
        known_keys, known_values = cache.extend(int(module.layer_idx), keys, values)  # type: ignore[arg-type]
        mask = chunk_mask(past, new, sliding_window, query.device)
        grouped = queries.shape[0] != keys.shape[0]
        attended = scaled_dot_product_attention(
            queries[None], known_keys[None], known_values[None], attn_mask=mask, scale=scaling, enable_gqa=grouped
        )
        mixed.append(attended[0])
    return torch.cat(mixed, dim=1).transpose(0, 1)[None].contiguous(), None


AttentionInterface.register(NAME, packed_attention)
