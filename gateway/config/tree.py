"""YAML text to a tree that knows where everything was written.

Scalars are read by YAML 1.2's core schema, not PyYAML's YAML 1.1: `on`, `no`, `1:30` and `2026-01-01` are strings
(gateway.yaml has a key `on`), and editors agree.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import yaml

from gateway.config.problems import Problem, shown
from gateway.config.scalars import FromEnv, typed
from gateway.config.substitute import SubstitutionError, is_whole, substitute

MAX_FILE = 2**20
_MAX_DEPTH = 40
_MAX_NODES = 200_000  # aliases counted as often as they are used

#: Keys and list positions from the root.
Path = tuple[str | int, ...]

_WORD = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_SURROGATE = re.compile(r"[\ud800-\udfff]")

_PLAIN = "plain"  # stands for an unquoted, untagged scalar; no YAML tag looks like it
_STR = "tag:yaml.org,2002:str"


class _Unknown:
    """Stands where a value could not be read: its problem is told already, and no other one follows from it."""


UNKNOWN = _Unknown()


@dataclass(frozen=True, slots=True)
class Position:
    """Line and column, from 1."""

    line: int
    column: int


@dataclass(slots=True, eq=False)
class Node:
    """A scalar, or a dict or list of Nodes, with where it stands and, in `keys`, where its keys stand."""

    value: Any
    at: Position
    keys: dict[str, Position] = field(default_factory=dict)
    size: int = 1
    depth: int = 1

    def plain(self) -> Any:
        """The plain data below."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def find(self, path: Path) -> tuple["Node", Path, Position]:
        """The deepest node on the way along `path`, the path to it, and where to point at for it.

        Steps that lead nowhere are left out. A mapping's or list's entry is pointed at by its key, where it has one.
        """
        node, at = self, self.at
        found: Path = ()
        for step in path:
            child: Node | None = None
            if isinstance(node.value, dict) and isinstance(step, str):
                child = node.value.get(step)
            elif isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
                child = node.value[step]
            if child is not None:
                composite = isinstance(child.value, dict | list)
                at = node.keys.get(cast(str, step), child.at) if composite else child.at
                node, found = child, (*found, step)
        return node, found, at


