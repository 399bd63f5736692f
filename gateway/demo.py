"""`seawall demo`: small real models on this machine's CPU, supervised, and the gateway in front of them."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from pathlib import Path

from backends.workers.supervisor import Supervisor, WorkerFailedError, WorkerSnapshot, WorkerSpec, WorkerState
from gateway.program import command

_HOST = "127.0.0.1"
#: Each answer's pace, so that a person can watch a stream and break it.
_TOKENS_PER_SECOND = "40"
_TEXT_WORKERS = (("tide-a", "tide", 9001), ("tide-b", "tide", 9002), ("tide-mini", "tide-mini", 9003))
_IMAGE_PORT = 9004


def specs() -> list[WorkerSpec]:
    """The embedded workers, as the shipped gateway.yaml knows them."""
    workers = [
        _spec(name, port, ["embedded", "text", "--model", model, "--tokens-per-second", _TOKENS_PER_SECOND])
        for name, model, port in _TEXT_WORKERS
    ]
    return [*workers, _spec("shoal", _IMAGE_PORT, ["diffusers"])]


def _spec(name: str, usual_port: int, arguments: list[str]) -> WorkerSpec:
    module, *options = arguments
    # The variables that the shipped gateway.yaml reads.
    port = int(os.environ.get(f"SEAWALL_{name.upper().replace('-', '_')}_PORT", usual_port))
    argv = [sys.executable, "-m", f"backends.workers.{module}", *options, "--host", _HOST, "--port", str(port)]
    env = {"PYTHONUNBUFFERED": "1"}
    return WorkerSpec(name=name, argv=argv, env=env, health_url=f"http://{_HOST}:{port}/health", ready_timeout=180.0)


def run(port: int | None, config: Path | None = None) -> int:
    """Runs workers and gateway until SIGTERM or SIGINT. Returns the exit code."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "diffusers", "tokenizers")):
        print("The embedded models need torch. Install them with: pip install 'seawall[embedded,diffusers]'")
        return 1
    try:
        return asyncio.run(_run(port, config or shipped_config()))
    except KeyboardInterrupt:
        return 0


def shipped_config() -> Path:
    """The gateway.yaml in the working directory if it is for these workers, else the package's own."""
    here = Path("gateway.yaml")
    backends = [name for name, _, _ in _TEXT_WORKERS]
    if here.is_file() and all(f"{name}:" in here.read_text("utf-8", "replace") for name in backends):
        return here
    return Path(__file__).with_name("demo.yaml")


async def _run(port: int | None, config: Path) -> int:
    from gateway.app import serve

    print("Starting three text workers and one image worker on the CPU (some 10 seconds) ...", flush=True)
    async with Supervisor(specs(), on_line=_print_line, on_change=_print_change) as supervisor:
        settled = (WorkerState.READY, WorkerState.FAILED)
        workers = await supervisor.wait_until(lambda all_: all(one.state in settled for one in all_))
        failed = [worker for worker in workers if worker.state is WorkerState.FAILED]
        for worker in failed:  # the others serve on: that is what the gateway is for
            print(WorkerFailedError(worker), file=sys.stderr)
        if len(failed) == len(workers):
            return 1
        return await serve(
            config,
            port,
            on_ready=lambda url: print(_welcome(url, supervisor), flush=True),
            workers=supervisor.snapshot,
        )


def _print_line(name: str, line: str) -> None:
    if os.environ.get("SEAWALL_WORKER_LOGS"):
        print(f"{name} | {line}", flush=True)


_last_state: dict[str, str] = {}


def _print_change(snapshot: WorkerSnapshot) -> None:
    state = str(snapshot.state)
    if _last_state.get(snapshot.name) != state:
        _last_state[snapshot.name] = state
        reason = f" ({snapshot.last_error.splitlines()[0]})" if snapshot.last_error and state == "backoff" else ""
        print(f"{snapshot.name:<10} {state}{reason}", flush=True)


def _welcome(url: str, supervisor: Supervisor) -> str:
    pids = {snapshot.name: snapshot.pid for snapshot in supervisor.snapshot()}
    return f"""
Seawall is ready on {url}

Ask it (streams; add "stream": true):
  curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "tide", "messages": [{{"role": "user", "content": "Tell me a story about a whale."}}]}}'

Draw something:
  curl -s {url}/generate_image -H 'Content-Type: application/json' \\
    -d '{{"prompt": "a red circle on a blue background"}}' | python3 -c \\
    'import base64,json,sys; open("image.png","wb").write(base64.b64decode(json.load(sys.stdin)["image"]))'

Break a worker and ask again; it comes back by itself:
  kill -9 {pids.get("tide-a")}
Kill both that serve tide, and tide-mini answers for them:
  kill -9 {pids.get("tide-a")} {pids.get("tide-b")}

Watch:  {url}/admin in a browser, or: {command()} top {url}
Stop:   Ctrl-C
"""
