"""Why a model server did not come up, read out of its last lines, and what an operator can do about it.

The table is in the order in which its causes are looked for, because one failure speaks in many lines: a missing file
ends in "engine initialization failed", and a process that cannot get memory in a dozen tracebacks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """What kept a model from being loaded."""

    USAGE = "usage"
    PROGRAM = "program_missing"
    PORT = "port_in_use"
    ACCESS = "access_denied"
    FILES = "missing_files"
    WEIGHTS = "bad_weights"
    UNSUPPORTED = "unsupported_model"
    MEMORY = "out_of_memory"
    DEVICE = "device"
    TIMEOUT = "too_slow"
    UNKNOWN = "unknown"


ADVICE: dict[Cause, str] = {
    Cause.USAGE: "Mend the command line: the line says which argument is not accepted.",
    Cause.PROGRAM: "Install what the line says is missing, or give the program's path.",
    Cause.PORT: "Stop the other process, or give another --port.",
    Cause.ACCESS: "Give the account that runs this the right to read the model; for a gated model log in to its hub.",
    Cause.FILES: "Check the model's name or directory: it needs config.json, the tokenizer's files and all weights.",
    Cause.WEIGHTS: "Copy or download the model anew: its files are damaged or are not those of this configuration.",
    Cause.UNSUPPORTED: "This server does not know this kind of model: use a newer version of it or another model.",
    Cause.MEMORY: "Free memory on the device, or ask for less: a smaller or quantised model, a shorter context "
    "(--max-model-len), a smaller --gpu-memory-utilization, or more devices.",
    Cause.DEVICE: "Check the driver (nvidia-smi) and which devices this process sees (--gpu, CUDA_VISIBLE_DEVICES); "
    "the installed build must be made for this driver and this device.",
    Cause.TIMEOUT: "Give it longer (--ready-timeout), or find out what it waits for in its log.",
    Cause.UNKNOWN: "Read the lines above it in the log.",
}

#: Causes that no further start mends until somebody has done something, if it wasn't just being done.
LASTING = frozenset({Cause.FILES, Cause.WEIGHTS, Cause.UNSUPPORTED, Cause.ACCESS})
#: What only another command line mends.
FINAL = frozenset({Cause.USAGE, Cause.PROGRAM})


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """A cause and the line that shows it, which may be empty."""

    cause: Cause
    line: str

    @property
    def advice(self) -> str:
        """What to do about it."""
        return ADVICE[self.cause]

    @property
    def lasting(self) -> bool:
        """Whether starting again is of no use by itself."""
        return self.cause in LASTING

    @property
    def final(self) -> bool:
        """Whether the same command can never come to anything."""
        return self.cause in FINAL


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_SIGNS: tuple[tuple[Cause, re.Pattern[str]], ...] = (
    (Cause.PROGRAM, _any(r"worker needs more packages: ")),
    (Cause.PORT, _any(r"address already in use", r"is already in use by another process", r"EADDRINUSE")),
    (
        Cause.ACCESS,
        _any(
            r"GatedRepoError", r"\b(?:401|403) Client Error", r"access to model .* is restricted", r"PermissionError",
            r"Permission denied",
        ),
    ),
    (
        Cause.MEMORY,
        _any(
            r"\bout of memory\b", r"OutOfMemoryError", r"No available memory for the cache blocks",
            r"less than desired GPU memory utilization", r"larger than the (?:maximum number of tokens|available KV)",
            r"GiB KV cache is needed", r"can't allocate memory", r"not enough memory", r"Cannot allocate memory",
            r"\bMemoryError\b", r"CUBLAS_STATUS_ALLOC_FAILED", r"bad_alloc",
            r"is less than (?:requested|desired) memory",
        ),
    ),
    (
        Cause.DEVICE,
        _any(
            r"driver on your system is too old", r"Found no NVIDIA driver", r"CUDA driver version is insufficient",
            r"no kernel image is available", r"No CUDA GPUs are available", r"Torch not compiled with CUDA",
            r"CUDA error", r"HIP error", r"Failed to infer device type", r"NVMLError", r"NVML Shared Library Not Found",
            r"\.so[.\d]*: cannot open shared object",
            r"forward compatibility was attempted", r"is not compatible with the current PyTorch installation",
            r"invalid device ordinal", r"Bfloat16 is only supported on GPUs", r"Invalid device (?:id|string)",
            r"operator torchvision::nms does not exist", r"undefined symbol",
        ),
    ),
    (
        Cause.WEIGHTS,
        _any(
            r"SafetensorError", r"HeaderTooLarge", r"InvalidHeader", r"incomplete metadata", r"size mismatch for",
            r"loading state_dict", r"do(?:es)? not fit its config", r"invalid load key", r"PytorchStreamReader failed",
            r"UnpicklingError", r"weights were not initialized from checkpoint", r"Attempted to load weight",
            r"exceeds dimension size", r"ignore_mismatched_sizes", r"There is no module or parameter named",
            r"not a valid JSON file", r"JSONDecodeError",
            r"shape .{0,80} (?:is invalid for input|does not match|mismatch)", r"loaded weight .{0,80} shape",
        ),
    ),
    (
        Cause.UNSUPPORTED,
        _any(
            r"Model architectures? .{0,200} (?:is|are) not supported", r"does not recognize this architecture",
            r"Unrecognized model in", r"Unknown quantization method",
            r"\w+ is not supported: ", r"head_?(?:dim|size).{0,60}not supported",
        ),
    ),
    (
        Cause.FILES,
        _any(
            r"does not appear to have (?:a file|files) named", r"Can't load (?:the )?(?:configuration|tokenizer)",
            r"is not a local folder and is not a valid model identifier", r"Repo id must (?:be|use)",
            r"Invalid repository ID or local directory", r"Cannot find any model weights", r"no file named",
            r"Couldn't instantiate the backend tokenizer",
            r"LocalEntryNotFoundError", r"OfflineModeIsEnabled", r"RepositoryNotFoundError", r"FileNotFoundError",
            r"No such file or directory", r"couldn't find .{0,80} in the cached files", r"is not a diffusers pipeline",
            r"there is no embedded text model", r"does not exist\. Expected",
        ),
    ),
    (
        Cause.USAGE,
        _any(
            r"error: (?:unrecognized arguments|argument |the following arguments)", r"User-specified max_model_len",
            r"validation errors? for \w+Config",
            r"Sleep mode is not supported",
        ),
    ),
)  # fmt: skip
#: vLLM's "(EngineCore pid=12) ERROR 01-01 00:00:00 [core.py:866] " and the like.
_PREFIX = re.compile(r"^(?:\([\w ]+pid=\d+\)\s*)?(?:(?P<level>[A-Z]+) [\d-]+ [\d:.,]+ \[[^\]]{0,80}\]\s*)?")
_HARMLESS = frozenset({"DEBUG", "INFO", "WARNING"})
_TELLING = _any(r"error|exception|fatal|killed|cannot|no such")
#: What programs say after the real reason, and what they say of themselves while they end.
_ECHO = _any(
    r"(?:see|for) (?:root cause|stack trace)", r"initialization failed", r"^Traceback", r"^\s*raise ", r"^\s*File ",
    r"^For further information",
)  # fmt: skip
_NOISE = re.compile(r"^(?:nanobind: | - (?:leaked|\.\.\. skipped)|\s*\^+$|See https://nanobind)")
_STATUS_USAGE, _STATUS_NO_PROGRAM, _SIGKILL = 2, 127, -9


class Signs:
    """Reads a server's output line by line while it loads: the reason stands hundreds of lines before the end."""

    def __init__(self) -> None:
        self._found: dict[Cause, str] = {}
        self._telling = ""
        self._last = ""

    def read(self, line: str) -> None:
        """Takes the next line."""
        prefix = _PREFIX.match(line)
        text = without_prefix(line)
        if not text or (prefix is not None and prefix["level"] in _HARMLESS):
            return
        text = text.strip()
        self._last = text
        if _TELLING.search(text) and not _ECHO.search(text):
            self._telling = text
        for cause, pattern in _SIGNS:
            if pattern.search(text):
                self._found[cause] = text
                return

    def failure(self, exit_code: int | None = None) -> LoadFailure:
        """Why the start came to nothing; `exit_code` None: the server did not end by itself."""
        if exit_code == _STATUS_NO_PROGRAM:
            return LoadFailure(Cause.PROGRAM, self._telling or self._last)
        for cause, _ in _SIGNS:
            if cause in self._found:
                return LoadFailure(cause, self._found[cause])
        if exit_code == _SIGKILL:  # while it loads, almost always the kernel's or the container's memory limit
            return LoadFailure(Cause.MEMORY, "killed by SIGKILL while it loaded")
        cause = Cause.USAGE if exit_code == _STATUS_USAGE else Cause.UNKNOWN
        return LoadFailure(cause, self._telling or self._last)


def load_failure(lines: Iterable[str], exit_code: int | None = None) -> LoadFailure:
    """The cause of a failed start, from all lines of a server's output."""
    signs = Signs()
    for line in lines:
        signs.read(line)
    return signs.failure(exit_code)


def is_noise(line: str) -> bool:
    """Whether a line says nothing to anyone: what native libraries report of themselves while a process ends."""
    return _NOISE.match(without_prefix(line)) is not None


def without_prefix(line: str) -> str:
    """The line without the process, level, time and place in front of it."""
    return _PREFIX.sub("", line).rstrip()


def telling_line(lines: Iterable[str]) -> str:
    """The line that most likely says why a process ended: the last that speaks of an error, else the last."""
    every = list(lines)
    errors = (line for line in reversed(every) if _TELLING.search(line) and not _ECHO.search(line))
    return next(errors, every[-1] if every else "")


_PERCENT = re.compile(r"(?<![\d.])(\d{1,3})(?:\.\d+)?\s?%")


def percent_done(line: str) -> float | None:
    """Progress that a line of output tells, 0 to 1: `Loading safetensors checkpoint shards:  50% Completed`."""
    found = _PERCENT.search(line)
    return min(1.0, int(found[1]) / 100) if found else None
