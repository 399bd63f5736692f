"""What a gateway's process asks of the others, and the answers of several joined to one."""

from __future__ import annotations

from typing import Any, Protocol

from gateway.processes.channel import Channel, PeerError

#: Seconds that the others have for an answer; one that hangs is left out.
PATIENCE = 2.0


class Peers(Protocol):
    """The other worker processes of this gateway, if there are any."""

    @property
    def number(self) -> int | None:
        """Which worker this is, from 0; None in a process of its own."""

    async def ask(self, operation: str, **arguments: Any) -> list[Any]:
        """The others' answers to an operation of `gateway.processes.answers`."""

    async def reload(self, text: str | None = None) -> list[str] | None:
        """Has every process take over the configuration file; gives the problems. None: each process for itself."""


class Alone:
    """No others."""

    number = None

    async def ask(self, operation: str, **arguments: Any) -> list[Any]:
        return []

    async def reload(self, text: str | None = None) -> list[str] | None:
        return None


class Siblings:
    """The other workers, through the parent."""

    def __init__(self, number: int, channel: Channel) -> None:
        self.number = number
        self._channel = channel

    async def ask(self, operation: str, **arguments: Any) -> list[Any]:
        try:
            answers: list[Any] = await self._channel.ask("others", {"op": operation, "args": arguments}, PATIENCE + 1)
        except PeerError:
            return []
        return answers

    async def reload(self, text: str | None = None) -> list[str] | None:
        """Raises PeerError when the parent does not answer."""
        problems: list[str] = await self._channel.ask("reload", {}, 30.0)
        return problems
