"""What a person is told to type next can be typed; and which file the demo serves."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gateway.config import load_config
from gateway.demo import shipped_config
from gateway.program import command


def test_it_is_named_as_it_was_called_unless_the_shell_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / ".venv" / "bin" / "seawall"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert command() == ".venv/bin/seawall"
    monkeypatch.setenv("PATH", str(program.parent))
    assert command() == "seawall"
    monkeypatch.setattr(sys, "argv", ["/opt/seawall/gateway/__main__.py"])
    assert command().endswith(" -m gateway")


def test_the_demo_does_not_take_somebody_elses_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "gateway.yaml"
    packaged = shipped_config()
    assert list(load_config(packaged, {}).backends) == ["tide-a", "tide-b", "tide-mini", "shoal"]
    own.write_text("backends: {llama: {url: 'http://10.0.0.5:8000', kind: vllm}}\nroutes: [{backends: [llama]}]\n")
    assert shipped_config() == packaged
    own.write_text(packaged.read_text("utf-8"))
    assert shipped_config() == Path("gateway.yaml")
