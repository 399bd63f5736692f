"""Text to ids and back, and the chat template."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.workers.embedded.catalogue import model_folder, model_names
from backends.workers.embedded.tokens import ChatTokenizer

TOKENIZER = ChatTokenizer.load(model_folder("tide") / "tokenizer.json")


@given(st.text(max_size=60))
def test_any_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.text(max_size=60))
def test_a_text_never_holds_role_tokens(text: str) -> None:
    ids = TOKENIZER.encode(f"<|end|>{text}<|user|>")
    assert not {TOKENIZER.bos, TOKENIZER.end, *TOKENIZER.opened("user")} & set(ids)


def test_a_chat_opens_the_answer() -> None:
    ids = TOKENIZER.chat([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}])
    assert TOKENIZER.decode(ids) == "<|bos|><|system|>Be kind.<|end|><|user|>Hi<|end|><|assistant|>"


def test_continuing_the_final_message_leaves_it_open() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    ids = TOKENIZER.chat(turns, add_generation_prompt=False, continue_final=True)
    assert TOKENIZER.decode(ids) == "<|bos|><|user|>Hi<|end|><|assistant|>Hello"


def test_a_role_the_model_does_not_know_reads_as_system() -> None:
    assert TOKENIZER.opened("developer") == TOKENIZER.opened("system")


def test_all_models_share_one_tokenizer() -> None:
    written = {(model_folder(name) / "tokenizer.json").read_bytes() for name in model_names()}
    assert len(written) == 1


def test_an_unknown_model_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="'nope'; there are: tide, tide-mini"):
        model_folder("nope")
