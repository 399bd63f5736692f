"""What the pipeline reads in a request's head, worked out once for all requests of a connection that repeat it."""

from __future__ import annotations

from gateway.http.message import Head, Request
from gateway.identity import given_id, given_traceparent
from gateway.paths import is_served, methods_for
from gateway.upstream.request import passed_on
from policies.deadline import parse_timeout


class HeadReading:
    """`correlation_id` and `traceparent` are the client's, None where they are missing or not valid; `methods` those of
    the path, None for a path that is not served; `passed_on` the lines that go to every backend."""

    __slots__ = (
        "content_encoding",
        "content_type",
        "correlation_id",
        "lists_models",
        "methods",
        "passed_on",
        "timeout",
        "traceparent",
    )

    def __init__(self, head: Head) -> None:
        headers = head.headers
        self.correlation_id = given_id(headers)
        self.traceparent = given_traceparent(headers)
        self.methods = methods_for(head.path) if is_served(head.path) else None
        self.lists_models = head.path.startswith("/v1/models")
        self.content_type = head.header(b"content-type") or ""
        self.content_encoding = head.header(b"content-encoding")
        self.timeout = parse_timeout(head.header(b"x-request-timeout"))
        self.passed_on = passed_on(headers)


def reading_of(request: Request) -> HeadReading:
    """The one of the request's head."""
    head = request.head
    if head.reading is None:
        head.reading = HeadReading(head)
    return head.reading
