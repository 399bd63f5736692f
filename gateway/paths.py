"""Which paths are served, by whom, and with which methods."""

from __future__ import annotations

import re

_POST = ("POST",)
_GET = ("GET", "HEAD")
#: What goes through a known API; other `/v1/*` paths are passed on as they are.
DATA_PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/v1/rerank",
        "/v1/score",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/audio/speech",
        "/v1/images/generations",
        "/v1/images/edits",
        "/v1/images/variations",
        "/tokenize",
        "/detokenize",
        "/generate",
        "/generate_image",
    }
)
HEALTH_PATHS = frozenset({"/livez", "/readyz", "/health", "/metrics"})
OPERATOR_PATHS = frozenset({"/status", "/errors", "/admin", "/openapi.json"})
_MODELS = "/v1/models/"
_OTHER = ("GET", "POST", "PUT", "PATCH", "DELETE")
#: What could be read as another path by the server behind us.
_AMBIGUOUS = re.compile(r"//|/\.{1,2}(/|$)|\\|;|#|%(25)*(2e|2f|5c|[01][0-9a-f]|7f|3b|23)|[^\x21-\x7e]", re.IGNORECASE)


def is_operations(path: str) -> bool:
    """Whether the path is for operators and monitors rather than for models."""
    return path in HEALTH_PATHS or path in OPERATOR_PATHS or path.startswith(("/requests/", "/admin/"))


def is_served(path: str) -> bool:
    """Whether requests for models may have this path."""
    if path in DATA_PATHS or path.startswith(_MODELS):  # models are listed here: no server behind us sees that path
        return True
    return path.startswith("/v1/") and len(path) > 4 and not _AMBIGUOUS.search(path)


def methods_for(path: str) -> tuple[str, ...]:
    """The methods that a served path takes."""
    if path in DATA_PATHS:
        return _POST
    return _GET if path == "/v1/models" or path.startswith("/v1/models/") else _OTHER
