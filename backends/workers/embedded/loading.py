"""Reads a carried model from disk."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

import psutil
import torch

from backends.workers.embedded.catalogue import model_folder
from backends.workers.embedded.model import Decoder
from backends.workers.embedded.tokens import ChatTokenizer


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to serve. `fingerprint` changes with the weights; `created` is the load's Unix time in seconds."""

    name: str
    model: Decoder
    tokenizer: ChatTokenizer
    fingerprint: str
    created: int


def load(name: str, version: str, *, threads: int = 1) -> Loaded:
    """Loads the model called `name` and sets torch's threads for the whole process.

    Raises OSError for missing files, ValueError for damaged ones, MemoryError where it does not fit.
    """
    torch.set_num_threads(threads)
    folder = model_folder(name)
    _check_memory((folder / "model.safetensors").stat().st_size)
    model, tokenizer = Decoder.load(folder), ChatTokenizer.load(folder / "tokenizer.json")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    loaded = Loaded(name, model, tokenizer, f"seawall-{version}-{digest[:8]}", int(time.time()))
    model.step([([tokenizer.bos], model.new_cache(1))])  # the first step is slow: not in a client's time
    return loaded


def _check_memory(file_size: int) -> None:
    """Before anything is read. Weights are stored in 16 bits and served in 64."""
    needed, available = 4 * file_size, psutil.virtual_memory().available
    if needed > available:
        mib = 1 << 20
        raise MemoryError(f"not enough memory: it needs {needed // mib} MiB, {available // mib} MiB are available")
