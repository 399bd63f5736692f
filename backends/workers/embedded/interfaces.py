"""What the engine and the server need of a model and of its tokenizer, whoever made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class TextModel(Protocol):
    """A causal language model that reads tokens of several sequences at once, each into a cache of its own."""

    @property
    def max_length(self) -> int:
        """Tokens that a prompt and its answer may have together."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def step(self, batch: Sequence[tuple[Sequence[int], Any]]) -> Tensor:
        """Reads new tokens into their caches: the logits `[sequences, vocab]` after each sequence's last, on the CPU.

        A step that raises can be repeated with the same tokens, but for caches that are `spoilt`.
        """

    def hidden_states(self, batch: Sequence[tuple[Sequence[int], Any]]) -> list[Tensor]:
        """As `step`; gives the final states `[new, hidden]` of each sequence."""

    def new_cache(self, capacity: int) -> Any:
        """An empty cache, with `length`, `spoilt` and at first room for `capacity` tokens."""

    def cache_bytes(self, capacity: int) -> int:
        """What keys and values of so many tokens take."""


class TextTokenizer(Protocol):
    """Text to token ids and back.

    Ids are below `vocab_size`, and none stands for more than `longest_token` characters. `ends` close an answer,
    `never` may not be in one.
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def longest_token(self) -> int: ...

    @property
    def ends(self) -> Sequence[int]: ...

    @property
    def never(self) -> Sequence[int]: ...

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text; `special`: with what the model wants around a prompt."""

    def chat(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True, continue_final: bool = False
    ) -> list[int]:
        """The prompt of a chat. Raises RequestError for one that its template does not take."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for in an answer; empty for a control token."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, control tokens written out."""
