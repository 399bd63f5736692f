"""Keys and values of one sequence, and which of its tokens sees which."""

from __future__ import annotations

import torch
from torch import Tensor

_GROWTH = 1.5


class KVCache:
    """Keys and values of every layer, each `[kv_heads, room, head_dim]`; of the room, `length` tokens are filled.

    Room for `capacity` tokens is taken with a layer's first ones, in their dtype and on their device, and more when
    that is full. `spoilt`: a step failed halfway and the contents are of no use.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.length = 0
        self.spoilt = False

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes `[kv_heads, new, head_dim]` behind the `length` tokens there are; gives all, old and new.

        `length` is the caller's to raise, once all layers have theirs: until then the same tokens may be written again.
        """
        end = self.length + keys.shape[1]
        known = self._layers.get(layer)
        if known is None or known[0].shape[1] < end:
            room = max(end, self._capacity if known is None else int(known[0].shape[1] * _GROWTH))
            known = self._layers[layer] = self._grown(known, room, keys, values)
        known[0][:, self.length : end] = keys
        known[1][:, self.length : end] = values
        return known[0][:, :end], known[1][:, :end]

    def _grown(self, known: tuple[Tensor, Tensor] | None, room: int, *new: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = (like.new_empty(like.shape[0], room, like.shape[2]) for like in new)
        for target, source in zip((keys, values), known or (), strict=False):
            target[:, : self.length] = source[:, : self.length]
        return keys, values


def chunk_mask(past: int, new: int, window: int | None = None, device: torch.device | None = None) -> Tensor | None:
    """Which of `past + new` tokens each of the `new` ones sees, of its last `window` ones; None where one sees all."""
    if new == 1 and (window is None or past < window):
        return None
    seen = torch.ones(new, past + new, dtype=torch.bool, device=device).tril(past)
    return seen if window is None else seen.triu(past + 1 - window)
