"""Shell completion: what a shell gets from the program, and what real bash makes of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
#: Presses TAB as readline does: calls the function that `complete` has named for the command.
PRESS_TAB = """
eval "$(_SEAWALL_COMPLETE=source_bash seawall)"
words=($1); [ "${1% }" = "$1" ] || words+=("")
COMP_WORDS=("${words[@]}"); COMP_CWORD=$(( ${#words[@]} - 1 ))
function=$(complete -p seawall | sed -E 's/.* -F ([^ ]+) .*/\\1/')
"$function" seawall "${words[-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("seawall wo", {"worker"}),
        ("seawall ch", {"check", "chaos"}),
        ("seawall worker ", {"vllm", "embedded", "diffusers"}),
        ("seawall import ", {"litellm"}),
        ("seawall chaos --how ", {"kill", "freeze"}),
        ("seawall serve --po", {"--port"}),
    ],
)
def test_bash_completes(typed: str, offered: set[str]) -> None:
    argv = ["bash", "--norc", "-c", PRESS_TAB, "bash", typed]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment(), timeout=60, check=True)
    assert offered <= set(done.stdout.split()), done.stdout + done.stderr
    if not typed.endswith(" "):
        beginning = typed.split()[-1]
        assert all(word.startswith(beginning) for word in done.stdout.split())


@pytest.mark.parametrize(
    ("shell", "said"), [("zsh", "#compdef seawall"), ("fish", "complete --command seawall"), ("bash", "complete -o")]
)
def test_each_shell_has_its_script(shell: str, said: str) -> None:
    env = {**environment(), "_SEAWALL_COMPLETE": f"source_{shell}"}
    done = subprocess.run(["seawall"], capture_output=True, text=True, env=env, timeout=60, check=True)
    assert said in done.stdout
    checker = shutil.which(shell)
    if checker is not None:
        flag = "--no-execute" if shell == "fish" else "-n"
        subprocess.run([checker, flag], input=done.stdout, text=True, timeout=60, check=True)
