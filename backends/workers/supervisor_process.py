"""One server process: started in a group of its own, its output read by lines, ended with all its children."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

_LAUNCHER = Path(__file__).with_name("supervisor_launch.py")
_LINE_LIMIT = 2000  # characters; the rest of a longer line is dropped
_CHUNK = 1 << 16
_KILL_WAIT = 10.0  # seconds for a killed process to end
_OUTPUT_WAIT = 2.0  # seconds to read what a dead process has left in its pipe


class LineSplitter:
    """Lines out of output chunks: ends at LF, CR (progress bars) or CRLF; bounded whatever comes."""

    def __init__(self, limit: int = _LINE_LIMIT) -> None:
        self._limit = limit
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines completed by `data`, without empty ones."""
        *whole, rest = re.split(rb"[\r\n]", self._rest + data)
        self._rest = rest[: self._limit * 4]  # a character has at most four bytes
        return [text for line in whole if (text := self._text(line))]

    def end(self) -> list[str]:
        """The last line, if it was never ended."""
        last, self._rest = self._text(self._rest), b""
        return [last] if last else []

    def _text(self, line: bytes) -> str:
        return line.decode("utf-8", "replace").rstrip()[: self._limit]


def describe_exit(returncode: int) -> str:
    """What an exit status means, for operators."""
    if returncode >= 0:
        return f"exited with status {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    hint = " (the kernel's out-of-memory killer, or someone's kill -9)" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"


class ServerProcess:
    """A running server. Make one with `start`; `stop` must be awaited in the end, however the process ended."""

    def __init__(self, popen: subprocess.Popen[bytes], lifeline: int, on_line: Callable[[str], None]) -> None:
        self._popen = popen
        self._lifeline = lifeline
        self._on_line = on_line
        self._exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._output = asyncio.create_task(self._read_output())
        # A thread, not asyncio's subprocess: its wait() may last until the pipe closes, which a server's children
        # that outlive it hold open.
        threading.Thread(target=self._reap, args=(asyncio.get_running_loop(),), daemon=True).start()

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        on_line: Callable[[str], None],
    ) -> ServerProcess:
        """Starts `argv` with `env` added to the environment. Each line of output goes to `on_line`.

        A program that cannot be run ends with status 127 and says why. Raises OSError when no process can be made.
        """
        pipe, lifeline = os.pipe()
        try:
            popen = subprocess.Popen(  # noqa: S603  # the operator's own command line
                [sys.executable, "-I", "-S", str(_LAUNCHER), str(pipe), *argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                start_new_session=True,
                pass_fds=(pipe,),
            )
        except OSError:
            os.close(lifeline)
            raise
        finally:
            os.close(pipe)
        return cls(popen, lifeline, on_line)

    @property
    def pid(self) -> int:
        """Process id of the server, which is also its group's id."""
        return self._popen.pid

    async def wait(self) -> int:
        """Exit status, negative for a signal, as soon as the server itself has ended."""
        return await asyncio.shield(self._exited)

    async def stop(self, grace: float) -> int | None:
        """SIGTERM to the server, `grace` seconds to end, SIGKILL to all that is left of its group; its exit status.

        Cancelled, it kills at once. None when it does not end even then.
        """
        try:
            if not self._exited.done():
                self._send(os.kill, signal.SIGTERM)
                await asyncio.wait([self._exited], timeout=grace)
        finally:
            self._send(os.killpg, signal.SIGKILL)
            await asyncio.wait([self._exited], timeout=_KILL_WAIT)
            await asyncio.wait([self._output], timeout=_OUTPUT_WAIT)
            self._output.cancel()
            await asyncio.gather(self._output, return_exceptions=True)
        return self._exited.result() if self._exited.done() else None

    def _send(self, kill: Callable[[int, int], None], number: int) -> None:
        # The watcher is in the group, so the id cannot have been given to others while the lifeline is held.
        if self._lifeline >= 0:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(self.pid, number)
            if kill is os.killpg:
                os.close(self._lifeline)
                self._lifeline = -1

    def _reap(self, loop: asyncio.AbstractEventLoop) -> None:
        returncode = self._popen.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._exited.set_result, returncode)

    async def _read_output(self) -> None:
        assert self._popen.stdout is not None
        reader, splitter = asyncio.StreamReader(), LineSplitter()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), self._popen.stdout)
        try:
            while data := await reader.read(_CHUNK):
                self._emit(splitter.feed(data))
            self._emit(splitter.end())
        finally:
            transport.close()

    def _emit(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._on_line(line)
