"""Reads a causal language model and its tokenizer from a local folder, as transformers' `save_pretrained` writes."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from backends.workers.embedded.loading import Loaded, check_memory
from backends.workers.transformers.model import serving
from backends.workers.transformers.tokens import TransformersTokenizer

_WEIGHTS = ("*.safetensors", "*.bin")
_HASHED = 1 << 20
_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
#: Context of a model that does not say how long it is, in tokens.
_UNKNOWN_LENGTH = 2048


def load(
    folder: Path, version: str, *, device: str = "auto", dtype: str = "auto", max_model_len: int | None = None
) -> Loaded:
    """Loads the model in `folder` onto torch's `device` (`auto`: a GPU if there is one) in `dtype`.

    `auto` is the stored dtype on a GPU and float32 on the CPU. `max_model_len`: tokens, at most the model's own length.
    Raises OSError for missing files, ValueError for damaged ones, MemoryError or torch's error where it does not fit.
    """
    chosen = torch.device(device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    if chosen.type == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    transformers_logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    stored = getattr(config, "dtype", None) or torch.float32
    wanted = _dtype(dtype, stored, chosen)
    check_memory(_weight_bytes(folder) * wanted.itemsize // stored.itemsize, chosen)
    model = _weights(folder, config, wanted).to(chosen).eval()
    length = _length(config, max_model_len)
    rows = int(model.get_input_embeddings().weight.shape[0])
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    generation = model.generation_config
    ends = _ends(tokenizer.eos_token_id, getattr(generation, "eos_token_id", None))
    given = {name: getattr(generation, name, None) for name in _DEFAULTS}
    defaults = {name: value for name, value in given.items() if value is not None}
    fingerprint = f"seawall-{version}-{_digest(folder)}"
    ours = TransformersTokenizer(tokenizer, rows, ends)
    return Loaded(folder.name, serving(model, length), ours, fingerprint, int(time.time()), defaults)


def _dtype(name: str, stored: torch.dtype, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else stored
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"there is no dtype {name!r}; use auto, bfloat16, float16, float32 or float64")
    return found


def _weights(folder: Path, config: Any, dtype: torch.dtype) -> Any:
    try:
        model, told = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except SafetensorError as error:
        raise ValueError(f"the weights in {folder.name} are damaged: SafetensorError: {error}") from error
    if wrong := [*told["missing_keys"], *(str(key) for key in told["mismatched_keys"])]:
        more = f" and {len(wrong) - 1} more" if wrong[1:] else ""
        raise ValueError(f"the weights in {folder.name} do not fit its config.json: {wrong[0]}{more}")
    return model


def _length(config: Any, asked: int | None) -> int:
    own = getattr(config.get_text_config(), "max_position_embeddings", None)
    if asked is None:
        return int(own or _UNKNOWN_LENGTH)
    if own is not None and asked > own:
        raise ValueError(f"--max-model-len {asked} is more than the model's own {own}")
    return asked


def _ends(*given: int | Sequence[int] | None) -> list[int]:
    """All tokens that end an answer, the tokenizer's and those of generation_config.json."""
    ends: list[int] = []
    for each in given:
        ends += [] if each is None else [each] if isinstance(each, int) else each
    return sorted(set(ends))


def _files(folder: Path) -> list[Path]:
    """The weights' files; the safer kind, where there are both."""
    for pattern in _WEIGHTS:
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _digest(folder: Path) -> str:
    """Of the configuration and each weight file's beginning and size: whole files would take minutes."""
    found = hashlib.sha256((folder / "config.json").read_bytes())
    for path in _files(folder):
        with path.open("rb") as file:
            found.update(f"{path.name}:{path.stat().st_size}:".encode() + file.read(_HASHED))
    return found.hexdigest()[:8]
