"""transformers, installed beside the test environment, and models in its format made on the spot.

It is 130 MB and would slow down every start of the image worker, so it is in a folder of its own that only the tests
that need it put on the path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support import parts

VERSION = "5.24.0"
#: What it needs and the test environment lacks.
_PACKAGES = (f"transformers=={VERSION}", "regex==2026.11.15")
_TEMPLATE = (
    "<|bos|>{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def install() -> Path:
    """The folder that has transformers. Skips where it cannot be installed."""
    return parts.folder(f"transformers-{VERSION}", *_PACKAGES)


def save_tide(folder: Path, name: str = "tide-mini") -> None:
    """Writes a carried model as what it is, a Llama, with its tokenizer and chat template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from backends.workers.embedded.catalogue import model_folder
    from backends.workers.embedded.model import Decoder

    ours = Decoder.load(model_folder(name), torch.float32)
    shape = ours.config
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        max_position_embeddings=shape.max_position_embeddings,
        rms_norm_eps=shape.rms_norm_eps,
        rope_theta=shape.rope_theta,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    theirs = LlamaForCausalLM(config)
    theirs.load_state_dict(_renamed(ours.state_dict(), config))
    theirs.half().save_pretrained(folder)
    save_tokenizer(folder, name)


def _renamed(weights: dict[str, Any], config: Any) -> dict[str, Any]:
    heads = config.hidden_size // config.num_attention_heads
    widths = [config.num_attention_heads * heads, *[config.num_key_value_heads * heads] * 2]
    named = {
        "model.embed_tokens.weight": weights["embed.weight"],
        "lm_head.weight": weights["embed.weight"],
        "model.norm.weight": weights["norm.weight"],
    }
    for number in range(config.num_hidden_layers):
        ours, theirs = f"layers.{number}.", f"model.layers.{number}."
        named[theirs + "input_layernorm.weight"] = weights[ours + "input_norm.weight"]
        named[theirs + "post_attention_layernorm.weight"] = weights[ours + "post_norm.weight"]
        parts = weights[ours + "attention.qkv_proj.weight"].split(widths)
        for letter, part in zip("qkv", parts, strict=True):
            named[f"{theirs}self_attn.{letter}_proj.weight"] = part
        named[theirs + "self_attn.o_proj.weight"] = weights[ours + "attention.o_proj.weight"]
        gate, up = weights[ours + "gate_up_proj.weight"].chunk(2)
        named |= {theirs + "mlp.gate_proj.weight": gate, theirs + "mlp.up_proj.weight": up}
        named[theirs + "mlp.down_proj.weight"] = weights[ours + "down_proj.weight"]
    return named


def save_tokenizer(folder: Path, name: str = "tide-mini", *, template: bool = True) -> None:
    """Writes a carried model's tokenizer, which puts `<|bos|>` in front of a prompt."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    from backends.workers.embedded.catalogue import model_folder

    bare = Tokenizer.from_file(str(model_folder(name) / "tokenizer.json"))
    bare.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 0)])
    made = PreTrainedTokenizerFast(tokenizer_object=bare, bos_token="<|bos|>", eos_token="<|end|>")
    made.chat_template = _TEMPLATE if template else None
    made.save_pretrained(folder)


def save_random(folder: Path, config: Any) -> None:
    """Writes a model of random weights, the same each time, far enough apart for greedy choices to be certain."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config.initializer_range = 0.2
    AutoModelForCausalLM.from_config(config).eval().save_pretrained(folder)
    save_tokenizer(folder)
