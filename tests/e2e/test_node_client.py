"""The openai package for Node, unchanged but for its base URL."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.demo import Demo
from tests.support import parts

HERE = Path(__file__).parent / "node"


def installed(home: Path) -> None:
    home.mkdir()
    shutil.copy(HERE / "package.json", home)
    parts.run("npm", "install", "--prefix", home, "--no-audit", "--no-fund")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js and npm")
def test_the_node_client_chats_streams_lists_and_draws(demo: Demo) -> None:
    home = parts.once("node-client", (HERE / "package.json").read_text(), installed)
    shutil.copy(HERE / "client.mjs", home)  # Node looks for packages beside the file
    ran = subprocess.run(["node", "client.mjs", demo.url], cwd=home, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    got = json.loads(ran.stdout)
    assert "eat" in got["chat"]
    assert got["streamed"] == got["chat"]
    assert got["completionTokens"] == 5
    assert got["models"] == ["tide", "tide-mini", "shoal"]
    assert base64.b64decode(got["image"]).startswith(b"\x89PNG")
    assert (got["error"]["name"], got["error"]["status"]) == ("NotFoundError", 404)
    assert got["error"]["code"] == "model_not_found"
    assert got["error"]["requestID"]
