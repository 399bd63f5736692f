"""`python -m tests.fuzz [TARGET ...] [--seconds N]`: atheris on each target in turn, in a process of its own.

The corpus grows in ~/.cache/seawall/fuzz. An input that breaks a target is written to tests/fuzz/found/TARGET, where it
stays as a case of `tests/security/test_fuzz_targets.py`; the exit code is then 1. Needs `pip install atheris`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Target = Callable[[bytes], None]
FOUND = Path(__file__).parent / "found"
CORPUS = Path(os.environ.get("SEAWALL_FUZZ_CORPUS", Path.home() / ".cache" / "seawall" / "fuzz" / "corpus"))
#: Name of the target and of its function, its module, the name of its seeds.
TARGETS = {
    "requests": ("tests.fuzz.wire", "REQUESTS"),
    "answers": ("tests.fuzz.wire", "ANSWERS"),
    "bodies": ("tests.fuzz.texts", "BODIES"),
    "forms": ("tests.fuzz.texts", "FORMS"),
    "pictures": ("tests.fuzz.texts", "PICTURES"),
    "streams": ("tests.fuzz.texts", "STREAMS"),
    "backends": ("tests.fuzz.texts", "BACKENDS"),
    "headers": ("tests.fuzz.texts", "HEADERS"),
    "configurations": ("tests.fuzz.texts", "CONFIGURATIONS"),
    "substitutions": ("tests.fuzz.texts", "SUBSTITUTIONS"),
    "litellm": ("tests.fuzz.texts", "LITELLM"),
}
_INSTRUMENTED = ["gateway", "backends", "policies"]


def target(name: str) -> Target:
    """The function of a target. Raises KeyError."""
    found: Target = getattr(importlib.import_module(TARGETS[name][0]), name)
    return found


def cases(name: str) -> list[bytes]:
    """Seeds of a target, and what was found with it before."""
    module, seeds = TARGETS[name]
    found = sorted((FOUND / name).glob("*")) if (FOUND / name).exists() else []
    return [*getattr(importlib.import_module(module), seeds), *(path.read_bytes() for path in found)]


def _fuzz(name: str, seconds: int) -> None:
    """Runs one target in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=_INSTRUMENTED):
        one = target(name)
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    (FOUND / name).mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(cases(name)):
        (corpus / f"seed-{number}").write_bytes(seed)
    flags = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048", "-max_len=4096", "-verbosity=0"]
    atheris.Setup([name, *flags, "-print_final_stats=1", f"-artifact_prefix={FOUND / name}/", str(corpus)], one)
    atheris.Fuzz()


def run(name: str, seconds: int) -> tuple[bool, str]:
    """(whether it held, what libFuzzer said) of one target, run for so many seconds."""
    command = [sys.executable, "-m", "tests.fuzz", "--here", name, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=False)
    directory = FOUND / name
    if directory.exists() and not any(directory.iterdir()):
        directory.rmdir()
    return done.returncode == 0, done.stdout + done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []])
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--here", choices=TARGETS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        _fuzz(options.here, options.seconds)
        return
    failed = []
    for name in options.targets or TARGETS:
        held, said = run(name, options.seconds)
        executed = next((line.split()[-1] for line in said.splitlines() if "number_of_executed_units" in line), "?")
        print(f"{name}: {'held' if held else 'BROKEN'}, {executed} inputs", flush=True)
        if not held:
            failed.append(name)
            said = said[said.find(" === Uncaught Python exception") :]
            print("\n".join(line for line in said.splitlines() if "INFO:" not in line)[-3000:], flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
