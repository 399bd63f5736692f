"""Running out of memory: telling it from other failures, the figures, and giving memory back."""

from __future__ import annotations

import gc
import re

import psutil
import torch

#: torch's wordings: CUDA's and other accelerators' allocators, and the CPU's.
_TEXTS = re.compile(r"out of memory|can't allocate memory|not enough memory|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _TEXTS.search(str(error)) is not None


def is_fatal(error: BaseException) -> bool:
    """Whether the device is lost to this process: after a CUDA error every later call fails too."""
    text = str(error)
    return isinstance(error, RuntimeError) and "CUDA error" in text and not is_out_of_memory(error)


def free_cache(device: torch.device) -> None:
    """Gives what is no longer used back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def used_and_available(device: torch.device) -> tuple[int, int]:
    """Bytes of the device's memory in use, by whomever, and bytes still free."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total - free, free
    memory = psutil.virtual_memory()
    return memory.used, memory.available
