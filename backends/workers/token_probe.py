"""Asks a text server for one token: what a hung engine cannot give, and a busy one gives in the end."""

from __future__ import annotations

from dataclasses import dataclass, field

import aiohttp

from backends.held_up import patient_timeout
from backends.signals import LoadSignals, parse_signals
from backends.workers.supervisor_probes import ProbeFailedError

_SCRAPE_TIMEOUT = 5.0
_MAX_BODY = 4 << 20
#: Answers of a server that works and will not: it has no such endpoint, is full, is loading.
_ALIVE = frozenset({501, 503})


@dataclass(frozen=True, slots=True)
class TokenProbe:
    """A liveness probe of a server that speaks OpenAI's API at `url`; `timeout` is in seconds.

    A token that does not come in time shows a hang only if no other request's tokens came meanwhile either: a long
    queue is no hang. A sleeping engine is not asked.
    """

    url: str
    timeout: float = 60.0
    api_key: str | None = field(default=None, repr=False)

    async def __call__(self) -> None:
        """Raises ProbeFailedError when no token came, or the server said that it cannot make one."""
        headers = {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            before = await self._signals(session)
            if before is not None and before.asleep:
                return
            try:
                async with patient_timeout(self.timeout):
                    status = await self._ask(session)
            except TimeoutError:
                self._judge_silence(before, await self._signals(session))
                return
            except aiohttp.ClientError as error:
                raise ProbeFailedError(f"asked for one token, the connection broke: {type(error).__name__}") from None
        if status >= 500 and status not in _ALIVE:
            raise ProbeFailedError(f"asked for one token, it answered {status}")

    def _judge_silence(self, before: LoadSignals | None, after: LoadSignals | None) -> None:
        made = _made(before, after)
        if made:
            return
        running = "" if after is None or after.running is None else f", {after.running:g} requests running"
        others = "" if made is None else ", and none of any other request"
        raise ProbeFailedError(f"no token within {self.timeout:g} s{others}{running}")

    async def _ask(self, session: aiohttp.ClientSession) -> int:
        async with session.get(f"{self.url}/v1/models") as answer:
            if answer.status != 200:
                return answer.status
            models = (await answer.json(content_type=None)).get("data") or [{}]
        body = {"model": models[0].get("id"), "prompt": "Hi", "max_tokens": 1, "temperature": 0}
        async with session.post(f"{self.url}/v1/completions", json=body) as answer:
            await answer.read()
            return answer.status

    async def _signals(self, session: aiohttp.ClientSession) -> LoadSignals | None:
        """Its gauges; None where it has none or does not answer."""
        try:
            async with patient_timeout(_SCRAPE_TIMEOUT), session.get(f"{self.url}/metrics") as answer:
                text = bytearray()
                async for chunk in answer.content.iter_any():
                    text += chunk[: _MAX_BODY - len(text)]
                return parse_signals(bytes(text)) if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError):
            return None


def _made(before: LoadSignals | None, after: LoadSignals | None) -> float | None:
    """Tokens generated between two looks; None where the server does not say."""
    if before is None or after is None or before.generation_tokens is None or after.generation_tokens is None:
        return None
    return after.generation_tokens - before.generation_tokens
