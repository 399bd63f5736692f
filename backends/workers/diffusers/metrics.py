"""The image worker's figures in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from backends.workers.diffusers.image_queue import ImageQueue

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)


class Metrics:
    """`outcomes`: requests by how they ended; `duration`: seconds from a request's arrival to its answer."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._running = self._gauge("requests_running", "Requests being drawn.")
        self._waiting = self._gauge("requests_waiting", "Requests that wait to be drawn.")
        self._steps = self._gauge("steps", "Denoising steps done since the start, each for one batch.")
        self._images = self._gauge("images", "Images drawn since the start.")
        self._used = self._gauge("memory_used_bytes", "Memory in use on the device.")
        self._available = self._gauge("memory_available_bytes", "Memory still free on the device.")
        self.outcomes = Counter("diffusers_requests", "Requests by outcome.", ["outcome"], registry=self._registry)
        self.duration = Histogram(
            "diffusers_request_duration_seconds",
            "Seconds from a request's arrival to its whole answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )

    def exposition(self, queue: ImageQueue, memory: tuple[int, int]) -> bytes:
        """All metrics; `memory` is bytes in use and available."""
        self._running.set(queue.running)
        self._waiting.set(queue.waiting)
        self._steps.set(queue.steps)
        self._images.set(queue.images)
        self._used.set(memory[0])
        self._available.set(memory[1])
        return generate_latest(self._registry)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(f"diffusers_{name}", meaning, registry=self._registry)
