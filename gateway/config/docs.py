"""Writes docs/configuration.md and docs/gateway.schema.json from the schema: `python -m gateway.config.docs [DIR]`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.config.jsonschema import json_schema, raw_schema
from gateway.config.units import Unit

INTRODUCTION = """\
# Configuration

<!-- Written by `python -m gateway.config.docs` from the schema. Change the schema, not this page. -->

Seawall reads one YAML file, `gateway.yaml`. `seawall check gateway.yaml` says everything that is wrong or doubtful in
it, with line and column, and what a request may cost at worst. SIGHUP or a change of the file reloads it, whole or not
at all. `seawall schema` prints its JSON Schema; editors find it through the file's first line:

```
# yaml-language-server: $schema=docs/gateway.schema.json
```

The smallest configuration names a backend and a route:

```yaml
backends:
  llama: {url: "http://10.0.0.5:8000", kind: vllm}
routes:
  - {model: "*", backends: [llama]}
```

And this one uses most of what there is:

```yaml
server:
  listen: 0.0.0.0:${PORT:-8080}
  max_body: 20MiB
  trusted_proxies: [10.0.0.0/8]
  admin: {listen: 127.0.0.1:9090, key: "${SEAWALL_ADMIN_KEY}"}
auth:
  keys:
    - {name: team-a, key: "${TEAM_A_KEY}", models: ["llama*"], requests_per_minute: 600, priority: 5}
backends:
  llama-a: {url: "http://10.0.0.5:8000", kind: vllm, context_length: 32768}
  llama-b: {url: "http://10.0.0.6:8000", kind: vllm, context_length: 32768, weight: 2, max_concurrency: 64}
  small: {url: "http://10.0.0.7:8000", kind: vllm, model: qwen-0.5b, health: {probe: generate, interval: 10s}}
  sdxl: {url: "http://10.0.0.8:8000", kind: diffusers}
routes:
  - model: [llama-3.1-8b, "llama-3.1-8b-*"]
    backends: [llama-a, llama-b]
    fallback: [{backend: small, model: qwen-0.5b}]
    policy: chat
  - {model: sdxl, backends: [sdxl], policy: images}
policies:
  default:
    retry: {attempts: 4}
  chat:
    timeout: {first_token: 20s, total: 5m}
    hedge: {after: p95}
  images:
    extends: chat
    timeout: {first_token: 90s}
    concurrency: {mode: fixed, limit: 2}
    hedge: {after: null}
observability: {log: {format: json}}
state: {redis: "${REDIS_URL:-redis://127.0.0.1:6379/0}"}
```

## How values are written

- **Durations**: `250ms`, `2s`, `1.5m`, `1h`; a bare number is seconds.
- **Sizes**: `64KiB`, `20MiB` (1024s), `64kB`, `20MB` (1000s); a bare whole number is bytes.
- **Scalars** follow YAML 1.2: flags are `true` and `false`; `yes`, `on` and `1:30` are strings.
- **Environment**: `${VAR}` and `${VAR:-default}` stand anywhere in a string; `:-` also covers an empty variable, a
  missing one without a default is an error, and `$$` is a dollar sign. A value that is one substitution and nothing
  else is typed as if it were written there: `workers: ${WORKERS:-4}` is a number. Inside `{...}` and `[...]` YAML wants
  it in quotes, which changes nothing: `{workers: "${WORKERS:-4}"}`.
- **Unknown keys** and keys written twice are errors. A section with nothing below it is as if left out.
- Anchors, aliases and merge keys (`<<`) work. The file is UTF-8, of at most 1 MiB.

## How policies build on each other

`default` always exists. Every other policy builds on the one it names in `extends`, or on `default`: sections are
merged key by key, lists and plain values are replaced. Writing `default` changes what all others build on; it extends
nothing itself. `images` exists too, as `{timeout: {first_token: 2m}}`, until you write your own.
A `concurrency` of another `mode` replaces the inherited one whole.

