"""Where alerts go: apprise targets, each with a thread of its own, so that none waits for another and nobody for them.

An apprise URL holds tokens. It is named by its number and its kind (the part before `://`) and shown nowhere.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from pydantic import SecretStr

#: Messages that wait for one target, at most; the oldest is dropped for a newer one.
MAX_WAITING = 16
#: Seconds before each repeat of a message that failed.
REPEATS = (2.0, 10.0)
CLOSE_TIMEOUT = 3.0
RESULTS = ("sent", "failed", "dropped")


def installed() -> bool:
    """Whether messages can be sent at all. Costs no import."""
    return importlib.util.find_spec("apprise") is not None


class Target:
    """One apprise URL."""

    def __init__(self, number: int, url: SecretStr) -> None:
        """`number` counts from 1. Nothing is imported yet."""
        self.name = f"{number} ({url.get_secret_value().partition('://')[0][:20]})"
        self._url = url
        self._apprise: Any = None

    def send(self, title: str, body: str, *, failure: bool) -> str | None:
        """Sends and waits for the answer. Gives None, or why it failed. Raises ImportError without apprise."""
        import apprise

        if self._apprise is None:
            logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its lines may name addresses
            found = apprise.Apprise()
            if not found.add(self._url.get_secret_value()):
                return "not a URL that apprise knows"
            self._apprise = found
        kind = apprise.NotifyType.FAILURE if failure else apprise.NotifyType.SUCCESS
        try:
            sent = self._apprise.notify(body=body, title=title, notify_type=kind, body_format=apprise.NotifyFormat.TEXT)
        except Exception as error:  # a plugin's own fault; what it says might hold the URL
            return type(error).__name__
        return None if sent else "not accepted"


class Outbox:
    """Sends messages to all targets in the background."""

    def __init__(
        self, targets: Sequence[SecretStr], log: Any, counts: dict[str, int], repeats: Sequence[float] | None = None
    ) -> None:
        """`counts` are counted up: messages by result, for each target."""
        self._counts = counts
        self._lock = threading.Lock()
        self._log = log
        self._repeats = tuple(REPEATS if repeats is None else repeats)
        self._closing = threading.Event()
        self._wake = threading.Condition()
        self._waiting: list[deque[tuple[str, str, bool]]] = []
        self._threads: list[threading.Thread] = []
        for number, url in enumerate(targets, 1):
            waiting: deque[tuple[str, str, bool]] = deque()
            self._waiting.append(waiting)
            thread = threading.Thread(
                target=self._run, args=(Target(number, url), waiting), name=f"seawall-alerts-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def send(self, title: str, body: str, *, failure: bool) -> None:
        """Hands a message over; never waits."""
        with self._wake:
            for waiting in self._waiting:
                if len(waiting) >= MAX_WAITING:
                    waiting.popleft()
                    self._count("dropped")
                waiting.append((title, body, failure))
            self._wake.notify_all()

    def abandon(self) -> None:
        """Has the threads end when they have sent what waits; does not wait for them."""
        self._closing.set()
        with self._wake:
            self._wake.notify_all()

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Sends what waits, for at most so many seconds in all. Blocks."""
        self.abandon()
        until = monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - monotonic()))

    def _run(self, target: Target, waiting: deque[tuple[str, str, bool]]) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: waiting or self._closing.is_set())
                if not waiting:
                    return
                title, body, failure = waiting.popleft()
            self._deliver(target, title, body, failure)

    def _deliver(self, target: Target, title: str, body: str, failure: bool) -> None:
        reason: str | None = None
        for pause in (0.0, *self._repeats):
            if pause and self._closing.wait(pause):
                break
            try:
                reason = target.send(title, body, failure=failure)
            except ImportError:
                reason = "apprise is not installed: pip install 'seawall[alerts]'"
                break
            if reason is None:
                self._count("sent")
                return
        self._count("failed")
        self._log.error("alert_failed", target=target.name, reason=reason)

    def _count(self, result: str) -> None:
        with self._lock:
            self._counts[result] += 1


def delivery_report(targets: Sequence[SecretStr], title: str, body: str) -> Mapping[str, str | None]:
    """Sends one message to each target at once, without repeats: None for sent, or why not. Raises ImportError."""
    import apprise  # noqa: F401 (says at once that it is missing)

    found: dict[str, str | None] = {}

    def one(target: Target) -> None:
        found[target.name] = target.send(title, body, failure=False)

    each = [Target(number, url) for number, url in enumerate(targets, 1)]
    threads = [threading.Thread(target=one, args=(target,)) for target in each]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {target.name: found.get(target.name, "failed") for target in each}
