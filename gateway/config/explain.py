"""pydantic's errors as problems with a place in the file and words that help."""

import re
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from gateway.config.inherit import lineage
from gateway.config.problems import Problem, closest, kind_of, shown
from gateway.config.scalars import typed
from gateway.config.schema import Config
from gateway.config.tree import UNKNOWN, Node, Path, Position, dotted

_Details = Mapping[str, Any]


def explain(error: ValidationError, root: Node, name: str) -> list[Problem]:
    """One problem for each of pydantic's errors, but for those that only follow from another one."""
    problems = (_problem(details, root, name) for details in error.errors(include_url=False))
    return [problem for problem in problems if problem is not None]


def _problem(error: Any, root: Node, name: str) -> Problem | None:
    location: Path = error["loc"]
    node, path, at = locate(root, location)
    if _follows_from_another(error["type"], node):
        return None
    message, hint = _words(error, location)
    match error["type"]:
        case "extra_forbidden":
            at = _key_position(root, path) or at
        case "missing":
            path = (*path, location[-1])
        case "invalid" if key := error["ctx"]["key"]:
            child = node.value.get(key) if isinstance(node.value, dict) else None
            path, at = (*path, key), (child.at if child else at)
        case _ if location and location[-1] == "[key]":
            at = _key_position(root, path) or at
    return Problem(name, at.line, at.column, dotted(path), message, hint)


def locate(root: Node, location: Path) -> tuple[Node, Path, Position]:
    """Finds what an error is about: what a policy inherited is found in the ancestor that wrote it."""
    best = root.find(location)
    policies = root.value.get("policies")
    if len(location) > 1 and location[0] == "policies" and policies and isinstance(policies.value, dict):
        chain, _ = lineage(str(location[1]), policies.plain())
        for ancestor in chain[1:]:
            found = root.find(("policies", ancestor, *location[2:]))
            if len(found[1]) > len(best[1]):
                best = found
    return best


def _follows_from_another(kind: str, node: Node) -> bool:
    if kind == "too_short" and node.value:  # pydantic counts only the sound entries
        return True
    if kind == "union_tag_invalid" and isinstance(node.value, dict):
        return any(child.value is UNKNOWN for child in node.value.values())
    return node.value is UNKNOWN


def _key_position(root: Node, path: Path) -> Position | None:
    parent, _, _ = root.find(path[:-1])
    return parent.keys.get(str(path[-1])) if path else None


def _words(error: Any, location: Path) -> tuple[str, str]:
    """What is wrong, and a hint."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return "unknown key", _known_keys(location)
    if kind in ("literal_error", "enum", "union_tag_invalid"):
        return _not_one_of(context.get("expected") or context["expected_tags"], value, context)
    if (words := _WORDS.get(kind)) is not None:
        return words(value, context)
    if kind == "invalid":
        return context["reason"], context["hint"]
    return error["msg"], ""


def _not_one_of(expected: str, value: Any, context: _Details) -> tuple[str, str]:
    choices = re.findall(r"'([^']*)'", expected)
    written = context.get("tag", value)
    message = f"must be one of {', '.join(choices)}, not {shown(written)}"
    hint = closest(written, choices) if isinstance(written, str) else ""
    return message, hint if hint.startswith("did") else ""


def _must_be(what: str, hint: str = "", if_quoted: tuple[type, ...] = ()) -> Callable[[Any, _Details], tuple[str, str]]:
    """`hint` is given for strings; with `if_quoted`, only for those that are a value of such a type in quotes."""

    def words(value: Any, _: _Details) -> tuple[str, str]:
        fits = isinstance(value, str) and (not if_quoted or type(typed(value)) in if_quoted)
        return f"must be {what}, not {kind_of(value)}", hint if fits else ""

    return words


def _bound(words: str, key: str) -> Callable[[Any, _Details], tuple[str, str]]:
    return lambda value, context: (f"must be {words} {shown(context[key])}, not {shown(value)}", "")


def _text(value: Any, _: _Details) -> tuple[str, str]:
    # The value stays out of it: the field may be a secret.
    scalar = isinstance(value, bool | int | float)
    return f"must be a string, not {kind_of(value)}", "put it in quotes" if scalar else ""


_MAPPING = _must_be("a mapping (key: value)")
_NO_QUOTES = "leave out the quotes"
_WORDS: dict[str, Callable[[Any, _Details], tuple[str, str]]] = {
    "missing": lambda _, __: ("is required", ""),
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "dict_type": _MAPPING,
    "list_type": _must_be("a list"),
    "tuple_type": _must_be("a list", "put it in [ ]"),
    "int_type": _must_be("a whole number", _NO_QUOTES, (int,)),
    "int_from_float": _must_be("a whole number"),
    "float_type": _must_be("a number", _NO_QUOTES, (int, float)),
    "finite_number": _must_be("a finite number"),
    "bool_type": _must_be("true or false", _NO_QUOTES, (bool,)),
    "string_type": _text,
    "too_short": lambda _, __: ("must not be empty", ""),
    "string_too_long": lambda _, context: (f"must be at most {context['max_length']} characters long", ""),
    "greater_than": _bound("more than", "gt"),
    "greater_than_equal": _bound("at least", "ge"),
    "less_than": _bound("less than", "lt"),
    "less_than_equal": _bound("at most", "le"),
}


def _known_keys(location: Path) -> str:
    """A hint for a key that its section doesn't know."""
    key = str(location[-1])
    sections = _sections_at(location[:-1])
    for section in sections:
        if key in section.model_fields:  # of a sibling in a union of modes
            return f"{key} goes with mode: {get_args(section.model_fields['mode'].annotation)[0]}"
    return closest(key, {field for section in sections for field in section.model_fields})


def _sections_at(location: Path) -> list[type[BaseModel]]:
    """The models that may stand at a place; several where they are alternatives."""
    current: list[Any] = [Config]
    for step in location:
        below: list[Any] = []
        for kind in current:
            if get_origin(kind) in (dict, tuple):
                below += _alternatives(get_args(kind)[1 if get_origin(kind) is dict else 0])
            elif issubclass(kind, BaseModel) and step in kind.model_fields:
                below += _alternatives(kind.model_fields[str(step)].annotation)
        current = below or current  # a step that leads nowhere is a union's tag
    return [kind for kind in current if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _alternatives(annotation: Any) -> list[Any]:
    """What an annotation stands for: its sections and collections, without None and plain values."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for option in get_args(annotation) for kind in _alternatives(option)]
    if get_origin(annotation) in (dict, tuple):
        return [annotation]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
