"""A transformers tokenizer, as the text worker wants it: the bytes of each token, and the model's chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from backends.workers.embedded.protocol import RequestError
from backends.workers.embedded.token_table import TokenTable, byte_of_char

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"  # a word's beginning in SentencePiece's vocabularies
#: vLLM's words for a model without one.
NO_TEMPLATE = (
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template if the "
    "tokenizer does not define one."
)
_SAMPLE = "It's 21 °C, naïve, 海 🌊\n  - and so on."


class TransformersTokenizer(TokenTable):
    """`tokenizer` is transformers'; `vocab_size` the model's number of tokens, `ends` its ends of an answer.

    Raises ValueError if the bytes of its tokens cannot be told.
    """

    never: Sequence[int] = ()

    def __init__(self, tokenizer: Any, vocab_size: int, ends: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.ends = tuple(ends)
        added = {token: each for token, each in tokenizer.added_tokens_decoder.items() if token < vocab_size}
        names = tokenizer.convert_ids_to_tokens(list(range(min(vocab_size, len(tokenizer)))))
        names += [""] * (vocab_size - len(names))  # rows that only fill the model's matrix
        piece = _byte_level_piece if _is_byte_level(tokenizer) else _sentence_piece
        pieces = [added[token].content.encode() if token in added else piece(name) for token, name in enumerate(names)]
        control = {token for token, each in added.items() if each.special} | set(tokenizer.all_special_ids)
        super().__init__(pieces, {token: names[token].encode() for token in control if token < vocab_size})
        self.longest_token = max(self.longest_token, *(len(each.content) for each in added.values()), 1)
        self._check()

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text; `special`: with what the tokenizer puts around a prompt."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        return ids

    def chat(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True, continue_final: bool = False
    ) -> list[int]:
        """The prompt of a chat, by the model's template. Raises RequestError if there is none or it refuses."""
        if self._tokenizer.chat_template is None:
            raise RequestError(NO_TEMPLATE)
        try:
            ids: list[int] = self._tokenizer.apply_chat_template(
                list(messages),
                add_generation_prompt=add_generation_prompt and not continue_final,
                continue_final_message=continue_final,
                tokenize=True,
                return_dict=False,
            )
        except (TemplateError, ValueError) as error:
            raise RequestError(str(error)) from None
        return ids

    def _check(self) -> None:
        """Whether the table gives back what a text was made of; a leading space is some tokenizers' own."""
        known = [token for token in self.encode(_SAMPLE) if token not in self._special]
        back = b"".join(map(self.token_bytes, known)).decode("utf-8", "replace")
        expected: str = self._tokenizer.decode(known, clean_up_tokenization_spaces=False)
        if back.strip() != expected.strip():
            raise ValueError(f"{type(self._tokenizer).__name__} is not supported: it is neither byte-level nor pieces")


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and '"ByteLevel"' in json.dumps(json.loads(backend.to_str())["decoder"])


def _byte_level_piece(name: str) -> bytes:
    known = byte_of_char()
    return bytes(known[char] for char in name) if all(char in known for char in name) else name.encode()


def _sentence_piece(name: str) -> bytes:
    if found := _BYTE.fullmatch(name):
        return bytes([int(found[1], 16)])
    return name.replace(_SPACE, " ").encode()
