"""Alerts without an alert manager: looks for conditions, lets the policy decide, words messages and hands them over."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from gateway.errors.render import iso_timestamp
from gateway.observe.alert_targets import RESULTS, Outbox, installed
from gateway.observe.conditions import HOLD, PAGES, Conditions
from policies.alerts import Alert, AlertPolicy, AlertSettings, Message

if TYPE_CHECKING:
    from gateway.runtime import Runtime

#: Seconds between looks.
INTERVAL = 5.0
SETTINGS = AlertSettings(hold=HOLD, calm=60.0, group=15.0, repeat=4 * 3600.0, per_hour=12.0, burst=6)
#: Alerts written out in one message, at most.
MAX_LINES = 20


class Alerts:
    """The alerts of one process, to these targets."""

    def __init__(
        self,
        targets: Sequence[SecretStr],
        conditions: Conditions,
        runtime: Callable[[], Runtime],
        log: Any,
        clock: Callable[[], float],
        settings: AlertSettings | None = None,
    ) -> None:
        self.counts = dict.fromkeys(RESULTS, 0)
        self._targets = tuple(targets)
        self._conditions = conditions
        self._runtime = runtime
        self._clock = clock
        self._log = log
        self._policy = AlertPolicy(settings or SETTINGS)
        self._outbox = Outbox(targets, log, self.counts)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to look, in the running loop; without targets there is nothing to do."""
        if self._targets and self._task is None:
            if not installed():
                self._log.error("alerts_off", reason="apprise is not installed", cure="pip install 'seawall[alerts]'")
            self._task = asyncio.get_running_loop().create_task(self._run())

    def retarget(self, targets: Sequence[SecretStr]) -> None:
        """Takes over a reloaded configuration's targets; what was told stays told."""
        if tuple(targets) == self._targets:
            return
        self._outbox.abandon()
        self._targets = tuple(targets)
        self._outbox = Outbox(targets, self._log, self.counts)
        if not targets and self._task is not None:
            self._task.cancel()
            self._task = None
        self.start()

    async def stop(self) -> None:
        """Stops looking and sends what waits, for a few seconds at most."""
        if self._task is not None:
            self._task.cancel()
        await asyncio.to_thread(self._outbox.close)

    def look(self) -> None:
        """One look, and the message that is due, if any."""
        now, wall = monotonic(), self._clock()
        message = self._policy.update(self._conditions.look(self._runtime(), now, wall), now)
        if message is not None:
            title, body = words(message, wall - now, socket.gethostname())
            fired = [f"{each.condition.kind}:{each.condition.subject}" for each in message.fired]
            ended = [f"{each.condition.kind}:{each.condition.subject}" for each in message.ended]
            self._log.warning("alert", fired=fired, ended=ended)
            self._outbox.send(title, body, failure=bool(message.fired or message.continuing))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                self.look()
            except Exception:  # an alert that cannot be made must not end all of them
                self._log.exception("internal_error", part="alerts")


def words(message: Message, offset: float, host: str) -> tuple[str, str]:
    """(title, body) of a message. `offset` turns its times into seconds since the epoch."""
    parts = []
    if message.fired:
        parts.append(_counted(len(message.fired), "alert"))
    if message.ended:
        parts.append(f"{len(message.ended)} over")
    if message.continuing:
        parts.append(f"{len(message.continuing)} going on")
    lines: list[str] = []
    for heading, alerts in (("", message.fired), ("Over:", message.ended), ("Going on:", message.continuing)):
        if alerts and heading:
            lines.append(heading)
        lines += [_line(each, offset) for each in alerts[:MAX_LINES]]
        if len(alerts) > MAX_LINES:
            lines.append(f"... and {len(alerts) - MAX_LINES} more")
    return f"Seawall on {host}: {', '.join(parts)}", "\n".join(lines)


def _line(alert: Alert, offset: float) -> str:
    kind = alert.condition.kind
    severity = "page" if kind in PAGES else "ticket"
    since = iso_timestamp(alert.since + offset)
    return f"[{severity}] {alert.text} (since {since}; docs/runbooks.md#{kind.lower()})"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
