"""A backend that sees the client's own credentials (`forward_authorization`): what it says of them is the client's."""

from __future__ import annotations

from dataclasses import replace

from backends.dialect import AnswerHead, Dialect, TokenIds, Usage
from backends.rules import CREDENTIALS, QUOTA
from policies.outcome import Blame, Elsewhere, ErrorKind, Failure


class ForwardedCredentials:
    """Another dialect, but that a refusal of credentials, an exhausted account or its rate limit is the client's.

    Such a failure blames no endpoint, so that one client's bad key takes a backend from nobody else.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.name = dialect.name
        self.health_path = dialect.health_path
        self.metrics_path: str | None = dialect.metrics_path
        self.token_ids: TokenIds | None = dialect.token_ids
        self.tells_finish = dialect.tells_finish

    def classify(self, path: str, head: AnswerHead, body: bytes) -> Failure | None:
        """See `Dialect.classify`."""
        failure = self._dialect.classify(path, head, body)
        return None if failure is None else _of_the_client(failure, head.status)

    def classify_frame(self, data: bytes) -> Failure | None:
        """See `Dialect.classify_frame`."""
        failure = self._dialect.classify_frame(data)
        return None if failure is None else _of_the_client(failure, 200)

    def usage(self, body: bytes) -> Usage | None:
        """See `Dialect.usage`."""
        return self._dialect.usage(body)


def _of_the_client(failure: Failure, status: int) -> Failure:
    kind = ErrorKind.PERMISSION_DENIED if status == 403 else ErrorKind.AUTHENTICATION_FAILED
    if failure.code == CREDENTIALS.code:
        return Failure(kind, failure.evidence, status=failure.status)
    if failure.code == QUOTA.code:
        return Failure(ErrorKind.PERMISSION_DENIED, failure.evidence, status=failure.status, code="insufficient_quota")
    if failure.kind is ErrorKind.MODEL_OVERLOADED and status == 429:  # the account's limit, or the server's
        return replace(failure, kind=ErrorKind.RATE_LIMITED, elsewhere=Elsewhere.ONCE, blame=Blame.NONE)
    return failure
