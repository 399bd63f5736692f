"""gateway.yaml's JSON Schema (draft 2020-12), for editors and for `seawall schema`."""

from typing import Any

from gateway.config.schema import Config
from gateway.config.units import Unit

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SUBSTITUTION = {"$ref": "#/$defs/Substitution"}
_CONSTRAINTS = ("type", "enum", "const", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def json_schema() -> dict[str, Any]:
    """The schema of gateway.yaml as it is written: units in strings, `${VAR}` in the place of any scalar."""
    schema = raw_schema()
    definitions = schema.pop("$defs")
    for section in (schema, *definitions.values()):
        required = section.get("required", ())
        for name, value in section.get("properties", {}).items():
            section["properties"][name] = _as_written(value, optional=name not in required)
    _allow_yaml_1_1(definitions["RetryPolicy"])
    definitions["Substitution"] = {
        "title": "Substitution",
        "description": "An environment variable: ${VAR}, or ${VAR:-default}.",
        "type": "string",
        "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^{}]*)?\}",
    }
    return {"$schema": DIALECT, **schema, "title": "gateway.yaml", "$defs": definitions}


def _allow_yaml_1_1(retry: dict[str, Any]) -> None:
    """Lets tools that read YAML 1.1 validate a file: for them the key `on` is the boolean true, which JSON lacks."""
    del retry["additionalProperties"]
    retry["propertyNames"] = {"enum": [*retry["properties"], True]}


def raw_schema() -> dict[str, Any]:
    """pydantic's own schema of the models, with quantities marked by `x-unit`."""
    return Config.model_json_schema()


def _as_written(value: dict[str, Any], *, optional: bool = False) -> dict[str, Any]:
    value = dict(value)
    if (unit := value.pop("x-unit", None)) and isinstance(value.get("default"), int | float):
        value["default"] = Unit(unit).format(value["default"])
    if isinstance(value.get("items"), dict):
        value["items"] = _as_written(value["items"])
    if isinstance(value.get("additionalProperties"), dict):
        value["additionalProperties"] = _as_written(value["additionalProperties"])
    if "$ref" in value and optional:  # a section with all its keys commented out
        section = {"$ref": value.pop("$ref")}
        return {**value, "anyOf": [section, {"type": "null"}]}
    if "oneOf" in value:  # alternatives by `mode`, which may be left out
        alternatives = [*value.pop("oneOf"), {"type": "null"}]
        value.pop("discriminator", None)
        return {**value, "anyOf": alternatives}
    if "anyOf" in value:
        options = [_as_written(option) for option in value["anyOf"]]
        flat = [inner for option in options for inner in option.get("anyOf", [option])]
        value["anyOf"] = [option for number, option in enumerate(flat) if option not in flat[:number]]
        if _SUBSTITUTION in flat or any(_is_narrow(option) for option in flat):
            value["anyOf"] = [option for option in value["anyOf"] if option != _SUBSTITUTION] + [_SUBSTITUTION]
        return value
    if _is_narrow(value):
        narrow = {key: value.pop(key) for key in _CONSTRAINTS if key in value}
        value["anyOf"] = [narrow, _SUBSTITUTION]
    return value


def _is_narrow(schema: dict[str, Any]) -> bool:
    """Whether a scalar's schema would refuse the text of a substitution."""
    if schema.get("type") in ("integer", "number", "boolean"):
        return True
    return "enum" in schema or "const" in schema or "pattern" in schema
