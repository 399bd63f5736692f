"""vLLM 0.32's sleep mode on the wire: `/sleep`, `/wake_up`, `/is_sleeping` and the gauge that tells of it.

From the sources of vLLM 0.32 (`entrypoints/serve/dev/sleep/api_router.py`, `v1/metrics/loggers.py`); the answers were
compared with a real server's by `tests/e2e/test_vllm_sleep.py`. A sleeping engine accepts requests and holds them.
"""

from __future__ import annotations

import asyncio
import json
from urllib.parse import parse_qs, urlsplit

from tests.support.vllm_answers import Reply
from tests.support.wire import RawRequest


class SleepMode:
    """One engine's state; `level` is None while it is awake."""

    def __init__(self) -> None:
        self.level: int | None = None
        self._awake = asyncio.Event()
        self._awake.set()

    async def until_awake(self) -> None:
        """Returns once the engine works."""
        await self._awake.wait()

    def answer(self, request: RawRequest) -> Reply | None:
        """The answer of one of its endpoints; None for any other path."""
        query = parse_qs(urlsplit(request.target).query)
        match request.method, request.path:
            case "POST", "/sleep":
                self.level = int(query.get("level", ["1"])[0])
                self._awake.clear()
                return _json({"status": "sleeping", "level": self.level})
            case "POST", "/wake_up":
                self.level = None
                self._awake.set()
                return _json({"status": "awake", "tags": query.get("tags")})
            case "GET", "/is_sleeping":
                return _json({"is_sleeping": self.level is not None})
        return None

    def exposition(self, model: str) -> list[str]:
        """The gauge's lines."""
        states = {"awake": self.level is None, "weights_offloaded": self.level == 1, "discard_all": self.level == 2}
        name = "vllm:engine_sleep_state"
        lines = [f"# HELP {name} Engine sleep state; awake = 0 means engine is sleeping.", f"# TYPE {name} gauge"]
        labels = f'engine="0",model_name="{model}"'
        return lines + [f'{name}{{{labels},sleep_state="{state}"}} {float(on)}' for state, on in states.items()]


def _json(value: object) -> Reply:
    return Reply(json.dumps(value, separators=(",", ":")).encode())
