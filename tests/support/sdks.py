"""Client libraries in an environment of their own, and the small programs that use them (`tests/e2e/sdks`)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support import parts

PROGRAMS = Path(__file__).parents[1] / "e2e" / "sdks"
PACKAGES = ("anthropic==2.13.0", "langchain-openai==1.7.4", "llama-index-llms-openai-like==0.8.1")


def install() -> Path:
    """The interpreter of an environment with the libraries. Skips where they cannot be installed."""
    return parts.environment("sdks", *PACKAGES) / "python"


def ran(interpreter: Path, program: str, url: str) -> Any:
    """The JSON that a program prints after it has used the gateway at `url`."""
    done = subprocess.run([interpreter, PROGRAMS / program, url], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
