"""`return_token_ids`, asked for so that a broken stream can be continued, and taken out of what the client gets.

Works on bytes. In valid JSON a quote inside a string is escaped, so the bytes of a member's name with both its quotes
and its colon are a member and never the model's text.
"""

from __future__ import annotations

from typing import Any

import orjson

_FIELD = "return_token_ids"
#: The members that `return_token_ids` adds, as a server without spaces in its JSON writes them.
_IDS, _PROMPT_IDS = b',"token_ids":[', b',"prompt_token_ids":['
_TEXT = b',"prompt_text":null'
_NAMES = (b'token_ids"', b'prompt_text"')
_ADDED = frozenset({"token_ids", "prompt_token_ids", "prompt_text"})


def asking_for_ids(body: bytes, *, says: bool) -> bytes:
    """A request with `return_token_ids` set; `says` is whether it holds that field already."""
    if says:
        return orjson.dumps(orjson.loads(body) | {_FIELD: True})
    start = body.find(b"{") + 1
    return body[:start] + b'"return_token_ids":true,' + body[start:]


def says_of_ids(document: dict[str, Any]) -> bool:
    """Whether the field stands in a request, whatever its value."""
    return _FIELD in document


def without_ids(frames: bytes) -> bytes:
    """Whole frames without what `return_token_ids` added to them."""
    if frames.find(_IDS) >= 0:
        frames = _without_lists(frames, _IDS)
    if frames.find(_NAMES[0]) >= 0 or frames.find(_NAMES[1]) >= 0:
        frames = _without_lists(frames, _PROMPT_IDS).replace(_TEXT, b"")
        return _written_anew(frames) if _left_over(frames) else frames
    return frames


def _without_lists(frames: bytes, opening: bytes) -> bytes:
    """Without a member whose value is a list of numbers."""
    first, *rest = frames.split(opening)
    if len(rest) == 1:  # one frame with one list: what most are
        return first + rest[0][rest[0].find(b"]") + 1 :]
    return b"".join([first, *[piece[piece.find(b"]") + 1 :] for piece in rest]])


def _left_over(frames: bytes) -> bool:
    """Whether a member is still there: written in an unusual way, or with an unusual value."""
    for name in _NAMES:
        at = frames.find(name)
        while at >= 0:
            if frames[at + len(name) : at + len(name) + 8].lstrip().startswith(b":"):
                return True
            at = frames.find(name, at + 1)
    return False


def _written_anew(frames: bytes) -> bytes:
    lines = frames.split(b"\n")
    for place, line in enumerate(lines):
        if line.startswith(b"data:") and _left_over(line):
            try:
                document = orjson.loads(line[5:])
            except orjson.JSONDecodeError:
                continue
            lines[place] = b"data: " + orjson.dumps(_pruned(document))
    return b"\n".join(lines)


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _pruned(inner) for name, inner in value.items() if name not in _ADDED}
    return [_pruned(inner) for inner in value] if isinstance(value, list) else value
