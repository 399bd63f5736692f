"""The times that the rest of an answer is given."""

from __future__ import annotations

from dataclasses import dataclass

from policies.outcome import Blame, Elsewhere, ErrorKind, Failure


@dataclass(frozen=True, slots=True)
class StreamTimeouts:
    """`idle`: longest silence of the backend; `keepalive`: a comment goes to the client after so much; both seconds.

    `deadline` is in loop time; `deadline_kind` what it means when it passes.
    """

    idle: float
    keepalive: float
    deadline: float
    deadline_kind: ErrorKind

    def out_of_time(self) -> Failure:
        """The deadline has passed while an answer was coming, which is nobody's fault: it was not silent."""
        evidence = "the deadline passed in the middle of the answer"
        return Failure(self.deadline_kind, evidence, status=200, elsewhere=Elsewhere.NO, blame=Blame.NONE)
