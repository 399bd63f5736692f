"""Faults made on purpose in the attempts of a route: `fault` of its policy."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from backends.dialect import ResponseHead
from gateway.config.schema import FaultPolicy
from policies.outcome import Blame, ErrorKind, Failure

if TYPE_CHECKING:
    from gateway.attempt import Attempt


class FaultInjection:
    """Draws which attempts are struck. What is injected is not held against the endpoint: other routes may use it."""

    __slots__ = ("_policy", "_random")

    def __init__(self, policy: FaultPolicy, rng: random.Random) -> None:
        self._policy = policy
        self._random = rng

    def draw(self) -> tuple[bool, float]:
        """(whether the next attempt is aborted, seconds by which it starts late)."""
        policy = self._policy
        if self._random.random() < policy.abort:
            return True, 0.0
        return False, policy.delay if policy.delay and self._random.random() < policy.share else 0.0

    def failure(self, attempt: Attempt) -> Failure:
        """What an answer with the policy's status and no body comes to at this endpoint."""
        status = self._policy.status
        failure = attempt.endpoint.dialect.classify(attempt.path, ResponseHead(status, {}), b"")
        if failure is None:
            failure = Failure(ErrorKind.GENERATION_FAILED, status=status)
        return replace(failure, evidence="injected fault", blame=Blame.NONE)
