"""Durations and sizes as people write them: `250ms`, `1.5m`, `64KiB`; and back, for messages and docs."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

#: Nothing here waits longer; it also keeps every deadline far from the edges of a clock.
MAX_DURATION = 30 * 86400.0
MAX_SIZE = 2**50

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {
    "B": 1,
    "kB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_QUANTITY = re.compile(rf"({_NUMBER}) ?([A-Za-z]*)", re.ASCII)
DURATION_PATTERN = rf"^{_NUMBER} ?(ms|s|m|h)?$"
_SIZE_PATTERN = rf"^{_NUMBER} ?({'|'.join(_BYTES)})?$"
_LONGEST = 40  # characters of a bad value repeated in a message


def parse_duration(value: str | int | float) -> float:
    """Seconds from `250ms`, `2s`, `1.5m`, `1h` or a bare number of seconds. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("must be a duration such as 250ms, 2s, 1.5m or 1h")
    if isinstance(value, str):
        number, unit = _split(value, "a duration such as 250ms, 2s, 1.5m or 1h")
        if unit and unit not in _SECONDS:
            raise ValueError(f"{_show(value)} has an unknown unit {_show(unit)}: use ms, s, m or h")
        # Dividing keeps 250ms exactly 0.25, where multiplying by 0.001 need not.
        seconds = number / 1000 if unit == "ms" else number * _SECONDS[unit or "s"]
    else:
        seconds = float(value) if abs(value) <= MAX_DURATION else MAX_DURATION * (2 if value > 0 else -2)
    if seconds != seconds or seconds < 0:
        raise ValueError("a duration can't be negative")
    if seconds > MAX_DURATION:
        raise ValueError(f"a duration can be at most {format_duration(MAX_DURATION)}")
    return seconds


def parse_size(value: str | int) -> int:
    """Bytes from `64KiB` (1024s), `20MB` (1000s) or a bare whole number of bytes. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("must be a size such as 64KiB, 20MiB or a whole number of bytes")
    if isinstance(value, str):
        number, unit = _split(value, "a size such as 64KiB or 20MiB")
        if unit and unit not in _BYTES:
            near = next((name for name in _BYTES if name.lower() == unit.lower() and unit != name), None)
            advice = f"did you mean {near}?" if near else "use B, KiB, MiB, GiB or kB, MB, GB"
            raise ValueError(f"{_show(value)} has an unknown unit {_show(unit)}: {advice}")
        size = number * _BYTES[unit or "B"]
        if size <= MAX_SIZE and size != int(size):
            raise ValueError(f"{_show(value)} is not a whole number of bytes")
    else:
        size = value
    if size < 0:
        raise ValueError("a size can't be negative")
    if size > MAX_SIZE:
        raise ValueError(f"a size can be at most {format_size(MAX_SIZE)}")
    return int(size)


def format_duration(seconds: float) -> str:
    """The shortest exact way to write a duration: `600.0` is `10m`. `parse_duration` gives the same number back."""
    if seconds and seconds % 3600 == 0:
        return f"{seconds / 3600:.0f}h"
    if seconds and seconds % 60 == 0:
        return f"{seconds / 60:.0f}m"
    milliseconds = round(seconds * 1000)
    if 0 < seconds < 1 and milliseconds / 1000 == seconds:
        return f"{milliseconds}ms"
    text = f"{seconds:.12f}".rstrip("0").rstrip(".")
    return f"{text if float(text) == seconds else format(seconds, '.30f')}s"


def format_size(size: int) -> str:
    """The shortest exact way to write a size: `65536` is `64KiB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return f"{size}B"


def _split(text: str, what: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{_show(text)} is not {what}")
    return float(match[1]), match[2]


def _show(text: str) -> str:
    return repr(text if len(text) <= _LONGEST else text[:_LONGEST] + "…")


def _duration(value: Any) -> float:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise PydanticCustomError("duration", "{reason}", {"reason": str(error)}) from None


def _size(value: Any) -> int:
    try:
        return parse_size(value)
    except ValueError as error:
        raise PydanticCustomError("size", "{reason}", {"reason": str(error)}) from None


class Unit:
    """Marks a field's quantity, so that docs and diffs write it as people do."""

    def __init__(self, name: str) -> None:
        self.name = name

    def format(self, value: float) -> str:
        return format_duration(value) if self.name == "duration" else format_size(int(value))


#: float seconds.
Duration = Annotated[
    float,
    BeforeValidator(_duration),
    Unit("duration"),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": DURATION_PATTERN}],
            "x-unit": "duration",
        }
    ),
]
#: float seconds, more than zero.
PositiveDuration = Annotated[Duration, Field(gt=0)]
#: int bytes.
Size = Annotated[
    int,
    BeforeValidator(_size),
    Unit("size"),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": _SIZE_PATTERN}],
            "x-unit": "size",
        }
    ),
]
