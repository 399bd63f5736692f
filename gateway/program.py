"""How this program is called, for texts that tell a person what to type next."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def command() -> str:
    """`seawall` where the shell finds this one by that name, else the way it was called just now."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{_near(Path(sys.executable))} -m gateway"
    if called.name != "seawall":
        return "seawall"
    found = shutil.which("seawall")
    if found is not None and Path(found).resolve() == called.resolve():
        return "seawall"
    return str(_near(called))


def _near(path: Path) -> Path:
    """The path as seen from the working directory, where it lies below it."""
    try:
        return path.absolute().relative_to(Path.cwd())  # not resolved: an environment's python is a link
    except ValueError:
        return path
