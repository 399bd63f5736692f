"""The last minutes in one sample a second, taken from the metrics: what the page's charts show."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from gateway.observe.metrics import FIRST_TOKEN_BOUNDS, OUTPUT_TOKEN_BOUNDS, Metrics, RouteMetrics
from policies.outcome import ErrorKind

#: Samples kept: five minutes.
LENGTH = 300
#: Samples that a latency is taken over: a second has too few requests for a percentile.
_WINDOW = 10

_Counts = list[int]


def quantile(bounds: Sequence[float], counts: Sequence[int], q: float) -> float | None:
    """The q-th quantile (seconds) of a histogram, linear within its bucket, as PromQL's `histogram_quantile` does it.

    `counts` are not cumulated and have one entry more than `bounds`. None for an empty histogram; the last bound for
    what lies beyond it.
    """
    total = sum(counts)
    if total <= 0:
        return None
    rank, below = q * total, 0
    for at, count in enumerate(counts[:-1]):
        if count and below + count >= rank:
            lower = bounds[at - 1] if at else 0.0
            return lower + (bounds[at] - lower) * (rank - below) / count
        below += count
    return bounds[-1]


class History:
    """Samples of all routes together. `sample` is called once a second."""

    def __init__(self) -> None:
        self.samples: deque[dict[str, Any]] = deque(maxlen=LENGTH)
        self._before: tuple[float, int, dict[ErrorKind, int]] | None = None
        self._first_tokens: deque[_Counts] = deque(maxlen=_WINDOW + 1)
        self._output_tokens: deque[_Counts] = deque(maxlen=_WINDOW + 1)

    def sample(self, metrics: Metrics, at: float, *, in_flight: int, queued: int) -> dict[str, Any]:
        """Takes a sample at `at` (seconds since the epoch): rates are per second since the one before.

        Latencies are in seconds over the last ten samples, None where no request says.
        """
        routes = list(metrics.routes())
        ok = sum(route.ok for route in routes)
        errors = {kind: sum(route.errors[kind] for route in routes) for kind in ErrorKind}
        self._first_tokens.append(_added(routes, "first_token"))
        self._output_tokens.append(_added(routes, "output_token"))
        before = self._before or (at - 1.0, ok, errors)
        self._before = at, ok, errors
        passed = max(0.001, at - before[0])
        sample = {
            "at": round(at, 3),
            "ok": _rate(ok - before[1], passed),
            "errors": {
                kind.value: _rate(count - before[2].get(kind, 0), passed)
                for kind, count in errors.items()
                if count > before[2].get(kind, 0)
            },
            "in_flight": in_flight,
            "queued": queued,
            "ttft": _percentiles(FIRST_TOKEN_BOUNDS, self._first_tokens),
            "itl": _percentiles(OUTPUT_TOKEN_BOUNDS, self._output_tokens),
        }
        self.samples.append(sample)
        return sample


def _added(routes: Sequence[RouteMetrics], name: str) -> _Counts:
    return [sum(counts) for counts in zip(*(getattr(route, name).counts for route in routes), strict=True)]


def _rate(count: int, seconds: float) -> float:
    return round(max(0, count) / seconds, 3)  # a route that a reload took away takes its counts with it


def _percentiles(bounds: Sequence[float], cumulated: deque[_Counts]) -> dict[str, float | None]:
    counts = [max(0, last - first) for first, last in zip(cumulated[0], cumulated[-1], strict=True)]
    found = {name: quantile(bounds, counts, q) for name, q in (("p50", 0.5), ("p95", 0.95))}
    return {name: None if value is None else round(value, 5) for name, value in found.items()}
