"""Client libraries in an environment of their own, and the small programs that use them (`tests/e2e/sdks`)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).parents[1] / "e2e" / "sdks"
PACKAGES = ("anthropic==2.13.0", "langchain-openai==1.7.4", "llama-index-llms-openai-like==0.8.1")
_HOME = Path.home() / ".cache" / "seawall" / "sdks"


def install() -> Path:
    """The interpreter of an environment with the libraries, made once and kept."""
    interpreter = _HOME / "bin" / "python"
    stamp = _HOME / ("-".join(PACKAGES).replace("=", "") + ".installed")
    if not stamp.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", _HOME], check=True)
        subprocess.run([interpreter, "-m", "pip", "install", "-q", *PACKAGES], check=True)
        stamp.touch()
    return interpreter


def ran(interpreter: Path, program: str, url: str) -> Any:
    """The JSON that a program prints after it has used the gateway at `url`."""
    done = subprocess.run([interpreter, PROGRAMS / program, url], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