class ParseError(Exception):
    """The text is not YAML, or not a file Seawall takes; holds the one problem that ended the reading."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def parse(text: str, name: str, environ: Mapping[str, str]) -> tuple[Node | None, list[Problem]]:
    """Reads one YAML document and fills in the environment; None if it holds nothing.

    Problems that reading can go on after are returned; others raise ParseError.
    """
    if len(text) > MAX_FILE:
        raise ParseError(Problem(name, 0, 0, "", "the file is larger than 1 MiB"))
    try:
        document = _compose(text)
    except yaml.YAMLError as error:
        raise ParseError(_syntax_problem(error, text, name)) from None
    except (ValueError, OverflowError, RecursionError):  # PyYAML on bad escapes such as "\UFFFFFFFF"
        raise ParseError(Problem(name, 0, 0, "", "the file holds an escape or number that YAML can't")) from None
    if document is None:
        return None, []
    builder = _Builder(name, environ)
    try:
        return builder.build(document, ()), builder.problems
    except yaml.MarkedYAMLError as error:
        raise ParseError(_syntax_problem(error, text, name)) from None


class _Loader(yaml.SafeLoader):
    """Composes nodes, bounded in depth and number, and leaves the typing of scalars to us."""

    depth = 0
    count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        self.count += 1
        if self.depth > _MAX_DEPTH or self.count > _MAX_NODES:
            limit = f"{_MAX_DEPTH} levels" if self.depth > _MAX_DEPTH else f"{_MAX_NODES} values"
            raise yaml.MarkedYAMLError(
                problem=f"the file has more than {limit}", problem_mark=cast(Any, self).peek_event().start_mark
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is yaml.ScalarNode:
            return _PLAIN if implicit[0] else _STR
        return ""


def _compose(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


class _Builder:
    """Turns PyYAML's nodes into ours: aliases shared, merge keys applied, duplicates refused, scalars typed."""

    def __init__(self, name: str, environ: Mapping[str, str]) -> None:
        self.name = name
        self.environ = environ
        self.problems: list[Problem] = []
        self._built: dict[int, Node] = {}
        self._open: set[int] = set()

    def build(self, node: yaml.Node, path: Path) -> Node:
        if (done := self._built.get(id(node))) is not None:
            return done
        if id(node) in self._open:
            raise yaml.MarkedYAMLError(problem="the anchor contains itself", problem_mark=node.start_mark)
        self._open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            built = self._mapping(node, path)
        elif isinstance(node, yaml.SequenceNode):
            children = [self.build(child, (*path, number)) for number, child in enumerate(node.value)]
            built = _composite(children, _at(node), {}, children)
        else:
            built = self._scalar(cast(yaml.ScalarNode, node), path)
        if node.tag not in ("", _PLAIN, _STR):
            self._report(node, path, "tags are not supported", "leave the !... out")
            built = Node(UNKNOWN, _at(node))
        # Aliases can nest deeper, and be more, than what is written.
        if built.size > _MAX_NODES or built.depth > _MAX_DEPTH:
            limit = f"{_MAX_DEPTH} levels" if built.depth > _MAX_DEPTH else f"{_MAX_NODES} values"
            raise yaml.MarkedYAMLError(
                problem=f"with its aliases the file has more than {limit}", problem_mark=node.start_mark
            )
        self._open.discard(id(node))
        self._built[id(node)] = built
        return built

    def _mapping(self, node: yaml.MappingNode, path: Path) -> Node:
        values: dict[str, Node] = {}
        keys: dict[str, Position] = {}
        sources: list[Node] = []
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or _SURROGATE.search(key_node.value):
                self._report(key_node, path, "a key must be a string")
                continue
            key = key_node.value
            child = self.build(value_node, (*path, key))
            if key == "<<" and key_node.tag == _PLAIN:
                sources += self._merge_sources(child, value_node, path)
            elif key in values:
                self._report(key_node, (*path, key), "the key is there twice", f"first in line {keys[key].line}")
            else:
                values[key], keys[key] = child, _at(key_node)
        own = list(values.values())
        for source in sources:
            for key, child in source.value.items():
                if key not in values:
                    values[key], keys[key] = child, source.keys[key]
        return _composite(values, _at(node), keys, own + sources)

    def _merge_sources(self, child: Node, node: yaml.Node, path: Path) -> list[Node]:
        sources = child.value if isinstance(child.value, list) else [child]
        if all(isinstance(source.value, dict) for source in sources):
            return list(sources)
        self._report(node, (*path, "<<"), "a merge key needs a mapping or a list of them", "such as <<: *name")
        return []

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Node:
        text: str = node.value
        whole = is_whole(text)
        try:
            text = substitute(text, self.environ)
        except SubstitutionError as error:
            self._report(node, path, *error.args)
            return Node(UNKNOWN, _at(node))
        if _SURROGATE.search(text):
            self._report(node, path, "is not valid Unicode text")
            return Node(UNKNOWN, _at(node))
        value: Any = text
        if node.tag == _PLAIN and not ("$" in node.value and not whole):
            value = typed(text)
        if whole and value is not None:
            value = FromEnv(text)
        return Node(value, _at(node))

    def _report(self, node: yaml.Node, path: Path, message: str, hint: str = "") -> None:
        at = _at(node)
        self.problems.append(Problem(self.name, at.line, at.column, dotted(path), message, hint))


def _composite(value: Any, at: Position, keys: dict[str, Position], parts: list[Node]) -> Node:
    size = 1 + sum(part.size for part in parts)
    return Node(value, at, keys, size, 1 + max((part.depth for part in parts), default=0))


def _at(node: yaml.Node) -> Position:
    return Position(node.start_mark.line + 1, node.start_mark.column + 1)


def dotted(path: Path) -> str:
    """`("routes", 0, "model")` as `routes[0].model`; keys that are not plain words in quotes."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _WORD.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{shown(step)}]"
    return text


def _syntax_problem(error: yaml.YAMLError, text: str, name: str) -> Problem:
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        return Problem(name, line, column, "", "a character that YAML does not allow", "remove it, or escape it")
    if not isinstance(error, yaml.MarkedYAMLError):
        return Problem(name, 0, 0, "", "the file is not YAML")
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    message = error.problem or "the file is not YAML"
    if error.context and "expected a single document" in error.context:
        message = "the file holds more than one YAML document"
    elif error.context:
        message = f"{message}, {error.context}"
    lines = text.splitlines()
    written = lines[line - 1] if 0 < line <= len(lines) else ""
    return Problem(name, line, column, "", message, _syntax_hint(message, written))


def _syntax_hint(message: str, line: str) -> str:
    if "'\\t'" in message or line.lstrip(" ").startswith("\t"):
        return "YAML is indented with spaces, not tabs"
    if "${" in line and "flow" in message:
        return 'inside {...} and [...] put ${VAR} in quotes: "${VAR}"'
    if "mapping values are not allowed" in message or "expected ':'" in message or "block end" in message:
        return "look for wrong indentation, an open quote, or a colon without a space after it"
    return ""
