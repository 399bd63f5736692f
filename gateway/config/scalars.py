"""How an unquoted scalar of gateway.yaml is typed: YAML 1.2's core schema."""

import re
from typing import Any

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]{1,40}", re.ASCII)
_BASED = re.compile(r"0(?:x[0-9A-Fa-f]{1,32}|o[0-7]{1,40})")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]{1,40}|[0-9]{1,40}(?:\.[0-9]{0,40})?)(?:[eE][-+]?[0-9]{1,3})?", re.ASCII)


class FromEnv(str):
    """A string that is the value of one `${VAR}` and nothing else.

    Fields that want a number or a flag read it by `typed`; text stays text, so a key of digits is still a key.
    """

    __slots__ = ()


def typed(text: str) -> Any:
    """None, bool, int, float or the text itself. Numbers too long to mean anything stay text."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def typed_from_env(value: Any) -> Any:
    """For fields that are not text: types what came whole from a variable."""
    return typed(value) if isinstance(value, FromEnv) else value
