"""gateway.yaml: its schema, loader and checks."""

from gateway.config.jsonschema import json_schema
from gateway.config.loader import load_config, load_text
from gateway.config.problems import ConfigError, Problem
from gateway.config.schema import Config

__all__ = ["Config", "ConfigError", "Problem", "json_schema", "load_config", "load_text"]
