"""Peers are installed each in a folder of its own, at the version that is pinned."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import subjects


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been run, with an empty folder for all peers."""
    ran: list[list[str]] = []
    monkeypatch.setattr(subjects, "HOME", tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: ran.append([str(part) for part in command]))
    return ran


def test_a_python_peer_is_pinned(commands: list[list[str]], tmp_path: Path) -> None:
    subjects.BY_NAME["litellm"].install()
    version = subjects.VERSIONS["litellm"]
    assert commands[0][-1] == str(tmp_path / f"litellm-{version}")
    assert commands[1][-1] == f"litellm[proxy]=={version}"


def test_portkey_gets_the_server_that_its_streams_work_with(commands: list[list[str]], tmp_path: Path) -> None:
    subjects.BY_NAME["portkey"].install()
    home = tmp_path / f"portkey-{subjects.VERSIONS['portkey']}"
    wanted: dict[str, Any] = json.loads((home / "package.json").read_text())
    assert wanted["dependencies"] == {"@portkey-ai/gateway": subjects.VERSIONS["portkey"]}
    assert wanted["overrides"]["@hono/node-server"] == "1.13.5"
    assert str(home) in commands[0]


def test_why_a_peer_could_not_be_installed_is_told(commands: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(command: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(1, "npm")

    gone = [subjects.Subject("left nothing", lambda *_: [], installed=lambda: None)]
    assert subjects.install_missing(tuple(gone)) == {"left nothing": "its program is not where it was expected"}
    monkeypatch.setattr(subprocess, "run", refuse)
    broken = subjects.Subject(
        "broken", lambda *_: [], installed=lambda: None, install=subjects.BY_NAME["portkey"].install
    )
    assert "exit status 1" in subjects.install_missing((broken,))["broken"]
