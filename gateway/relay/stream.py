"""Passes the rest of an answer to the client once it has begun: frames whole, with a watch on silence."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from time import monotonic

from backends.dialect import Dialect, Usage
from gateway.attempt import Attempt
from gateway.http.connection import ClientConnection
from gateway.relay.choices import Choices
from gateway.relay.passage import Continued, DivergedError, Passage
from gateway.relay.relay import Relay, StreamTimeouts
from gateway.relay.sse import (
    ABORTED,
    GIVEN_UP,
    FrameScanner,
    FrameTooLargeError,
    StreamShape,
    data_of,
    document_of,
    is_malformed,
    plausible,
    split,
)
from gateway.upstream.connection import Break
from policies.outcome import Blame, Elsewhere, ErrorKind, Failure

KEEPALIVE = b": keepalive\n\n"
#: Last pieces kept, for the usage and the finish reason that stand in them: SGLang sends up to three more after it.
_TAIL = 8
#: Seconds that a finished answer waits for its last frames before it is completed without them; and those for which the
#: answer of an endpoint on trial is watched before that has passed it.
GRACE = 1.0


class StreamRelay(Relay):
    """Writes server-sent events to the client as they come.

    A malformed frame is a break: there may have been text in it. `choices`: how many the answer was asked to have.
    """

    __slots__ = (
        "_choices",
        "_dialect",
        "_last_write",
        "_may_end",
        "_on_trial",
        "_scanner",
        "_shape",
        "_tail",
        "_terminal_seen",
        "passage",
    )

    def __init__(
        self,
        client: ClientConnection,
        attempt: Attempt,
        timeouts: StreamTimeouts,
        loop: asyncio.AbstractEventLoop,
        passage: Passage,
        *,
        choices: int = 1,
    ) -> None:
        super().__init__(client, attempt, timeouts, loop)
        self.passage = passage
        self._choices = Choices(choices) if choices > 1 else None
        self._dialect: Dialect = attempt.endpoint.dialect
        self._shape: StreamShape = attempt.shape
        self._may_end = attempt.shape.closes is not None  # whether what is `plausible` may be the last
        self._scanner = FrameScanner()
        self._tail: deque[bytes] = deque(maxlen=_TAIL)
        self._terminal_seen = False
        self._last_write = self._last_data
        self._on_trial = attempt.endpoint.on_trial(attempt.permit)

    def begin(self) -> None:
        """Writes what the attempt held back and takes the exchange over. The client's head must be out."""
        self.on_data(self._attempt.held)
        if not self.done.done():
            self._watch()
            self._attempt.hand_over(self)

    # -- sink ----------------------------------------------------------------------------------------------------------

    def on_data(self, data: bytes) -> None:
        if self.done.done():
            return
        self._last_data = monotonic()
        frames, may_end = data, self._may_end
        if self._scanner.rest or not plausible(data):
            may_end = True
            frames = self._whole(data)
            if not frames:
                return
        self.chunks += 1
        if frames.find(GIVEN_UP) >= 0 or frames.find(ABORTED) >= 0:
            frames, failure = self._until_error(frames)
            if failure is not None:
                self._pass_on(frames)
                self._break(failure)
                return
        self._pass_on(frames, may_end=may_end)

    def _whole(self, data: bytes) -> bytes:
        """The whole frames that have come with these bytes, all well-formed; none where the stream is broken."""
        try:
            frames = self._scanner.feed(data)
        except FrameTooLargeError:
            self._break(Failure(ErrorKind.GENERATION_FAILED, "a frame of the stream has no end", status=200))
            return b""
        return frames if plausible(frames) else self._sound(frames)

    def _pass_on(self, frames: bytes, *, may_end: bool = True) -> None:
        self._tail.append(frames)
        if self._choices is not None:
            self._choices.note(frames)
        if may_end and not self._terminal_seen and self._shape.ends(frames):
            if self._unexplained():
                self._tail.pop()
                self._pass_on(self._until_terminal(frames))
                evidence = "the stream ended without saying why the answer does"
                self._break(Failure(ErrorKind.GENERATION_FAILED, evidence, status=200))
                return
            self._terminal_seen = True
        passage = self.passage
        try:
            out = frames if passage.untouched else passage.feed(frames)
        except DivergedError as diverged:
            evidence = f"the answer made again elsewhere is another: {diverged}"
            self._attempt.cancel()  # whatever it has come to: its end is not that of the answer which the client has
            self._resolve(
                Failure(ErrorKind.GENERATION_FAILED, evidence, status=200, blame=Blame.NONE, elsewhere=Elsewhere.NO)
            )
            return
        if out:
            self._last_write = self._last_data
            self._client.write(out)
        if passage.complete:
            self._complete()

    def _sound(self, frames: bytes) -> bytes:
        """The frames, all well-formed on a closer look; none when the stream is broken by one that is not."""
        good = []
        for frame in split(frames):
            if not is_malformed(frame):
                good.append(frame)
                continue
            self._pass_on(b"".join(good))
            self._break(Failure(ErrorKind.GENERATION_FAILED, "a frame of the stream is not JSON", status=200))
            return b""
        return b"".join(good)

    def on_end(self) -> None:
        if self.done.done():
            return
        if self._terminal_seen or not self._shape.terminal:
            self._resolve(None)
        else:
            self._break(Failure(ErrorKind.GENERATION_FAILED, "the stream ended before the answer did", status=200))

    def on_broken(self, reason: Break, detail: str) -> None:
        if not self.done.done():
            self._break(Failure(ErrorKind.GENERATION_FAILED, f"{reason.value}: {detail}", status=200))

    # -- the end -------------------------------------------------------------------------------------------------------

    def _until_error(self, frames: bytes) -> tuple[bytes, Failure | None]:
        """Frames before the first that is an error, and that error."""
        good = b""
        for frame in split(frames):
            if (GIVEN_UP in frame or ABORTED in frame) and (failure := self._dialect.classify_frame(data_of(frame))):
                return good, _after_content(failure)
            good += frame
        return frames, None

    def _unexplained(self) -> bool:
        """Whether the server, which always says why an answer ends, has ended the stream without it."""
        if not self._dialect.tells_finish or self._shape.finished_by is None:
            return False
        if self._choices is not None:
            return self._choices.unended
        return not any(said in piece for piece in self._tail for said in self._shape.finished_by)

    def _until_terminal(self, frames: bytes) -> bytes:
        """The frames before the one that ends the stream."""
        good = b""
        for frame in split(frames):
            if self._shape.ends(frame):
                break
            good += frame
        return good

    def _finished(self) -> bool:
        """Whether all text has come, and only bookkeeping may lack."""
        if not self._shape.terminal:
            return False
        if self._choices is not None:
            return self._choices.all_ended
        return any(
            (document := document_of(frame)) is not None and self._shape.finished(document)
            for piece in self._tail
            for frame in split(piece)
        )

    def usage(self) -> Usage | None:
        """Token counts of the whole answer from the last frames, or None where the server sent none."""
        if isinstance(self.passage, Continued):
            return Usage(len(self.passage.delivered.prompt), self.passage.completion_tokens)
        for piece in reversed(self._tail):
            if b'usage"' in piece:
                for frame in reversed(list(split(piece))):
                    if (usage := self._dialect.usage(data_of(frame))) is not None:
                        return usage
        return None

    @property
    def tokens(self) -> int:
        """Tokens that this attempt made, as far as that is known; else its pieces."""
        if isinstance(self.passage, Continued):
            return self.passage.tokens
        usage = self.usage()
        return usage.completion_tokens if usage is not None else self.chunks

    def _break(self, failure: Failure) -> None:
        """The backend will send no more that is of use. Where only the last frames lack, the answer is whole."""
        if self.done.done():
            return
        if self._terminal_seen or self._finished():
            self._complete()
            return
        self._attempt.cancel()
        self._resolve(failure)

    def _complete(self) -> None:
        if not self._terminal_seen or self.passage.complete:
            self._client.write(self.passage.closing())
        self._attempt.cancel()
        self._resolve(None)

    def _resolve(self, failure: Failure | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.done.done():
            self.done.set_result(failure)

    def close(self) -> None:
        """Ends the relay from outside: the client left."""
        self._attempt.cancel()
        self._resolve(Failure(ErrorKind.CLIENT_DISCONNECTED))

    # -- time ----------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        timeouts = self._timeouts
        now = monotonic()
        if now >= timeouts.deadline:
            self._break(timeouts.out_of_time())
            return
        silent = self._silence(now)
        if silent >= GRACE and (self._terminal_seen or self._finished()):
            self._complete()
            return
        if self._on_trial and silent <= GRACE / 2 and now - self._attempt.settled_at >= GRACE:
            self._on_trial = False
            self._attempt.pass_trial(now)
        if silent >= timeouts.idle:
            evidence = f"no data for {timeouts.idle:g} s in the middle of the stream"
            self._break(Failure(ErrorKind.INFERENCE_TIMEOUT, evidence, status=200))
            return
        if now - self._last_write >= timeouts.keepalive and not self._client.write_paused:
            self._client.write(KEEPALIVE)
            self._last_write = now
        grace = self._last_data + GRACE if silent < GRACE else float("inf")
        wake = min(grace, self._last_data + timeouts.idle, self._last_write + timeouts.keepalive, timeouts.deadline)
        self._watch_again(wake, now)


def _after_content(failure: Failure) -> Failure:
    """A request that was being answered was not refused: what might be its fault before is the server's failure now."""
    if failure.elsewhere is not Elsewhere.ONCE:
        return failure
    return replace(failure, kind=ErrorKind.GENERATION_FAILED, details={}, elsewhere=Elsewhere.YES)


class Heartbeat:
    """Comments to the client while nothing else can go out: another endpoint is being asked."""

    def __init__(self, client: ClientConnection, every: float, loop: asyncio.AbstractEventLoop) -> None:
        self._client, self._every, self._loop = client, every, loop
        self._timer = loop.call_later(every, self._beat) if every != float("inf") else None

    def _beat(self) -> None:
        if not self._client.write_paused:
            self._client.write(KEEPALIVE)
        self._timer = self._loop.call_later(self._every, self._beat)

    def stop(self) -> None:
        """Ends it."""
        if self._timer is not None:
            self._timer.cancel()
