"""The openai package for Node, unchanged but for its base URL."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.demo import Demo

HERE = Path(__file__).parent / "node"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js and npm")
def test_the_node_client_chats_streams_lists_and_draws(demo: Demo, tmp_path: Path) -> None:
    for name in ("package.json", "client.mjs"):
        shutil.copy(HERE / name, tmp_path)
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=tmp_path, check=True, timeout=300)
    ran = subprocess.run(["node", "client.mjs", demo.url], cwd=tmp_path, capture_output=True, text=True, timeout=120)
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
