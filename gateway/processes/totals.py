"""The counters of workers that are gone.

Without them the sums would fall when a worker ends, which whoever reads counters takes for a restart from zero: it
would count everything that the other workers have done once more.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.observe.exposition import FAMILIES, Snapshot, merge

#: Labels whose values come and go with the configuration.
_NAMES = ("route", "backend")


class Totals:
    """Sums of counters and histograms."""

    def __init__(self) -> None:
        self._gone: Snapshot = {}

    def retire(self, metrics: Snapshot) -> None:
        """Adds what a worker has counted."""
        counted = {name: samples for name, samples in metrics.items() if name in FAMILIES and _counts(name)}
        self._gone = merge((self._gone, counted))

    def of(self, living: Iterable[Snapshot]) -> Snapshot:
        """The sums, without routes and backends that no living worker has any more: those are forgotten."""
        known: dict[str, set[str]] = {name: set() for name in _NAMES}
        for snapshot in living:
            for family, samples in snapshot.items():
                labels = FAMILIES[family].labels if family in FAMILIES else ()
                for name in _NAMES:
                    if name in labels:
                        at = labels.index(name)
                        known[name].update(values[at] for values, _ in samples)
        self._gone = {
            family: [
                (values, value)
                for values, value in samples
                if all(
                    text in known[name]
                    for name, text in zip(FAMILIES[family].labels, values, strict=True)
                    if name in known
                )
            ]
            for family, samples in self._gone.items()
        }
        return self._gone


def _counts(name: str) -> bool:
    return FAMILIES[name].kind != "gauge"
