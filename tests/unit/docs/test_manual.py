"""The manual page is that of the commands as they are, and roff has nothing against it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from gateway.cli import app
from gateway.manual import manual

PAGE = Path(__file__).parents[3] / "deploy" / "man" / "seawall.1"


def test_the_page_is_what_the_commands_make_of_it() -> None:
    assert PAGE.read_text("utf-8") == manual(), "run: .venv/bin/python -m gateway.manual > deploy/man/seawall.1"


def test_every_command_and_every_option_is_in_it() -> None:
    text = manual().replace("\\-", "-")

    def look(command: object, path: str) -> None:
        for name, each in getattr(command, "commands", {}).items():
            look(each, f"{path} {name}")
        if not hasattr(command, "commands"):
            assert f".SS {path} [options]" in text
            for option in command.params:  # type: ignore[attr-defined]
                if option.param_type_name == "option":
                    assert f"\\fB{option.opts[0]}\\fR" in text

    look(typer.main.get_command(app), "seawall")


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_roff_has_no_warnings_and_no_text_is_taken_for_a_macro() -> None:
    checked = subprocess.run(["groff", "-man", "-ww", "-z", PAGE], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    shown = subprocess.run(["groff", "-man", "-Tutf8", "-P-cbou", PAGE], capture_output=True, text=True, check=True)
    for said in ("SIGUSR2", "SEAWALL_ADMIN_KEY", "model_loading_failed"):
        assert said in shown.stdout
