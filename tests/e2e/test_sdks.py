"""Client libraries that people bring, installed as they would, unchanged but for the base URL."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.demo import Demo
from tests.support.sdks import ran

pytestmark = pytest.mark.slow


def test_langchain_invokes_streams_chains_and_batches(demo: Demo, sdks: Path) -> None:
    got = ran(sdks, "langchain_client.py", demo.url)
    assert got["whole"].startswith("A lighthouse is")
    assert got["tokens"] == 12
    assert got["streamed"] == got["whole"] == got["chain"]
    assert got["batch"] == [got["whole"]] * 3


def test_llama_index_chats_and_streams(demo: Demo, sdks: Path) -> None:
    got = ran(sdks, "llamaindex_client.py", demo.url)
    assert got["whole"].startswith("A lighthouse is")
    assert got["streamed"] == got["whole"]
