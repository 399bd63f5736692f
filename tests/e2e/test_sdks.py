"""Client libraries that people bring, installed as they would, unchanged but for the base URL."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.demo import Demo

HERE = Path(__file__).parent / "sdks"
CACHE = Path.home() / ".cache" / "seawall" / "sdks"
PACKAGES = ("langchain-openai==1.7.4", "llama-index-llms-openai-like==0.8.1")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def python() -> Path:
    """The interpreter of an environment with the libraries, made once and kept."""
    interpreter = CACHE / "bin" / "python"
    stamp = CACHE / ("-".join(PACKAGES).replace("=", "") + ".installed")
    if not stamp.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", CACHE], check=True)
        subprocess.run([interpreter, "-m", "pip", "install", "-q", *PACKAGES], check=True)
        stamp.touch()
    return interpreter


def ran(python: Path, script: str, url: str) -> Any:
    done = subprocess.run([python, HERE / script, url], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_langchain_invokes_streams_chains_and_batches(demo: Demo, python: Path) -> None:
    got = ran(python, "langchain_client.py", demo.url)
    assert got["whole"].startswith("A lighthouse is")
    assert got["tokens"] == 12
    assert got["streamed"] == got["whole"] == got["chain"]
    assert got["batch"] == [got["whole"]] * 3


def test_llama_index_chats_and_streams(demo: Demo, python: Path) -> None:
    got = ran(python, "llamaindex_client.py", demo.url)
    assert got["whole"].startswith("A lighthouse is")
    assert got["streamed"] == got["whole"]
