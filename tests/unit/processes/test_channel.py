"""The channel between the parent and a worker."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from gateway.processes.channel import Channel, PeerError
from tests.support.waiting import eventually


async def linked(handler: Any) -> tuple[Channel, Channel]:
    ours, theirs = socket.socketpair()

    async def nothing(operation: str, arguments: dict[str, Any]) -> None:
        return None

    return await Channel.over(ours, nothing), await Channel.over(theirs, handler)


async def test_answers_find_their_questions_in_any_order_and_size() -> None:
    async def handler(operation: str, arguments: dict[str, Any]) -> Any:
        await asyncio.sleep(arguments["after"])
        return {"operation": operation, "text": "x" * arguments["size"]}

    asking, answering = await linked(handler)
    sizes = [(0.02, 3_000_000), (0.0, 1), (0.01, 0)]
    answers = await asyncio.gather(*(asking.ask(f"o{n}", {"after": a, "size": s}) for n, (a, s) in enumerate(sizes)))
    assert [(one["operation"], len(one["text"])) for one in answers] == [("o0", 3_000_000), ("o1", 1), ("o2", 0)]
    asking.close()
    await eventually(answering.closed.is_set)


async def test_failures_come_as_errors() -> None:
    async def handler(operation: str, arguments: dict[str, Any]) -> Any:
        if operation == "slow":
            await asyncio.sleep(10)
        raise ValueError("no such thing")

    asking, answering = await linked(handler)
    with pytest.raises(PeerError, match="no such thing"):
        await asking.ask("broken")
    with pytest.raises(PeerError, match="no answer to 'slow'"):
        await asking.ask("slow", timeout=0.01)
    waiting = asyncio.create_task(asking.ask("slow"))
    await asyncio.sleep(0)
    answering.close()
    with pytest.raises(PeerError, match="gone"):
        await waiting
    with pytest.raises(PeerError, match="gone"):
        await asking.ask("broken")
    asking.tell("nobody hears it")
