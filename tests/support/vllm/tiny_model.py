"""Writes a tiny random Llama with a tokenizer of its own: `python tiny_model.py DIRECTORY`, run in vLLM's environment.

Heads of 64, the least that vLLM's attention on CPUs takes. Random weights say nothing sensible, and greedy decoding
says it every time alike, which is what the tests need.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY, CONTEXT = 1024, 512
_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def main(folder: Path) -> None:
    """Makes the model; the same each time."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,  # far enough apart that no two tokens are as likely as each other
    )
    LlamaForCausalLM(config).eval().save_pretrained(folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    special = ["<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(_texts(), trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=trained, bos_token="<|bos|>", eos_token="<|end|>")
    made.chat_template = _TEMPLATE
    return made


def _texts() -> list[str]:
    rng = random.Random(0)
    syllables = [a + b for a in "bcdfghklmnprstvw" for b in ("a", "e", "i", "o", "u", "an", "el", "or")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(2000)]
    return [" ".join(rng.choices(words, k=12)).capitalize() + "." for _ in range(2000)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
