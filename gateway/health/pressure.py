"""How hard pressed a route's servers and this machine are: the signals of `degrade`, each 0 to 1."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from gateway.health.resources import Resources

if TYPE_CHECKING:
    from gateway.runtime import Route

#: Kinds that take the GPU's memory for themselves when they start: how full it is says nothing.
_RESERVING = frozenset({"vllm", "sglang"})


def pressures(route: Route, resources: Resources | None) -> dict[str, float]:
    """Signals by name. Of the servers the primary tier's usable ones count, on average, as work can go to any of them.

    `queue`: the fuller of Seawall's own line and, as a share of what runs there, the servers'. `gpu`: memory in use of
    the servers' GPUs, else of this machine's fullest. `cpu` and `memory` are this machine's too.
    """
    primary = [candidate.endpoint for candidate in route.tiers[0] if candidate.endpoint.healthy]
    found = {"queue": route.room.pressure}
    if primary:
        waiting = fmean(endpoint.waiting / max(endpoint.waiting + 1.0, endpoint.in_flight) for endpoint in primary)
        found["queue"] = max(found["queue"], waiting)
        found["kv_cache"] = fmean(endpoint.kv_cache for endpoint in primary)
        told = [endpoint.gpu_memory for endpoint in primary if endpoint.gpu_memory is not None]
        if told:
            found["gpu"] = fmean(told)
    if resources is not None:
        found["cpu"] = resources.cpu
        found["memory"] = resources.memory.share
        reserving = any(candidate.endpoint.config.kind in _RESERVING for candidate in route.tiers[0])
        if resources.gpus and not reserving and "gpu" not in found:
            found["gpu"] = max(gpu.memory_share for gpu in resources.gpus)
    return found
