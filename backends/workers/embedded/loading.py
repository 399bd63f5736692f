"""Reads a carried model from disk."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from backends.workers.embedded.catalogue import model_folder
from backends.workers.embedded.interfaces import TextModel, TextTokenizer
from backends.workers.embedded.model import Decoder
from backends.workers.embedded.tokens import ChatTokenizer
from backends.workers.memory import used_and_available


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to serve. `fingerprint` changes with the weights; `created` is the load's Unix time in seconds.

    `defaults`: sampling parameters, by their names, for requests that say nothing.
    """

    name: str
    model: TextModel
    tokenizer: TextTokenizer
    fingerprint: str
    created: int
    defaults: Mapping[str, float] = field(default_factory=dict)


def load(name: str, version: str, *, threads: int = 1) -> Loaded:
    """Loads the model called `name` and sets torch's threads for the whole process.

    Raises OSError for missing files, ValueError for damaged ones, MemoryError where it does not fit.
    """
    torch.set_num_threads(threads)
    folder = model_folder(name)
    # Weights are stored in 16 bits and served in 64.
    check_memory(4 * (folder / "model.safetensors").stat().st_size, torch.device("cpu"))
    model, tokenizer = Decoder.load(folder), ChatTokenizer.load(folder / "tokenizer.json")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    loaded = Loaded(name, model, tokenizer, f"seawall-{version}-{digest[:8]}", int(time.time()))
    model.step([([tokenizer.bos], model.new_cache(1))])  # the first step is slow: not in a client's time
    return loaded


def check_memory(needed: int, device: torch.device) -> None:
    """Before anything is read: whether the device has `needed` bytes. Raises MemoryError."""
    available = used_and_available(device)[1]
    if needed > available:
        mib = 1 << 20
        raise MemoryError(f"not enough memory: it needs {needed // mib} MiB, {available // mib} MiB are available")
