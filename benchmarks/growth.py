"""How Seawall's cost grows with what it has to handle: one quantity varied at a time, everything else as it was."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import runner
from benchmarks.subjects import BY_NAME, seawall_command

TITLES = {
    "connections": "CPU µs/request by connections",
    "streams": "CPU µs/frame by streams (20 frames/s each)",
    "routes": "CPU µs/request by routes",
    "backends": "CPU µs/request by backends of the route",
    "keys": "CPU µs/request by API keys",
    "body": "CPU µs/request by KiB of body",
    "frames": "CPU µs/frame by frames per stream, flat out",
}
CURVES: dict[str, tuple[int, ...]] = {
    "connections": (1, 8, 64, 512, 2048),
    "streams": (16, 128, 512, 1024, 2000),
    "routes": (1, 10, 100, 1000),
    "backends": (1, 10, 50, 200),
    "keys": (1, 100, 10000),
    "body": (1, 16, 128, 1024),
    "frames": (10, 100, 1000),
}
_TURNS = 3


def curve(name: str, seconds: float) -> list[tuple[float, float]]:
    """(value, CPU µs per request or frame) along one curve: the least of three turns, as noise only ever adds."""
    best: dict[int, float] = {}
    for turn in range(_TURNS):
        for value in CURVES[name]:
            cost = _POINTS[name](value, seconds)
            best[value] = min(cost, best.get(value, cost))
            print(f"{name} {value}: {cost:.1f} (turn {turn + 1})", flush=True)
    return [(float(value), round(cost, 2)) for value, cost in best.items()]


def _cost(config: dict[str, Any], seconds: float, headers: Sequence[str] = (), **options: Any) -> float:
    """CPU µs per answer, or per frame where the load asks for streams; with these headers of the clients."""
    what = "frames" if options.get("frames") else "answers"
    with runner.mock() as backend, tempfile.TemporaryDirectory() as work:
        port = runner.free_port()
        path = Path(work, "gateway.yaml")
        path.write_text(_yaml(config, port, backend))
        with runner.running(BY_NAME["seawall"], backend, seawall_command(path), port, headers) as gateway:
            gateway.load(0.3)
            found = gateway.load(seconds, **options)
            if not found[what]:
                raise runner.SubjectError(f"nothing came back: {found}")
            cost: float = found["cpu_seconds"] / found[what] * 1e6
            return cost


def _yaml(config: dict[str, Any], port: int, backend: int) -> str:
    import yaml

    url = f"http://127.0.0.1:{backend}"
    names = [f"mock-{number}" for number in range(config.get("backends", 1))]
    # Probes off the clock: what is measured is the request, not the looking after many backends.
    one = {"url": url, "kind": "vllm", "connections": 8192, "health": {"interval": "1h"}}
    routes = [{"model": f"other-{number}", "backends": names[:1]} for number in range(config.get("routes", 1) - 1)]
    document: dict[str, Any] = {
        "server": {"listen": f"127.0.0.1:{port}"},
        "backends": dict.fromkeys(names, one),
        "routes": [*routes, {"model": "bench", "backends": names}],
        "policies": {"default": {"concurrency": {"min": 4096, "max": 8192}, "limits": {"max_input_chars": 4_000_000}}},
    }
    if "keys" in config:
        keys = [_key(number) for number in range(config["keys"])]
        document["auth"] = {"keys": [{"name": f"key-{number}", "key": key} for number, key in enumerate(keys)]}
    dumped: str = yaml.dump(document, Dumper=_NoAliases)
    return dumped


def _key(number: int) -> str:
    return "sk-" + hashlib.sha256(b"%d" % number).hexdigest()[:32]


def _dumper() -> Any:
    import yaml

    class NoAliases(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return NoAliases


_NoAliases = _dumper()

_POINTS: dict[str, Callable[[int, float], float]] = {
    "connections": lambda n, seconds: _cost({}, seconds, connections=n),
    "streams": lambda n, s: _cost({}, s, connections=n, frames=100, interval=50, ramp=2, warmup=2),
    "routes": lambda n, seconds: _cost({"routes": n}, seconds),
    "backends": lambda n, seconds: _cost({"backends": n}, seconds),
    "keys": lambda n, seconds: _cost({"keys": n}, seconds, [f"Authorization: Bearer {_key(n // 2)}"]),
    "body": lambda n, seconds: _cost({}, seconds, body=n * 1024),
    "frames": lambda n, seconds: _cost({}, seconds, frames=n),
}
