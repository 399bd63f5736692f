"""`python -m benchmarks.gpu.hog DEVICE MIB`: takes a GPU's memory but for so many MiB, until its input ends."""

from __future__ import annotations

import sys

import torch

_PIECE = 64 << 20


def main(device: str, leave: int) -> None:
    """Prints `holding` once it has what it wants. Raises torch.OutOfMemoryError for less than there is to take."""
    held = []
    while torch.cuda.mem_get_info(device)[0] > leave + _PIECE:
        held.append(torch.empty(_PIECE, dtype=torch.uint8, device=device))
    print(f"holding {len(held) * _PIECE >> 20} MiB", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) << 20)
