"""A part that cannot be installed skips its tests, says so at the end, and is asked for once in a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import parts

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(parts, "missing", {})


def test_it_is_made_once_and_again_for_another_recipe() -> None:
    made: list[Path] = []

    def make(home: Path) -> None:
        home.mkdir()
        made.append(home)

    home = parts.once("one", "a==1", make)
    assert parts.once("one", "a==1", make) == home
    assert made == [home]
    (home / "left").touch()
    assert parts.once("one", "a==2", make) == home
    assert made == [home, home]
    assert not (home / "left").exists()
    assert parts.missing == {}


def test_a_failure_skips_with_the_last_that_was_said_and_is_not_tried_again() -> None:
    tries: list[Path] = []

    def make(home: Path) -> None:
        tries.append(home)
        home.mkdir()
        parts.run(sys.executable, "-c", "import sys; print('one', file=sys.stderr); sys.exit('no such package')")

    for _ in range(2):
        with pytest.raises(pytest.skip.Exception, match="could not install one: no such package"):
            parts.once("one", "a==1", make)
    assert len(tries) == 1
    assert parts.missing == {"one": "no such package"}


def test_a_half_made_one_is_made_anew_by_the_next_run() -> None:
    def half(home: Path) -> None:
        (home / "half").mkdir(parents=True)
        raise OSError(28, "No space left on device")

    with pytest.raises(pytest.skip.Exception, match="No space left on device"):
        parts.once("one", "a==1", half)
    parts.missing.clear()
    home = parts.once("one", "a==1", Path.mkdir)
    assert [each.name for each in home.iterdir()] == ["complete"]


def test_an_installer_that_hangs_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_TIMEOUT", 0.1)
    with pytest.raises(pytest.skip.Exception, match="timed out"):
        parts.once("one", "a==1", lambda home: parts.run("sleep", "60"))


def test_a_package_that_no_registry_has_skips() -> None:
    with pytest.raises(pytest.skip.Exception, match="could not install one: "):
        parts.folder("one", "./no-such-file.whl")


@pytest.mark.parametrize(("user", "apt"), [(1000, "/usr/bin/apt-get"), (0, None)])
def test_debian_packages_need_root_and_apt(user: int, apt: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(parts.shutil, "which", lambda _: apt)
    parts.debian("go", there=lambda: True)
    with pytest.raises(pytest.skip.Exception, match="needs root and apt-get"):
        parts.debian("go", "sprig", there=lambda: False)
    assert parts.missing == {"Debian's go, sprig": "needs root and apt-get"}


def test_no_test_begins_after_the_budget_and_the_run_says_so() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--budget", "0"]
    done = subprocess.run(
        [*command, f"{Path(__file__)}::test_it_is_made_once_and_again_for_another_recipe"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    assert "MISSING: the tests that need these were skipped" in done.stdout
    assert "time: 0 s were over before tests/unit/support/test_parts.py" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith("1 skipped")
