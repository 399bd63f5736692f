"""Which words and statuses of a model server mean what: the tables that all dialects share.

Wording decides only where it can be trusted. Signs of a server's trouble ("out of memory") are read only in answers
that claim a server's fault, since a refusal of a bad request may quote the request: whoever writes "CUDA out of
memory" into a prompt must not be able to open a circuit. Signs of a client's fault are read at any status, because
servers also answer a bad request with 500, and a breaker must not open on that either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from policies.outcome import Blame, Elsewhere, ErrorKind


@dataclass(frozen=True, slots=True)
class Verdict:
    """A kind with what a `Failure` of it overrides; None leaves the kind's default."""

    kind: ErrorKind
    code: str | None = None
    elsewhere: Elsewhere | None = None
    blame: Blame | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A verdict on the texts that match."""

    pattern: re.Pattern[str]
    verdict: Verdict


def rule(pattern: str, verdict: Verdict | ErrorKind) -> Rule:
    """A rule whose pattern ignores case."""
    verdict = Verdict(verdict) if isinstance(verdict, ErrorKind) else verdict
    return Rule(re.compile(pattern, re.IGNORECASE), verdict)


def first_match(rules: Iterable[Rule], text: str) -> Verdict | None:
    """The verdict of the first rule that matches."""
    return next((r.verdict for r in rules if r.pattern.search(text)), None)


BAD_REQUEST = Verdict(ErrorKind.INVALID_INPUT)
FAILED = Verdict(ErrorKind.GENERATION_FAILED)
UNREACHABLE = Verdict(ErrorKind.BACKEND_UNREACHABLE)
BUSY = Verdict(ErrorKind.MODEL_OVERLOADED)
TIMED_OUT = Verdict(ErrorKind.INFERENCE_TIMEOUT)
UNKNOWN_MODEL = Verdict(ErrorKind.MODEL_NOT_FOUND)
#: The request's fault or the server's: no evidence against the server, and another one is asked to find out.
DOUBTFUL = Verdict(ErrorKind.INVALID_INPUT, elsewhere=Elsewhere.ONCE)
#: Our own key: another endpoint's may be good, and this one is of no use until an operator has mended it.
CREDENTIALS = Verdict(ErrorKind.GENERATION_FAILED, "backend_credentials_rejected")
QUOTA = Verdict(ErrorKind.GENERATION_FAILED, "backend_quota_exhausted")
#: The server works but has no such endpoint; the next tier's server may be of another sort.
UNSUPPORTED = Verdict(ErrorKind.INVALID_INPUT, "unsupported_endpoint", Elsewhere.NEXT_TIER)
#: The server says that its client left. Ours did not, so somebody between cut the connection.
CUT_BETWEEN = Verdict(ErrorKind.GENERATION_FAILED, blame=Blame.SOFT)

#: Error types and codes that mean one thing wherever they appear.
NAMED: Mapping[str, Verdict] = {
    "context_length_exceeded": Verdict(ErrorKind.CONTEXT_LENGTH_EXCEEDED),
    "content_filter": Verdict(ErrorKind.CONTENT_FILTERED),
    "content_policy_violation": Verdict(ErrorKind.CONTENT_FILTERED),
    "moderation_blocked": Verdict(ErrorKind.CONTENT_FILTERED),
    "model_not_found": UNKNOWN_MODEL,
    "DeploymentNotFound": UNKNOWN_MODEL,
    "insufficient_quota": QUOTA,
    "billing_hard_limit_reached": QUOTA,
    "billing_not_active": QUOTA,
    "billing_error": QUOTA,
    "invalid_api_key": CREDENTIALS,
    "overloaded_error": BUSY,
    "rate_limit_exceeded": BUSY,
    "out_of_memory": Verdict(ErrorKind.OUT_OF_MEMORY),
    "model_loading": Verdict(ErrorKind.MODEL_LOADING),
    "model_loading_failed": Verdict(ErrorKind.MODEL_LOADING_FAILED),
    "model_overloaded": BUSY,
    "inference_timeout": TIMED_OUT,
    "backend_unreachable": UNREACHABLE,
    "content_filtered": Verdict(ErrorKind.CONTENT_FILTERED),
}

#: The status that an error's `type` stands for, for in-band errors that carry no code of their own.
STATUS_OF_TYPE: Mapping[str, int] = {
    "BadRequestError": 400,
    "Bad Request": 400,
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "NotFoundError": 404,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "NotImplementedError": 501,
    "timeout_error": 504,
}

SERVER_FAULTS: tuple[Rule, ...] = (
    rule(
        r"\b(?:cuda|hip|mps|xpu|npu|rocm|gpu|device|vram|cudamalloc|prefill|decode)\b.{0,40}\bout of memory"
        r"|OutOfMemory|out_of_memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|cublas alloc failed"
        r"|insufficient memory|not enough memory|requires more (?:system|gpu|video)? ?memory"
        r"|no available memory for the cache blocks|can't allocate memory|unable to allocate|ran out of memory"
        r"|failed to allocate (?:\w+ )?(?:memory|buffer|tensor)|RESOURCE_EXHAUSTED|ErrorOutOfDeviceMemory|bad_alloc"
        r"|^(?:\w+: )?out of memory\b",
        ErrorKind.OUT_OF_MEMORY,
    ),
    rule(
        r"error loading model|(?:failed|unable) to load|model failed to load|timed out waiting for [\w -]+ to start"
        r"|could not load model",
        ErrorKind.MODEL_LOADING_FAILED,
    ),
    rule(
        r"EngineCore encountered|\b(?:Async|MQ)?EngineDeadError|Background loop (?:has errored|is stopped)"
        r"|Engine loop (?:is not running|has died)|process (?:has terminated|no longer running)"
        r"|runner has unexpectedly stopped|Scheduler hit an exception|could not connect to text generation server",
        FAILED,
    ),
    rule(
        r"loading model|model is (?:currently |still )?(?:loading|warming|starting)|still loading|currently loading"
        r"|(?:server|model).{0,100} (?:is )?not (?:yet )?ready|warming up|is (?:still )?starting"
        r"|has no available versions",
        ErrorKind.MODEL_LOADING,
    ),
    rule(
        r"overloaded|over capacity|at capacity|queue (?:is )?full|maximum queue size|max(?:imum)? queue"
        r"|server (?:is )?(?:currently )?busy|maximum pending requests|slot (?:is )?(?:un|not )available"
        r"|no slots? available|too many (?:concurrent )?requests|rate limit|throttl"
        r"|higher priority request|no available workers|stopped accepting new",
        BUSY,
    ),
    rule(
        r"upstream connect error|no healthy upstream|connection refused|could not connect|bad gateway"
        r"|no route to host|host is unreachable",
        UNREACHABLE,
    ),
    rule(r"timed out|time-?out|deadline exceeded", TIMED_OUT),
)

CONTENT_FILTER = rule(
    r"content management policy|content[ _-]?(?:policy|filter)|safety system|responsible ai|\bmoderation\b"
    r"|input was flagged|nsfw content",
    ErrorKind.CONTENT_FILTERED,
)
MODEL_UNKNOWN = rule(
    r"\b(?:model|lora|adapter|deployment)s?\b.{0,200}"
    r"\b(?:does not exist|doesn't exist|(?:was |is )?not found|is not a valid)"
    r"|unknown model|no such model|invalid model name|model_name_not_found",
    UNKNOWN_MODEL,
)

#: Words of a 500 that may stand for a bad request. All that a validator says of the request, it says in these words;
#: the name of an exception alone may as well be a fault of the server's code. A server that failed to validate what it
#: was about to send says whose model it was.
BAD_REQUEST_AS_500: tuple[Rule, ...] = (
    rule(r"validation errors? for \w*(?:Response|Chunk|Event|Output)\b", FAILED),
    rule(
        r"validation errors? for|\d{1,4} validation errors?|json\.exception\.(?:parse|type|out_of_range)_error"
        r"|invalid (?:json|request body|value for)|unsupported param"
        r"|must be (?:a |an )?(?:non-negative|positive|strictly|at least|at most|between|in the range|one of|in \["
        r"|in \(|greater|less|string|array|object|integer|boolean)|(?:field|parameter) (?:is )?required"
        r"|conversation roles must alternate|roles are supported|out of vocabulary|cannot identify image file"
        r"|is not a multimodal model|only supports? \d+ image|at most \d+ images?|has not been enabled|invalid grammar",
        BAD_REQUEST,
    ),
    rule(r"\b(?:ValueError|ValidationError|TemplateError|NotImplementedError|JSONDecodeError)\b", DOUBTFUL),
)

_BY_STATUS: Mapping[int, Verdict] = {
    401: CREDENTIALS,
    402: QUOTA,
    403: CREDENTIALS,
    405: UNSUPPORTED,
    407: FAILED,
    408: TIMED_OUT,
    409: BUSY,
    410: UNKNOWN_MODEL,
    413: Verdict(ErrorKind.PAYLOAD_TOO_LARGE),
    424: FAILED,
    425: BUSY,
    429: BUSY,
    451: Verdict(ErrorKind.CONTENT_FILTERED),
    499: CUT_BETWEEN,
    501: UNSUPPORTED,
    502: UNREACHABLE,
    503: BUSY,
    504: TIMED_OUT,
    507: Verdict(ErrorKind.OUT_OF_MEMORY),
    521: UNREACHABLE,
    522: UNREACHABLE,
    523: UNREACHABLE,
    524: TIMED_OUT,
    529: BUSY,
}
_SERVER_FAULTS_BELOW_500 = frozenset({408, 409, 424, 425, 429, 499})


def is_servers_fault(status: int) -> bool:
    """Whether a status lays the blame on the server, so that its words may too."""
    return status >= 500 or status in _SERVER_FAULTS_BELOW_500


def by_status(status: int) -> Verdict:
    """What a status means when nothing else is known; outside 400 to 499 an unlisted one is the server's failure."""
    return _BY_STATUS.get(status) or (BAD_REQUEST if 400 <= status < 500 else FAILED)
