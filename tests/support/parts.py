"""What slow tests need beside the test environment: installed the first time, and kept in `SEAWALL_CACHE`.

What cannot be installed here (no root, no apt, a registry that is down) skips the tests that need it: that says nothing
of Seawall. `missing` has the reasons, and a run lists them at its end, so that nobody takes it for a whole one.

Python packages are held to the versions in `pins/NAME.txt`, all of them, where there is such a file: a release of
somebody else's breaks no test. To take newer ones: remove the file, run the tests, and write what
`~/.cache/seawall/NAME/bin/python -m pip freeze` says.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

CACHE = Path(os.environ.get("SEAWALL_CACHE", "~/.cache/seawall")).expanduser()
PINS = Path(__file__).with_name("pins")
#: Seconds that one command may take.
_TIMEOUT = 600
_PIP = ("-m", "pip", "install", "-q", "--disable-pip-version-check")

#: What could not be installed in this run, and why.
missing: dict[str, str] = {}


def once(name: str, recipe: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, made anew by `make` unless it was finished by the same recipe; else skips."""
    if name in missing:
        _skip(name, missing[name])
    home = CACHE / name
    done = home / "complete"
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with home.with_name(f"{home.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists() or done.read_text() != recipe:
                shutil.rmtree(home, ignore_errors=True)
                make(home)
                done.write_text(recipe)
    except (OSError, subprocess.SubprocessError) as error:
        _skip(name, _reason(error))
    return home


def environment(name: str, *packages: str, finish: Callable[[Path], None] | None = None) -> Path:
    """The `bin` of a virtual environment with these packages; `finish` does what is left, given its folder."""
    pins = _pins(name)

    def make(home: Path) -> None:
        run(sys.executable, "-m", "venv", home)
        run(home / "bin" / "python", *_PIP, *pins, *packages)
        if finish is not None:
            finish(home)

    return once(name, _recipe(packages, pins), make) / "bin"


def folder(name: str, *packages: str) -> Path:
    """A folder with these packages alone, and not what they depend on, to be put on Python's path."""

    def make(home: Path) -> None:
        run(sys.executable, *_PIP, "--no-deps", "--target", home, *packages)

    return once(name, "\n".join(packages), make)


def debian(*packages: str, there: Callable[[], bool]) -> None:
    """Installs Debian's packages where that is possible and `there()` says that what they bring is not; else skips."""
    name = f"Debian's {', '.join(packages)}"
    if there():
        return
    if name in missing:
        _skip(name, missing[name])
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        _skip(name, "needs root and apt-get")
    apt = ("apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3")
    try:
        run(*apt, "update")
        run(*apt, "install", "-y", "--no-install-recommends", *packages)
    except (OSError, subprocess.SubprocessError) as error:
        _skip(name, _reason(error))
    if not there():
        _skip(name, "installed, and yet not there")


def run(*command: str | Path) -> None:
    """Runs an installer's command. Raises OSError or subprocess.SubprocessError."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    env["DEBIAN_FRONTEND"] = "noninteractive"
    subprocess.run(command, check=True, timeout=_TIMEOUT, env=env, capture_output=True, text=True, errors="replace")


def _pins(name: str) -> tuple[str, ...]:
    file = PINS / f"{name}.txt"
    return ("-c", str(file)) if file.exists() else ()


def _recipe(packages: tuple[str, ...], pins: tuple[str, ...]) -> str:
    return "\n".join((*packages, *(Path(file).read_text() for file in pins[1:])))


def _reason(error: Exception) -> str:
    """One line: the last that the installer said, if it said anything."""
    said = getattr(error, "stderr", None) or getattr(error, "stdout", None)
    lines = said.strip().splitlines() if isinstance(said, str) else []
    return lines[-1] if lines else str(error)


def _skip(name: str, reason: str) -> NoReturn:
    missing[name] = reason
    pytest.skip(f"could not install {name}: {reason}")
