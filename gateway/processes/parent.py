"""The parent: starts the workers, starts them again, and passes on what concerns all of them.

It serves no request itself. A worker that dies takes its own requests with it and nothing else: its listening socket is
held here, another worker takes its connections at once, and its numbers stay in the sums.
"""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import IO, Any

from backends.workers.supervisor_policy import RestartPolicy, RestartSettings
from gateway.config import Config, ConfigError
from gateway.config.diff import diff, log_reload
from gateway.config.loader import load_text, read
from gateway.file_stamp import WatchedFile
from gateway.observe.exposition import Snapshot
from gateway.observe.logs import Logs
from gateway.processes import handover
from gateway.processes.acts import Acts
from gateway.processes.channel import PeerError
from gateway.processes.child import Child
from gateway.processes.peers import PATIENCE
from gateway.processes.tally import Gone
from gateway.processes.totals import Totals

#: No limit to the failures in a row: a port without workers is of no use to anyone.
_RESTART = RestartSettings(initial=0.1, factor=2.0, max=30.0, max_failures=10**9, stable_after=30.0)
_WATCH_INTERVAL = 1.0
#: Seconds between questions whether a worker's loop turns, and without an answer after which it is killed.
_PULSE = 2.0
_HUNG = 15.0
#: Seconds that workers have beyond the drain before they are killed.
_MARGIN = 5.0


