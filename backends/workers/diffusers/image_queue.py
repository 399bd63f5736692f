"""The bounded queue in front of the painter: like requests share a batch, and one that nobody waits for is dropped."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from backends.workers.diffusers.painter import Painter, Picture
from backends.workers.diffusers.protocol import Drawing
from backends.workers.memory import is_fatal

logger = logging.getLogger(__name__)


class QueueFullError(Exception):
    """As many requests wait as may."""


class _NobodyWaitsError(Exception):
    """Raised between two steps when each request of the batch has been given up."""


@dataclass(eq=False, slots=True)
class Job:
    """One request's images: a drawing with one seed for each. `on_step(done)` is called in the event loop.

    `done` counts finished steps of all its images together, of `drawing.steps * len(seeds)`.
    """

    drawing: Drawing
    seeds: Sequence[int]
    on_step: Callable[[int], None] | None = None
    pictures: list[Picture] = field(default_factory=list)
    given_up: bool = False
    result: asyncio.Future[list[Picture]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def give_up(self) -> None:
        """Nobody waits for it any more: it leaves the queue, or the painter after the step that runs."""
        self.given_up = True


class ImageQueue:
    """Feeds a painter, which runs on a thread of its own, while the context lasts.

    `max_waiting`: requests that may wait; `max_batch`: images drawn together. `dead` is set, and everything refused,
    when the device is lost: only a new process helps.
    """

    def __init__(self, painter: Painter, *, max_waiting: int = 64, max_batch: int = 4) -> None:
        self._painter = painter
        self._max_waiting = max_waiting
        self._max_batch = max_batch
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="painter")
        self._task: asyncio.Task[None] | None = None
        self.dead = asyncio.Event()
        self.steps = 0
        self.images = 0

    @property
    def running(self) -> int:
        """Requests being drawn."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return sum(not job.given_up for job in self._waiting)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        for job in (*self._running, *self._waiting):
            job.give_up()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown)

    def submit(self, job: Job) -> None:
        """Queues a job; its `result` gets the pictures or the error. Raises QueueFullError."""
        if self.waiting >= self._max_waiting:
            raise QueueFullError
        self._waiting.append(job)
        self._arrived.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.dead.is_set():
            self._running = self._next_batch()
            if not self._running:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            try:
                await loop.run_in_executor(self._thread, self._draw, self._running, loop)
            except _NobodyWaitsError:
                pass
            except Exception as error:
                self._failed(error)
            else:
                for job in self._running:
                    if not job.result.done():
                        job.result.set_result(job.pictures)
            finally:
                self._running = []

    def _next_batch(self) -> list[Job]:
        """The longest-waiting job and those like it, to `max_batch` images; a job with more images goes alone."""
        jobs = [job for job in self._waiting if not job.given_up]
        batch, images = jobs[:1], sum(len(job.seeds) for job in jobs[:1])
        for job in jobs[1:]:
            if job.drawing.like(batch[0].drawing) and images + len(job.seeds) <= self._max_batch:
                batch.append(job)
                images += len(job.seeds)
        self._waiting = deque(job for job in jobs if job not in batch)
        return batch

    def _draw(self, jobs: Sequence[Job], loop: asyncio.AbstractEventLoop) -> None:
        """On the painter's thread: all images of the jobs, `max_batch` at a time."""
        owners = [(job, seed) for job in jobs for seed in job.seeds]
        for start in range(0, len(owners), self._max_batch):
            part = owners[start : start + self._max_batch]
            drawn_before = {job: len(job.pictures) for job, _ in part}

            def on_step(step: int, part: list[tuple[Job, int]] = part, before: dict[Job, int] = drawn_before) -> None:
                if all(job.given_up for job in jobs):
                    raise _NobodyWaitsError
                loop.call_soon_threadsafe(self._stepped, part, before, step)

            pictures = self._painter.paint([(job.drawing, seed) for job, seed in part], on_step)
            self.images += len(pictures)
            for (job, _), picture in zip(part, pictures, strict=True):
                job.pictures.append(picture)

    def _stepped(self, part: list[tuple[Job, int]], before: dict[Job, int], step: int) -> None:
        self.steps += 1
        for job, drawn in before.items():
            if job.on_step is not None and not job.given_up:
                together = sum(owner is job for owner, _ in part)
                job.on_step(drawn * job.drawing.steps + together * step)

    def _failed(self, error: Exception) -> None:
        logger.error("drawing failed: %s: %s", type(error).__name__, error)
        lost = self._running
        if is_fatal(error):
            self.dead.set()
            lost = [*lost, *self._waiting]
            self._waiting.clear()
        for job in lost:
            if not job.result.done() and not job.given_up:
                job.result.set_exception(error)
