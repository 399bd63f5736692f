import json
import re
from pathlib import Path

import pytest
import yaml

from gateway.config import json_schema, load_config, load_text
from gateway.config.check import check_file
from gateway.config.docs import page, schema_text

ROOT = Path(__file__).parents[3]


class _Loader(yaml.SafeLoader):
    """Leaves `on` and the like strings, as YAML 1.2 and editors do."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|false"), list("tf"))

TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}
BOUNDS = {
    "minimum": lambda value, bound: value >= bound,
    "maximum": lambda value, bound: value <= bound,
    "exclusiveMinimum": lambda value, bound: value > bound,
    "exclusiveMaximum": lambda value, bound: value < bound,
    "pattern": lambda value, bound: re.search(bound, value) is not None,
    "minItems": lambda value, bound: len(value) >= bound,
    "minProperties": lambda value, bound: len(value) >= bound,
    "maxLength": lambda value, bound: len(value) <= bound,
}
NOTES = {"title", "description", "default", "examples", "format", "writeOnly", "$schema", "$defs"}
OTHERS = {"$ref", "anyOf", "enum", "const", "type", "properties", "required", "additionalProperties", "items"}
OTHERS |= {"propertyNames"}


def fits(value, schema, root):
    """Whether a value fits a JSON Schema, for the keywords that ours uses."""
    assert schema.keys() <= NOTES | OTHERS | BOUNDS.keys(), schema.keys()
    if "$ref" in schema and not fits(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root):
        return False
    if "anyOf" in schema and not any(fits(value, option, root) for option in schema["anyOf"]):
        return False
    if ("enum" in schema and value not in schema["enum"]) or ("const" in schema and value != schema["const"]):
        return False
    kinds = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", [])
    if kinds and not any(
        isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool)) for kind in kinds
    ):
        return False
    if not all(BOUNDS[name](value, bound) for name, bound in schema.items() if name in BOUNDS):
        return False
    if isinstance(value, list) and "items" in schema:
        return all(fits(entry, schema["items"], root) for entry in value)
    if isinstance(value, dict):
        known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        if not value.keys() >= set(schema.get("required", ())):
            return False
        if "propertyNames" in schema and not value.keys() <= set(schema["propertyNames"]["enum"]):
            return False
        unknown = [entry for name, entry in value.items() if name not in known]
        return (
            all(fits(entry, known[name], root) for name, entry in value.items() if name in known)
            and (more is not False or not unknown)
            and all(fits(entry, more, root) for entry in unknown if isinstance(more, dict))
        )
    return True


def examples():
    return re.findall(r"```yaml\n(.*?)```", page(), re.DOTALL)


def test_the_page_and_the_schema_file_are_fresh():
    stale = "stale: run python -m gateway.config.docs"
    assert (ROOT / "docs/configuration.md").read_text(encoding="utf-8") == page(), stale
    assert (ROOT / "docs/gateway.schema.json").read_text(encoding="utf-8") == schema_text(), stale


def test_every_setting_has_a_description_and_is_on_the_page():
    text = page()
    for name, section in json_schema()["$defs"].items():
        for key, value in section.get("properties", {}).items():
            assert value.get("description") or "$ref" in json.dumps(value), f"{name}.{key}"
            assert f"| `{key}`" in text, f"{name}.{key}"


ENVIRON = {"SEAWALL_ADMIN_KEY": "a", "TEAM_A_KEY": "b"}


@pytest.mark.parametrize("text", examples(), ids=["smallest", "full"])
def test_the_pages_examples_are_sound_and_fit_the_json_schema(text):
    load_text(text, environ=ENVIRON)
    assert fits(yaml.load(text, _Loader), json_schema(), json_schema())


def test_the_shipped_configuration_has_no_warnings_and_fits_the_json_schema():
    report = check_file(ROOT / "gateway.yaml", {})
    assert (report.problems, report.warnings) == ([], [])
    text = (ROOT / "gateway.yaml").read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=docs/gateway.schema.json\n")
    assert fits(yaml.load(text, _Loader), json_schema(), json_schema())


def test_the_shipped_configuration_takes_its_port_from_the_environment():
    assert load_config(ROOT / "gateway.yaml", {}).server.port == 8080
    assert load_config(ROOT / "gateway.yaml", {"SEAWALL_PORT": "0"}).server.port == 0


@pytest.mark.parametrize(
    ("change", "fitting"),
    [
        ({"server": {"drain": "1m", "workers": "${N:-2}"}}, True),
        ({"server": {"drain": 5, "listen": "0.0.0.0:${PORT}"}}, True),
        ({"server": None}, True),
        ({"policies": {"p": {"retry": {"on": ["model_loading"]}, "hedge": {"after": "p95"}}}}, True),
        ({"policies": {"p": {"concurrency": {"mode": "fixed", "limit": 3}}}}, True),
        ({"policies": {"p": {"concurrency": {"max": 3}}}}, True),
        ({"server": {"drain": "1 fortnight"}}, False),
        ({"server": {"workers": "two"}}, False),
        ({"server": {"nonsense": 1}}, False),
        ({"policies": {"p": {"balance": "fair"}}}, False),
        ({"policies": {"p": {"retry": {"on": ["rate_limited"]}}}}, False),
        ({"policies": {"p": {"retry": {"attempts": 99}}}}, False),
        ({"policies": {"p": {"retry": {"atempts": 3}}}}, False),
        ({"policies": {"p": {"concurrency": {"mode": "fixed"}}}}, False),
        ({"backends": {"a": {"kind": "vllm"}}}, False),
        ({"routes": []}, False),
    ],
)
def test_the_json_schema_takes_what_is_sound_and_refuses_what_is_not(change, fitting):
    base = {"backends": {"a": {"url": "http://a"}}, "routes": [{"model": "m", "backends": ["a"], "fallback": ["a"]}]}
    assert fits({**base, **change}, json_schema(), json_schema()) is fitting


def test_every_default_and_example_in_the_json_schema_fits_it():
    root = json_schema()
    for section in root["$defs"].values():
        for key, value in section.get("properties", {}).items():
            rest = {name: part for name, part in value.items() if name not in ("default", "examples")}
            for given in ([value["default"]] if "default" in value else []) + value.get("examples", []):
                assert fits(given, rest, root), key
