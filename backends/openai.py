"""The OpenAI API and everything that imitates it: the dialect that the others are variations of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from backends.answers import ErrorFacts, defect, error_facts, in_band_error, parsed
from backends.dialect import AnswerHead, ResponseHead, TokenIds, Usage
from backends.retry_after import MAX_WAIT, retry_after
from backends.rules import (
    BAD_REQUEST_AS_500,
    CONTENT_FILTER,
    FAILED,
    MODEL_UNKNOWN,
    NAMED,
    SERVER_FAULTS,
    STATUS_OF_TYPE,
    UNSUPPORTED,
    Rule,
    Verdict,
    by_status,
    first_match,
    is_servers_fault,
)
from backends.texts import client_safe, context_overflow, evidence, plain_param, wait_in_text
from backends.usage import usage_in
from policies.outcome import ErrorKind, Failure

_IN_STREAM = ResponseHead(200, {})
#: Kinds that pass, so that the wait their server asks for is worth keeping.
_PASSING = frozenset(
    {
        ErrorKind.MODEL_OVERLOADED,
        ErrorKind.MODEL_LOADING,
        ErrorKind.GENERATION_FAILED,
        ErrorKind.BACKEND_UNREACHABLE,
    }
)
_BAD_VALUE = "The model's server refused this value"
_REFUSALS = frozenset({ErrorKind.INVALID_INPUT, ErrorKind.VALIDATION_ERROR})


class OpenAIDialect:
    """Judges answers by what they state first, their words second, and their status last. See `backends.rules`.

    A variation sets its paths, and tables where its server has words of its own: `named` by error type or code,
    `rules` by wording (both before the shared ones), and `trusts_claims` where a status inside a body is not true.
    """

    name = "openai"
    health_path = "/v1/models"
    metrics_path: str | None = None
    token_ids: TokenIds | None = None
    #: Not all that imitate the API say why an answer ends; some gateways leave the last chunk out.
    tells_finish = False
    named: ClassVar[Mapping[str, Verdict]] = {}
    rules: ClassVar[tuple[Rule, ...]] = ()
    trusts_claims = True

    def classify(self, path: str, head: AnswerHead, body: bytes) -> Failure | None:
        """See `Dialect.classify`."""
        if not 200 <= head.status < 300:
            return self._failure(error_facts(body), head.status, head)
        value = parsed(body)
        facts = in_band_error(value)
        if facts is not None:
            return self._in_band(facts, head)
        problem = defect(path, head, body, value)
        if problem is None:
            return None
        said = evidence(f"{problem}: {body[:400].decode('utf-8', 'replace')}")
        return Failure(ErrorKind.GENERATION_FAILED, said, status=head.status)

    def classify_frame(self, data: bytes) -> Failure | None:
        """See `Dialect.classify_frame`."""
        # Whole, for it is rare: the Responses API's last event holds the full answer and a harmless `"error": null`.
        value = parsed(data, limit=len(data))
        if not isinstance(value, dict):
            said = evidence(f"not a JSON object: {data[:400].decode('utf-8', 'replace')}")
            return Failure(ErrorKind.GENERATION_FAILED, said, status=200)
        facts = in_band_error(value)
        return None if facts is None else self._in_band(facts, _IN_STREAM)

    def usage(self, body: bytes) -> Usage | None:
        """See `Dialect.usage`."""
        return usage_in(body)

    def details_of(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Facts that the server states in fields of their own and that a client may see."""
        return {}

    def _in_band(self, facts: ErrorFacts, head: AnswerHead) -> Failure:
        claimed = facts.status if self.trusts_claims else None
        by_type = (STATUS_OF_TYPE[name] for name in facts.names if name in STATUS_OF_TYPE)
        return self._failure(facts, claimed or next(by_type, 500), head)

    def _failure(self, facts: ErrorFacts, status: int, head: AnswerHead) -> Failure:
        verdict = self._verdict(facts, status)
        kind = verdict.kind
        details = self._details(kind, facts)
        return Failure(
            kind,
            evidence(facts.raw),
            status=head.status,
            retry_after=_wait(facts, head) if kind in _PASSING else None,
            details=details,
            code=verdict.code,
            param=plain_param(facts.param),
            **_overrides(verdict),
        )

    def _verdict(self, facts: ErrorFacts, status: int) -> Verdict:
        for table in (self.named, NAMED):
            for name in facts.names:
                if name in table:
                    return table[name]
        return first_match(self.rules, facts.text) or self._shared_verdict(facts, status)

    def _shared_verdict(self, facts: ErrorFacts, status: int) -> Verdict:
        if is_servers_fault(status) and (verdict := first_match(SERVER_FAULTS, facts.text)):
            return verdict
        if status not in (401, 402, 429) and context_overflow(facts.text) is not None:
            return Verdict(ErrorKind.CONTEXT_LENGTH_EXCEEDED)
        if is_servers_fault(status):
            worded = first_match(BAD_REQUEST_AS_500, facts.text) if status == 500 else None
            return worded or _unsupported_or(by_status(status), facts)
        if status in (400, 403) and (verdict := first_match((CONTENT_FILTER,), facts.text)):
            return verdict
        if status in (400, 404) and (verdict := first_match((MODEL_UNKNOWN,), facts.text)):
            return verdict
        if status == 404:
            # An HTML page is an intermediary's: the endpoint's address leads to something else.
            return UNSUPPORTED if facts.is_json or "<" not in facts.text[:64] else FAILED
        if facts.field_errors:
            return Verdict(ErrorKind.VALIDATION_ERROR)
        return by_status(status)

    def _details(self, kind: ErrorKind, facts: ErrorFacts) -> dict[str, Any]:
        if kind is ErrorKind.CONTEXT_LENGTH_EXCEEDED:
            return (context_overflow(facts.text) or {}) | self.details_of(facts.body or {})
        if kind is ErrorKind.VALIDATION_ERROR and facts.field_errors:
            safe = {
                field: [client_safe(said) or _BAD_VALUE for said in all_said]
                for field, all_said in facts.field_errors.items()
            }
            return {"field_errors": safe}
        if kind in _REFUSALS and facts.is_json and (reason := client_safe(facts.raw)):
            return {"backend_message": reason}
        return {}


def _wait(facts: ErrorFacts, head: AnswerHead) -> float | None:
    """Seconds, from the headers, else Hugging Face's `estimated_time`, else the message."""
    stated = retry_after(head.headers)
    if stated is not None:
        return stated
    estimated = (facts.body or {}).get("estimated_time")
    if isinstance(estimated, int | float) and 0 <= estimated <= MAX_WAIT:
        return float(estimated)
    return wait_in_text(facts.text)


def _unsupported_or(verdict: Verdict, facts: ErrorFacts) -> Verdict:
    """A 501 means "not offered here" only from a model server itself."""
    return FAILED if verdict is UNSUPPORTED and not facts.is_json else verdict


def _overrides(verdict: Verdict) -> dict[str, Any]:
    named = {"elsewhere": verdict.elsewhere, "blame": verdict.blame}
    return {name: value for name, value in named.items() if value is not None}