`retry.attempts` counts the attempts of a request over all tiers together, the first included; each further tier of a
route is granted one more, so a request makes at most `retry.attempts` and one for each fallback tier.
"""


def page() -> str:
    """The whole of docs/configuration.md."""
    schema = raw_schema()
    sections = "\n".join(_sections(schema, schema["$defs"]))
    return f"{INTRODUCTION}\n## All settings\n\n{sections}"


def _sections(schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[str]:
    for name, value in schema["properties"].items():
        entries = {"dict": "<name>", "list": "[]", "": ""}[_collection(value)]
        path = f"{name}.{entries}" if entries.startswith("<") else name + entries
        yield from _section(path, _target(value, definitions), definitions)


def _section(path: str, section: dict[str, Any], definitions: dict[str, Any]) -> Iterator[str]:
    """A heading and a table for one section, then its subsections."""
    yield f"### `{path}`\n"
    yield f"{section['description']}\n"
    if "oneOf" in section:
        yield from _alternatives(section, definitions)
        return
    below: list[tuple[str, dict[str, Any]]] = []
    yield "| Key | Type | Default | Meaning |"
    yield "|---|---|---|---|"
    for name, value in section["properties"].items():
        target = _target(value, definitions)
        is_section = "properties" in target or "oneOf" in target
        text = value.get("description") or target.get("description", "")
        if is_section:
            suffix = "[]" if _collection(value) == "list" else ""
            below.append((f"{path}.{name}{suffix}", target))
        yield _row(name, value, section, text)
    yield ""
    for where, target in below:
        yield from _section(where, target, definitions)


def _alternatives(section: dict[str, Any], definitions: dict[str, Any]) -> Iterator[str]:
    yield "| Key | Type | Default | Meaning |"
    yield "|---|---|---|---|"
    for option in section["oneOf"]:
        alternative = definitions[option["$ref"].rpartition("/")[2]]
        mode = alternative["properties"]["mode"]["const"]
        for name, value in alternative["properties"].items():
            text = alternative["description"] if name == "mode" else value["description"]
            yield _row(name if name == "mode" else f"{name} (`{mode}`)", value, alternative, text)
    yield ""


def _row(name: str, value: dict[str, Any], section: dict[str, Any], text: str) -> str:
    key, _, note = name.partition(" ")
    default = "required" if key in section.get("required", ()) else _default(value)
    example = ""
    if (examples := value.get("examples")) and default not in (written := f"`{_written(examples[0])}`", "required"):
        example = f" Such as {written}."
    cells = (f"`{key}`{' ' + note if note else ''}", _type(value), default, text + example)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _collection(value: dict[str, Any]) -> str:
    if isinstance(value.get("additionalProperties"), dict):
        return "dict"
    return "list" if value.get("type") == "array" else ""


def _target(value: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The section that a property holds, itself or in a list, a mapping or beside null; else the property."""
    inner = value.get("items") or value.get("additionalProperties") or value
    if isinstance(inner, dict):
        options = [inner, *inner.get("anyOf", ())]
        reference = next((option["$ref"] for option in options if "$ref" in option), None)
        if reference is not None:
            return dict(definitions[reference.rpartition("/")[2]])
    return value


def _default(value: dict[str, Any]) -> str:
    if "default" not in value:
        return "see below" if "$ref" in value or "anyOf" in value or "oneOf" in value else "none"
    default = value["default"]
    if isinstance(default, int | float) and not isinstance(default, bool) and "x-unit" in value:
        return f"`{Unit(value['x-unit']).format(default)}`"
    return f"`{_written(default)}`" if default != "" else "its first `model`"


def _written(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value).replace('"', "") if isinstance(value, list | dict) else json.dumps(value)


def _type(value: dict[str, Any]) -> str:
    if "x-unit" in value:
        options = [option for option in value["anyOf"] if option.get("type") not in ("number", "integer", "string")]
        return " or ".join([value["x-unit"], *map(_type, options)])
    if "$ref" in value or "oneOf" in value or "properties" in value:
        return "section"
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(map(_type, value["anyOf"])))
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    kind = value.get("type")
    if kind == "array":
        entry = _type(value["items"])
        return f"list of ({entry})" if " or " in entry else f"list of {entry}"
    if kind == "object":
        return "mapping"
    if kind == "string":
        return "secret" if value.get("format") == "password" else "string"
    names = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`", "null": "`null`"}
    return names[str(kind)] + _range(value)


def _range(value: dict[str, Any]) -> str:
    low = value.get("exclusiveMinimum", value.get("minimum"))
    high = value.get("exclusiveMaximum", value.get("maximum"))
    if low is None:
        return ""
    words = f" above {low}" if "exclusiveMinimum" in value else f" from {low}"
    if high is None or high >= 2**31 - 1:
        return words
    return f"{words} {'below' if 'exclusiveMaximum' in value else 'to'} {high}"


def schema_text() -> str:
    """The whole of docs/gateway.schema.json."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    (folder / "configuration.md").write_text(page(), encoding="utf-8")
    (folder / "gateway.schema.json").write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
