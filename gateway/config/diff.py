"""What changed between two configurations, in lines for the log of a reload."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from gateway.config.base import Section
from gateway.config.schema import Config
from gateway.config.units import Unit

_FIXED = ("server.", "observability.")
_RELOADED = ("server.admin.key:", "server.drain", "server.trusted_proxies:", "server.watch:")


def diff(old: Config, new: Config) -> list[str]:
    """One line for each setting that differs, such as `policies.chat.retry.attempts: 3 -> 5`. Secrets stay hidden."""
    return list(_compare(old, new, "", None))


def after_restart(changes: Iterable[str]) -> list[str]:
    """Those of `diff`'s lines whose settings a reload leaves as they are: they belong to the process."""
    return [line for line in changes if line.startswith(_FIXED) and not line.startswith(_RELOADED)]


def log_reload(log: Any, changes: list[str], **more: Any) -> None:
    """The line that says what a reload has changed, and what of it waits for a restart."""
    log.info("reloaded", changes=changes, after_restart=after_restart(changes) or None, **more)


def _compare(old: Any, new: Any, path: str, unit: Unit | None) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, Section) and type(old) is type(new):
        for name, info in type(old).model_fields.items():
            at = f"{path}.{name}" if path else name
            yield from _compare(getattr(old, name), getattr(new, name), at, _unit(info))
    elif _has_names(old, new):
        before, after = _named(old), _named(new)
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


def _unit(info: FieldInfo) -> Unit | None:
    return next((mark for mark in info.metadata if isinstance(mark, Unit)), None)


def _has_names(old: Any, new: Any) -> bool:
    """Whether both are mappings, or lists of sections that have names."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return True
    if isinstance(old, tuple) and isinstance(new, tuple):
        return all(isinstance(entry, Section) and "name" in type(entry).model_fields for entry in old + new)
    return False


def _named(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {entry.name: entry for entry in value}


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
        fields = type(value).model_fields.items()
        return f"{{{', '.join(f'{name}: {_shown(getattr(value, name), _unit(info))}' for name, info in fields)}}}"
    return str(value)
