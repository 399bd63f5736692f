"""What changed between two configurations, in lines for the log of a reload."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, SecretStr

from gateway.config.base import Section
from gateway.config.schema import Config
from gateway.config.units import Unit


def diff(old: Config, new: Config) -> list[str]:
    """One line for each setting that differs, such as `policies.chat.retry.attempts: 3 -> 5`. Secrets stay hidden."""
    return list(_compare(old, new, "", None))


def _compare(old: Any, new: Any, path: str, unit: Unit | None) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, Section) and type(old) is type(new):
        for name, info in type(old).model_fields.items():
            field_unit = next((mark for mark in info.metadata if isinstance(mark, Unit)), None)
            yield from _compare(getattr(old, name), getattr(new, name), f"{path}.{name}" if path else name, field_unit)
    elif (before := _named(old)) is not None and (after := _named(new)) is not None:
        for name in [*before, *(name for name in after if name not in before)]:
            at = f"{path}.{name}" if isinstance(old, Mapping) else f"{path}[{name}]"
            if name not in after:
                yield f"{at}: removed"
            elif name not in before:
                yield f"{at}: added"
            else:
                yield from _compare(before[name], after[name], at, unit)
        if [*before] != [*after] and before.keys() == after.keys() and not isinstance(old, Mapping):
            yield f"{path}: order {', '.join(before)} -> {', '.join(after)}"
    else:
        was, now = _shown(old, unit), _shown(new, unit)
        yield f"{path}: changed (secret)" if was == now else f"{path}: {was} -> {now}"


def _named(value: Any) -> Mapping[str, Any] | None:
    """Entries by name, of a mapping or of a list of sections that have names."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, tuple) and value and all(hasattr(entry, "name") for entry in value):
        return {entry.name: entry for entry in value}
    return None


def _shown(value: Any, unit: Unit | None) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return unit.format(value) if unit else f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, SecretStr):
        return "(secret)"
    if isinstance(value, tuple | list):
        return f"[{', '.join(_shown(entry, unit) for entry in value)}]"
    if isinstance(value, BaseModel):
        entries = ((name, getattr(value, name)) for name in type(value).model_fields)
        units = {
            name: next((mark for mark in info.metadata if isinstance(mark, Unit)), None)
            for name, info in type(value).model_fields.items()
        }
        return f"{{{', '.join(f'{name}: {_shown(entry, units[name])}' for name, entry in entries)}}}"
    return str(value)
