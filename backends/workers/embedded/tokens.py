"""Text to token ids and back: byte-level BPE with the chat's role tokens.

A prompt is `<|bos|>` and then, for each message, its role token, its text and `<|end|>`; the answer is opened by
`<|assistant|>` alone and the model closes it with `<|end|>`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from backends.workers.embedded.token_table import TokenTable, byte_of_char

BOS, END, ROLES = "<|bos|>", "<|end|>", ("system", "user", "assistant")
SPECIAL = (BOS, END, *(f"<|{role}|>" for role in ROLES))


class ChatTokenizer(TokenTable):
    """A trained tokenizer and its chat template. Role tokens written out in a text stay text: no injection."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.vocab_size: int = tokenizer.get_vocab_size()
        self.bos, self.end = self._id(BOS), self._id(END)
        self._roles = {role: self._id(f"<|{role}|>") for role in ROLES}
        self.ends, self.never = (self.end,), (self.bos, *self._roles.values())
        special = {self._id(token): token.encode() for token in SPECIAL}
        names = [str(tokenizer.id_to_token(token)) for token in range(self.vocab_size)]
        super().__init__(
            [
                b"" if token in special else bytes(byte_of_char()[char] for char in name)
                for token, name in enumerate(names)
            ],
            special,
        )

    @classmethod
    def load(cls, path: Path) -> ChatTokenizer:
        """Reads a `tokenizer.json`. Raises OSError if there is none."""
        return cls(Tokenizer.from_str(path.read_text(encoding="utf-8")))

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> ChatTokenizer:
        """Learns `vocab_size` tokens, all 256 bytes and the role tokens among them."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    def save(self, path: Path) -> None:
        self._tokenizer.save(str(path))

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text; `special`: with `<|bos|>` in front."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [self.bos, *ids] if special else ids

    def message(self, role: str, content: str) -> list[int]:
        """One closed message."""
        return [*self.opened(role), *self.encode(content), self.end]

    def opened(self, role: str) -> list[int]:
        """The opening of a message that is yet to be written; an unknown role (tool, developer) reads as system."""
        return [self._roles.get(role, self._roles["system"])]

    def chat(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True, continue_final: bool = False
    ) -> list[int]:
        """The prompt of a chat. `continue_final` leaves the last message open, to be written on."""
        ids = [self.bos]
        for message in messages:
            ids += self.message(message["role"], message["content"])
        if continue_final:
            return ids[:-1]
        return ids + self.opened("assistant") if add_generation_prompt else ids

    def _id(self, token: str) -> int:
        found: int | None = self._tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"the tokenizer has no {token} token")
        return found
