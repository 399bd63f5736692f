"""The built package holds everything that is not Python, too."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.support import parts

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_wheel_has_every_file_of_the_packages_and_the_manual(tmp_path: Path) -> None:
    python = parts.environment("packaging", "setuptools==84.2.1") / "python"
    argv = [python, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", tmp_path, ROOT]
    subprocess.run(argv, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("seawall-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert archive.read("gateway/demo.yaml") == (ROOT / "gateway.yaml").read_bytes()
    for package in ("gateway", "backends", "policies"):
        files = (each for each in (ROOT / package).rglob("*") if each.is_file() and "__pycache__" not in each.parts)
        missing = {each.relative_to(ROOT).as_posix() for each in files} - set(names)
        assert missing == set()
    assert any(name.endswith("/data/share/man/man1/seawall.1") for name in names)
