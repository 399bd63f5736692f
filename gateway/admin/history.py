"""The last minutes in one sample a second, taken from the metrics: what the page's charts show."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.observe.metrics import FIRST_TOKEN_BOUNDS, OUTPUT_TOKEN_BOUNDS, Metrics, RouteMetrics
from policies.outcome import ErrorKind

#: Samples kept: five minutes.
LENGTH = 300
#: Samples that a latency is taken over: a second has too few requests for a percentile.
_WINDOW = 10
#: Seconds between two workers' samples that are taken for one moment.
_SAME = 0.75

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


def shown(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One moment of one or more workers, as the page shows it: rates and loads added up, latencies over all of them
    (`p50` and `p95`, seconds, None where no request says)."""
    errors: dict[str, float] = {}
    for sample in samples:
        for kind, rate in sample["errors"].items():
            errors[kind] = round(errors.get(kind, 0.0) + rate, 3)
    return {
        "at": samples[0]["at"],
        "ok": round(sum(sample["ok"] for sample in samples), 3),
        "errors": errors,
        "in_flight": sum(sample["in_flight"] for sample in samples),
        "queued": sum(sample["queued"] for sample in samples),
        "ttft": _percentiles(FIRST_TOKEN_BOUNDS, [sample["first_token"] for sample in samples]),
        "itl": _percentiles(OUTPUT_TOKEN_BOUNDS, [sample["output_token"] for sample in samples]),
    }


def joined(own: Sequence[Mapping[str, Any]], others: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Each of a worker's own samples together with those that the others took at that moment."""
    moments = [[sample["at"] for sample in samples] for samples in others]
    for sample in own:
        beside = (_nearest(samples, at, sample["at"]) for samples, at in zip(others, moments, strict=True))
        yield shown([sample, *(found for found in beside if found is not None)])


def _nearest(samples: Sequence[Mapping[str, Any]], moments: Sequence[float], at: float) -> Mapping[str, Any] | None:
    around = range(max(0, (after := bisect_left(moments, at)) - 1), min(len(moments), after + 1))
    nearest = min(around, key=lambda index: abs(moments[index] - at), default=None)
    return samples[nearest] if nearest is not None and abs(moments[nearest] - at) <= _SAME else None


class History:
    """Samples of all routes of one process together. `sample` is called once a second."""

    def __init__(self) -> None:
        self.samples: deque[dict[str, Any]] = deque(maxlen=LENGTH)
        self._before: tuple[float, int, dict[ErrorKind, int]] | None = None  # with loop time
        self._first_tokens: deque[_Counts] = deque(maxlen=_WINDOW + 1)
        self._output_tokens: deque[_Counts] = deque(maxlen=_WINDOW + 1)

    def sample(self, metrics: Metrics, at: float, now: float, *, in_flight: int, queued: int) -> dict[str, Any]:
        """Takes a sample at `at` (seconds since the epoch; `now` in loop time): rates are per second since the one
        before, latencies the counts of their histograms' buckets over the last ten samples. `shown` makes of it what a
        person reads.
        """
        routes = list(metrics.routes())
        ok = sum(route.ok for route in routes)
        errors = {kind: sum(route.errors[kind] for route in routes) for kind in ErrorKind}
        self._first_tokens.append(_added(routes, "first_token"))
        self._output_tokens.append(_added(routes, "output_token"))
        before = self._before or (now - 1.0, ok, errors)
        self._before = now, ok, errors
        passed = max(0.001, now - before[0])
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
            "first_token": _grown(self._first_tokens),
            "output_token": _grown(self._output_tokens),
        }
        self.samples.append(sample)
        return sample


def _added(routes: Sequence[RouteMetrics], name: str) -> _Counts:
    return [sum(counts) for counts in zip(*(getattr(route, name).counts for route in routes), strict=True)]


def _rate(count: int, seconds: float) -> float:
    return round(max(0, count) / seconds, 3)  # a route that a reload took away takes its counts with it


def _grown(cumulated: deque[_Counts]) -> _Counts:
    return [max(0, last - first) for first, last in zip(cumulated[0], cumulated[-1], strict=True)]


def _percentiles(bounds: Sequence[float], histograms: Sequence[_Counts]) -> dict[str, float | None]:
    counts = [sum(bucket) for bucket in zip(*histograms, strict=True)]
    found = {name: quantile(bounds, counts, q) for name, q in (("p50", 0.5), ("p95", 0.95))}
    return {name: None if value is None else round(value, 5) for name, value in found.items()}
