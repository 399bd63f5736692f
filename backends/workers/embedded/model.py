"""A small Llama-style decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU, tied embeddings.

Training runs `Decoder.forward` over whole windows; serving runs `Decoder.step` over the rows of many sequences at
once, each with a `KVCache` of its own. Serving computes in float64: the sums of a matrix product change with the
number of rows beside them, and in float32 that noise (about 1e-6) now and then flips a greedy choice. In float64
(about 1e-14) an answer is the same alone, in a crowd, and continued from its token ids on another worker. For
models this small it costs nothing: a step is bound by the calls, not by the arithmetic.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from backends.workers.embedded.kv_cache import KVCache, chunk_mask


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model's shape; the names are those of a Hugging Face Llama's config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


class _Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        width = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.qkv_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def project(self, x: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `[..., heads, rows, head_dim]` of `x` `[..., rows, hidden]`, rotated."""
        split = self.qkv_proj(x).unflatten(-1, (-1, self.head_dim)).transpose(-2, -3)
        turned = _rotate(split[..., : self.heads + self.kv_heads, :, :], rotation)
        queries, keys = torch.split(turned, [self.heads, self.kv_heads], dim=-3)
        return queries, keys, split[..., self.heads + self.kv_heads :, :, :]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """The heads' answers, not yet mixed, `[..., rows, hidden]`."""
        mixed = scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=causal, enable_gqa=self.heads != self.kv_heads
        )
        return mixed.transpose(-2, -3).flatten(-2)


class _Layer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attention = _Attention(config)
        self.post_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def feed_forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(self.post_norm(x)).chunk(2, dim=-1)
        fed: Tensor = x + self.down_proj(silu(gate) * up)
        return fed


class Decoder(nn.Module):
    """The model. Weights are shared between the input embedding and the output."""

    rotation: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers: Sequence[_Layer] = nn.ModuleList(  # type: ignore[assignment]
            _Layer(config) for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.register_buffer("rotation", _rotations(config), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits `[batch, length, vocab]` of whole windows `[batch, length]`, for training."""
        x = self.embed(ids)
        rotation = self.rotation[: ids.shape[1]]
        for layer in self.layers:
            queries, keys, values = layer.attention.project(layer.input_norm(x), rotation)
            x = x + layer.attention.o_proj(layer.attention.attend(queries, keys, values, None, causal=True))
            x = layer.feed_forward(x)
        return linear(self.norm(x), self.embed.weight)

    @torch.inference_mode()
    def hidden_states(self, batch: Sequence[tuple[Sequence[int], KVCache]]) -> list[Tensor]:
        """Reads new tokens of several sequences into their caches: final states `[new, hidden]` of each.

        All sequences share the matrix products; attention looks at each alone. Every sequence has at least one new
        token and room for all of them.
        """
        counts = [len(ids) for ids, _ in batch]
        positions = torch.cat(
            [torch.arange(kv.length, kv.length + n) for n, (_, kv) in zip(counts, batch, strict=True)]
        )
        x = self.embed(torch.tensor([token for ids, _ in batch for token in ids]))
        rotation = self.rotation[positions]
        masks = [chunk_mask(kv.length, n) for n, (_, kv) in zip(counts, batch, strict=True)]
        for number, layer in enumerate(self.layers):
            queries, keys, values = layer.attention.project(layer.input_norm(x), rotation)
            each = zip(
                *(torch.split(part, counts, dim=1) for part in (queries, keys, values)), masks, batch, strict=True
            )
            mixed = []
            for query, key, value, mask, (_, cache) in each:
                known = cache.extend(number, key, value)
                mixed.append(layer.attention.attend(query[None], known[0][None], known[1][None], mask, causal=False)[0])
            x = layer.feed_forward(x + layer.attention.o_proj(torch.cat(mixed)))
        for count, (_, cache) in zip(counts, batch, strict=True):
            cache.length += count
        return list(torch.split(self.norm(x), counts))

    @torch.inference_mode()
    def step(self, batch: Sequence[tuple[Sequence[int], KVCache]]) -> Tensor:
        """As `hidden_states`, and then the logits `[sequences, vocab]` after each sequence's last new token."""
        last = torch.stack([states[-1] for states in self.hidden_states(batch)])
        return linear(last, self.embed.weight)

    def new_cache(self, capacity: int) -> KVCache:
        """Room for one sequence of `capacity` tokens, and more if need be."""
        return KVCache(capacity)

    def cache_bytes(self, capacity: int) -> int:
        """What `new_cache` will take."""
        config = self.config
        per_token = config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim
        return per_token * capacity * self.embed.weight.element_size()

    @property
    def max_length(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.config.max_position_embeddings

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.embed.weight.device

    def save(self, folder: Path) -> None:
        """Writes `config.json` and the weights, in float16, as `model.safetensors`."""
        config = asdict(self.config) | {"architectures": ["SeawallTideForCausalLM"], "tie_word_embeddings": True}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        weights = {name: weight.half().contiguous() for name, weight in self.state_dict().items()}
        (folder / "model.safetensors").write_bytes(save(weights))

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.float64) -> Decoder:
        """Reads what `save` wrote, ready to serve. Raises OSError if one is missing, ValueError if they do not fit."""
        written = json.loads((folder / "config.json").read_text())
        names = ModelConfig.__dataclass_fields__
        try:
            model = cls(ModelConfig(**{name: value for name, value in written.items() if name in names}))
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except SafetensorError as error:
            raise ValueError(f"the weights in {folder.name} are damaged: SafetensorError: {error}") from error
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"the weights in {folder.name} do not fit its config.json") from error
        return model.to(dtype).eval()


def _rotations(config: ModelConfig) -> Tensor:
    """Cosines and sines `[positions, 2, head_dim / 2]` of rotary position embedding (Su et al., 2021)."""
    steps = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    angles = torch.outer(torch.arange(config.max_position_embeddings, dtype=torch.float64), config.rope_theta**-steps)
    return torch.stack([angles.cos(), angles.sin()], dim=1).float()


def _rotate(x: Tensor, rotation: Tensor) -> Tensor:
    cos, sin = rotation.to(x.dtype).unbind(-2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
