"""What a request that fails its checks is told, field by field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from policies.outcome import ErrorKind

#: More than this many wrong fields help nobody, and a body can hold millions.
MAX_FIELD_ERRORS = 20

#: How the alternatives of a union are told apart in pydantic's locations: a `Tag` of this prefix and a reader's name.
UNION = "\0"

REQUIRED = "This field is required"

_MAX_NAME = 64  # characters of a client's own key that are shown back

_MISMATCH = frozenset(
    {"string_type", "list_type", "dict_type", "int_type", "float_type", "bool_type", "int_parsing", "float_parsing"}
)

#: pydantic's error types in a reader's words; `{}` takes the named values of the error's context.
_MESSAGES = {
    "missing": REQUIRED,
    "string_type": "must be a string",
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_from_float": "must be an integer",
    "int_parsing_size": "is too large",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "dict_attributes_type": "must be an object",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must not be empty",
    "string_too_long": "must be at most {max_length} characters long",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} items",
}

Location = tuple[int | str, ...]
_Branches = dict[str, list[tuple[Location, ErrorDetails]]]


class InvalidRequest(Exception):  # noqa: N818
    """A request that is the client's fault.

    `kind` is INVALID_INPUT (the body cannot be read), VALIDATION_ERROR (it can, and a field is wrong) or
    PAYLOAD_TOO_LARGE. `field_errors` maps `"messages -> 0 -> role"` to what is wrong there; `param` names the first
    wrong field as OpenAI does (`messages[0].role`). Neither holds any of the client's values.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        field_errors: Mapping[str, Sequence[str]] | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.field_errors = None if field_errors is None else {name: list(v) for name, v in field_errors.items()}
        self.param = param
        self.code = code


def unreadable(message: str) -> InvalidRequest:
    """The body is not what its endpoint reads at all."""
    return InvalidRequest(ErrorKind.INVALID_INPUT, message)


def wrong_fields(problems: Sequence[tuple[Location, str]]) -> InvalidRequest:
    """The fields at these locations are wrong, in the order given; at most `MAX_FIELD_ERRORS` are told."""
    shown = problems[:MAX_FIELD_ERRORS]
    fields: dict[str, list[str]] = {}
    for location, text in shown:
        texts = fields.setdefault(" -> ".join(_name(part) for part in location), [])
        if text not in texts:
            texts.append(text)
    first, texts = next(iter(fields.items()))
    message = f"Invalid request: {first}: {texts[0]}" if first else f"Invalid request: {texts[0]}"
    others = len(problems) - 1
    if others:
        message += f" (and {others} more {'problem' if others == 1 else 'problems'})"
    return InvalidRequest(ErrorKind.VALIDATION_ERROR, message, field_errors=fields, param=_param(shown[0][0]) or None)


def wrong_field(name: str, text: str) -> InvalidRequest:
    """One top-level field is wrong."""
    return wrong_fields([((name,), text)])


def from_pydantic(error: ValidationError) -> InvalidRequest:
    """Translates a failed validation; a union is told as one problem, that of the alternative meant."""
    details = error.errors(include_url=False, include_input=False)
    return wrong_fields(_collapse([(e["loc"], e) for e in details]))


def _collapse(errors: list[tuple[Location, ErrorDetails]]) -> list[tuple[Location, str]]:
    """Replaces each union's errors, found by the tagged part of their locations, by those of one alternative."""
    entries: list[tuple[Location, str | _Branches]] = []
    unions: dict[Location, _Branches] = {}
    for location, error in errors:
        at = next((i for i, part in enumerate(location) if isinstance(part, str) and part.startswith(UNION)), None)
        if at is None:
            entries.append((location, _text(error)))
            continue
        union = location[:at]
        if union not in unions:
            unions[union] = {}
            entries.append((union, unions[union]))
        unions[union].setdefault(str(location[at]), []).append((location[at + 1 :], error))
    problems: list[tuple[Location, str]] = []
    for location, what in entries:
        if isinstance(what, str):
            problems.append((location, what))
        else:
            problems.extend((location + rest, text) for rest, text in _alternative(what))
    return problems


def _alternative(branches: _Branches) -> list[tuple[Location, str]]:
    """The problems of the alternative whose type the value has; if it has none of them, what it may be."""
    meant = [errors for errors in branches.values() if not _is_mismatch(errors)]
    if not meant:
        return [((), "must be " + _either([_name(tag.removeprefix(UNION)) for tag in branches]))]
    return _collapse(max(meant, key=_got_as_far_as))


def _got_as_far_as(errors: list[tuple[Location, ErrorDetails]]) -> tuple[int, ...]:
    """How far into a list an alternative held: of `[1, "a"]` the list of ids was meant, not the one of strings."""
    return tuple(takewhile(lambda part: isinstance(part, int), errors[0][0]))  # type: ignore[arg-type]


def _is_mismatch(errors: list[tuple[Location, ErrorDetails]]) -> bool:
    return any(_at_union(location) and error["type"] in _MISMATCH for location, error in errors)


def _at_union(location: Location) -> bool:
    return all(isinstance(part, str) and part.startswith(UNION) for part in location)


def _either(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]


def _text(error: ErrorDetails) -> str:
    template = _MESSAGES.get(error["type"])
    if template is None:
        return error["msg"]
    return template.format(**{k: _number(v) for k, v in error.get("ctx", {}).items()})


def _number(value: object) -> object:
    """Whole bounds without their `.0`: `must be at least 0`."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _name(part: int | str) -> str:
    """A path part, made safe to show: a client chooses its keys, and their length."""
    text = str(part)
    if len(text) > _MAX_NAME:
        text = text[:_MAX_NAME] + "…"
    return "".join(c if c.isprintable() else "�" for c in text)


def _param(location: Location) -> str:
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{_name(part)}" if text else _name(part)
    return text
