"""The parts of a stream that the fault backend sends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.faults import ENGINE_DEAD, error_body

DONE = b"data: [DONE]\n\n"
#: What a stream of chat or completion chunks ends with when its engine dies.
CHUNKS_DEATH = (
    b"data: "
    + error_body(ENGINE_DEAD, "InternalServerError", 500).replace(b'":', b'": ').replace(b",", b", ")
    + b"\n\n"
    + DONE
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One server-sent event with the number of tokens in it."""

    data: bytes
    tokens: int = 0
    finish: bool = False


@dataclass(frozen=True, slots=True)
class StreamReply:
    """A stream of frames, its end included. `death`: its last ones when the engine dies; None: the connection ends."""

    frames: Iterator[Frame]
    death: bytes | None = CHUNKS_DEATH
