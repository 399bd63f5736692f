"""How long to wait before going back to an endpoint that has failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tenacity import RetryCallState, Retrying
from tenacity.wait import wait_exponential

_TABULATED = 16  # more waits than any policy has attempts


@dataclass(frozen=True, slots=True)
class BackoffSettings:
    """Waits of `initial * factor^n` seconds, at most `max`. `jitter`: see `Backoff`."""

    initial: float
    factor: float
    max: float
    jitter: Literal["full", "equal", "none"]


class Backoff:
    """Exponential backoff with jitter, as in AWS's "Exponential Backoff And Jitter".

    `full` waits anywhere between 0 and the ceiling (tenacity's `wait_random_exponential`), `equal` between half of it
    and all of it, `none` exactly the ceiling.
    """

    __slots__ = ("_ceilings", "_spread")

    def __init__(self, settings: BackoffSettings) -> None:
        self._ceilings = _ceilings(settings)
        self._spread = {"full": 1.0, "equal": 0.5, "none": 0.0}[settings.jitter]

    def delay(self, number: int, rand: Callable[[], float]) -> float:
        """Seconds before the `number`-th return (from 1) to a tried endpoint; `rand` is uniform in [0, 1)."""
        ceiling = self._ceilings[min(number, _TABULATED) - 1]
        return ceiling - ceiling * self._spread * rand()


def _ceilings(settings: BackoffSettings) -> tuple[float, ...]:
    # tenacity's strategies with jitter draw from the global random module, which no test can hold still: its
    # exponential curve is used and the jitter put on here.
    curve = wait_exponential(multiplier=settings.initial, exp_base=settings.factor, max=settings.max)
    state = RetryCallState(Retrying(), None, (), {})
    ceilings = []
    for number in range(1, _TABULATED + 1):
        state.attempt_number = number
        ceilings.append(float(curve(state)))
    return tuple(ceilings)