class Slot:
    """The place of one worker: its listening socket, and who serves there now."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.current: Child | None = None
        self.policy = RestartPolicy(_RESTART, random.random)
        self.replace = asyncio.Event()
        self.replaced = asyncio.Event()
        self.failed = ""  # why the latest start failed
        self.tried = asyncio.Event()


class Parent:
    """Supervises the workers of one gateway. `sockets` are listening, one for each worker."""

    def __init__(
        self,
        path: Path,
        text: str,
        config: Config,
        sockets: list[socket.socket],
        admin: socket.socket | None,
        logs: Logs,
        log_lock: IO[bytes],
    ) -> None:
        self._path = path
        self._text = text
        self._config = config
        self._sockets = sockets
        self._admin = admin
        self._log_lock = log_lock
        self._logs = logs
        self._log = logs.logger
        self._handover = handover.pair()
        self._slots = [Slot(number) for number in range(len(sockets))]
        self._leaving: set[Child] = set()
        self._totals = Totals()
        self._gone = Gone()
        self._acts = Acts()
        self._restarts = 0
        self._revision = 0
        self._reloading = asyncio.Lock()
        self._rolling = asyncio.Lock()
        self._stopping = False
        self._file = WatchedFile(path)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, on_ready: Callable[[], None]) -> int:
        """Serves until a signal ends it. Returns the exit code: 1 when no worker can start."""
        signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signals.put_nowait, number)
        keepers = [self._spawn(self._keep(slot)) for slot in self._slots]
        await asyncio.gather(*(slot.tried.wait() for slot in self._slots))
        if not self._serving:
            self._log.error("cannot_start", reason=self._slots[0].failed)
            await self._stop(keepers, 0.0)
            return 1
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self.reload()))
        loop.add_signal_handler(signal.SIGUSR2, lambda: self._spawn(self.roll()))
        self._spawn(self._watch())
        self._spawn(self._listen_for_pulses())
        on_ready()
        # Who stops it by hand does not want to wait for load balancers to notice.
        delay = self._config.server.drain_delay if await signals.get() is signal.SIGTERM else 0.0
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._hurry)
        self._log.info("draining", workers=len(self._serving), at_most=self._config.server.drain)
        await self._stop(keepers, delay)
        return 0

    # -- one worker after the other ------------------------------------------------------------------------------------

    async def _keep(self, slot: Slot) -> None:
        """Has a worker serve in the slot, always."""
        while not self._stopping:
            child = slot.current
            if child is None:
                started = await self._start(slot)
                slot.tried.set()
                if started is None:
                    self._cover()
                    await asyncio.sleep(slot.policy.ended(monotonic()) or _RESTART.max)
                    continue
                child = started
            wanted = self._spawn(slot.replace.wait())
            await asyncio.wait((child.ended, wanted), return_when=asyncio.FIRST_COMPLETED)
            wanted.cancel()
            if child.ended.done():
                if not self._stopping:
                    await self._lost(slot, child)
            elif slot.replace.is_set():
                slot.replace.clear()
                if await self._start(slot) is not None:
                    self._log.info("worker_replaced", worker=slot.number, pid=child.pid)
                    self._leave(child)
                slot.replaced.set()

    async def _start(self, slot: Slot) -> Child | None:
        """A new worker in the slot, serving what all serve; None when it cannot."""
        revision = self._revision
        try:
            child = await Child.spawn(
                slot.number, self._sockets, self._handover, self._log_lock.fileno(), self._admin, self._asked
            )
        except OSError as error:  # as many processes or files as there may be
            self._not_started(slot, f"no process can be made: {error.strerror}")
            return None
        try:
            await child.channel.ask("start", {"text": self._text, "path": str(self._path)}, 60.0)
            for verb, backend in self._acts.all():
                await child.channel.ask("act", {"verb": verb, "backend": backend})
            while revision != self._revision:
                revision = self._revision
                problems = await child.channel.ask("prepare", {"text": self._text, "path": str(self._path)}, 30.0)
                if problems:
                    raise PeerError("; ".join(problems))
                await child.channel.ask("commit")
        except PeerError as error:
            self._not_started(slot, str(error))
            child.kill()
            await child.ended
            return None
        except asyncio.CancelledError:
            child.kill()
            raise
        slot.current = child
        slot.policy.ready(monotonic())
        self._cover()
        self._tell_workers()
        return child

    def _not_started(self, slot: Slot, reason: str) -> None:
        slot.failed = reason
        self._log.error("worker_failed_to_start", worker=slot.number, reason=reason)

    def _cover(self) -> None:
        """Has the others take the connections of workers that are not there."""
        for slot in self._slots:
            for child in self._serving:
                if child.number != slot.number:
                    child.channel.tell("unlisten" if slot.current else "listen", {"number": slot.number})

    async def _lost(self, slot: Slot, child: Child) -> None:
        """A worker has died: the others take its connections until it is back."""
        slot.current = None
        self._restarts += 1
        self._retire(child)
        self._cover()
        self._tell_workers()
        delay = slot.policy.ended(monotonic()) or _RESTART.max
        self._log.error("worker_died", worker=slot.number, pid=child.pid, status=child.status, restart_in=delay)
        await asyncio.sleep(delay)

    def _leave(self, child: Child) -> None:
        child.channel.tell("leave")
        self._leaving.add(child)
        self._spawn(self._see_off(child, self._config.server.drain + _MARGIN))

    async def _see_off(self, child: Child, limit: float) -> None:
        await asyncio.wait((child.ended,), timeout=limit)
        child.kill()
        await child.ended
        self._leaving.discard(child)
        self._retire(child)

    def _retire(self, child: Child) -> None:
        child.retired = True
        self._totals.retire(child.metrics)
        self._gone.add(child.tally)

    async def roll(self) -> None:
        """Replaces one worker after the other; each goes when its successor serves."""
        async with self._rolling:
            self._log.info("rolling_restart", workers=len(self._slots))
            for slot in self._slots:
                if slot.current is not None:
                    slot.replaced.clear()
                    slot.replace.set()
                    await slot.replaced.wait()

    # -- what concerns all ---------------------------------------------------------------------------------------------

    @property
    def _serving(self) -> list[Child]:
        return [slot.current for slot in self._slots if slot.current is not None]

    async def reload(self) -> list[str]:
        """Has all workers take over the file as it is now, or none. Gives what stands in the way."""
        async with self._reloading:
            try:
                text = read(self._path)
                config = load_text(text, str(self._path))
            except ConfigError as error:
                return self._refused([str(problem) for problem in error.problems])
            arguments = {"text": text, "path": str(self._path)}
            workers = self._serving
            answers = await asyncio.gather(
                *(child.channel.ask("prepare", arguments, 30.0) for child in workers), return_exceptions=True
            )
            problems = [problem for answer in answers if isinstance(answer, list) for problem in answer]
            # A worker that has died meanwhile begins with what is served then.
            problems += [str(a) for a, c in zip(answers, workers, strict=True) if isinstance(a, PeerError) and c.alive]
            if problems:
                return self._refused(list(dict.fromkeys(problems)))
            before, self._text, self._config = self._config, text, config
            self._revision += 1
            await asyncio.gather(*(child.channel.ask("commit") for child in workers), return_exceptions=True)
            log_reload(self._log, diff(before, config), workers=len(workers))
            return []

    def _refused(self, problems: list[str]) -> list[str]:
        for child in self._serving:
            child.channel.tell("abort")
        self._log.error("reload_refused", problems=problems[:20])
        return problems

    async def _asked(self, child: Child, operation: str, arguments: dict[str, Any]) -> Any:
        """What workers want of the parent."""
        match operation:
            case "others":
                return await self._others(child, arguments["op"], arguments["args"])
            case "reload":
                return await self.reload()
            case "replace":  # somebody sent the worker SIGTERM; if all got it, so did the parent
                await asyncio.sleep(0.5)
                if not self._stopping and self._slots[child.number].current is child:
                    self._slots[child.number].replace.set()
            case "last":
                child.metrics, child.tally = arguments["metrics"], arguments["tally"]
        return None

    async def _others(self, asker: Child, operation: str, arguments: dict[str, Any]) -> list[Any]:
        if operation == "gone":
            return [self._gone.told()]
        own: Snapshot | None = arguments.pop("own", None)
        if operation == "act":
            self._acts.remember(**arguments)
        others = [child for child in (*self._serving, *self._leaving) if child is not asker]
        found = await asyncio.gather(*(self._ask(child, operation, arguments) for child in others))
        if operation != "metrics" or own is None:
            answers = [answer for answer in found if answer is not None]
            return [*answers, self._gone.errors()] if operation == "errors" else answers
        asker.metrics = own
        for child, answer in zip(others, found, strict=True):
            if answer is not None and not child.retired:
                child.metrics = answer
        # One that does not answer is shown as it last was: a sum that falls looks like a restart to who reads it.
        alive = [child.metrics for child in others if not child.retired]
        return [*alive, self._totals.of([own, *alive])]

    async def _ask(self, child: Child, operation: str, arguments: dict[str, Any]) -> Any:
        try:
            return await child.channel.ask(operation, arguments, PATIENCE)
        except PeerError as error:
            self._log.warning("worker_silent", worker=child.number, pid=child.pid, reason=str(error))
            return None

    def _tell_workers(self) -> None:
        now = {"serving": len(self._serving), "wanted": len(self._slots), "restarts": self._restarts}
        for child in self._serving:
            child.channel.tell("workers", now)

    async def _listen_for_pulses(self) -> None:
        """Kills workers that hang, so that they are started again."""
        while True:
            await asyncio.sleep(_PULSE)
            await asyncio.gather(*(self._pulse(child) for child in self._serving))

    async def _pulse(self, child: Child) -> None:
        try:
            child.tally = await child.channel.ask("pulse", timeout=_HUNG)
        except PeerError as error:
            if child.alive and not self._stopping:
                self._log.error("worker_hangs", worker=child.number, pid=child.pid, reason=str(error))
                child.kill()

    async def _watch(self) -> None:
        """Reloads when the file changes."""
        while True:
            await asyncio.sleep(_WATCH_INTERVAL)
            if self._config.server.watch and self._file.changed():
                await self.reload()

    # -- the end -------------------------------------------------------------------------------------------------------

    async def _stop(self, keepers: list[asyncio.Task[Any]], delay: float) -> None:
        self._stopping = True
        for task in keepers:
            task.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        children = [*self._serving, *self._leaving]
        for child in children:
            child.channel.tell("drain", {"delay": delay})
        limit = max(self._config.server.drain, delay) + _MARGIN
        if children:
            await asyncio.wait([child.ended for child in children], timeout=limit)
        for child in children:
            child.kill()
            await child.ended
        for task in list(self._tasks):
            task.cancel()
        self._logs.close()

    def _hurry(self) -> None:
        for child in (*self._serving, *self._leaving):
            child.channel.tell("hurry")

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("internal_error", part="parent", exc_info=error)


def log_lock() -> IO[bytes]:
    """A file without a name, on which the processes lock while they write their lines."""
    return tempfile.TemporaryFile()
