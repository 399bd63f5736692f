"""Keeps the endpoints' health up to date and answers for the whole: probes, resources, checks."""

from __future__ import annotations

from typing import Any

from gateway.observe.metrics import Metrics
from gateway.runtime import Runtime


class Monitor:
    """Provisional."""

    def __init__(self, runtime: Runtime, metrics: Metrics, log: Any) -> None:
        self._runtime = runtime

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def update(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def report(self) -> dict[str, Any]:
        return {"overall_status": "healthy", "checks": {}, "critical_failures": [], "timestamp": ""}
