"""The gateway's own OpenAPI document: valid, complete, and requests made from it find nothing amiss."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from gateway.openapi import document
from gateway.paths import DATA_PATHS
from tests.integration.test_operations import config
from tests.support import parts
from tests.support.fault_backend import FaultBackend
from tests.support.gateway import running_gateway

_TOOLS = ("schemathesis==4.32.5", "openapi-spec-validator==0.9.0")
_VERBS = {"get", "post", "put", "patch", "delete"}


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, verb, operation)
        for path, item in document()["paths"].items()
        for verb, operation in item.items()
        if verb in _VERBS
    ]


def test_every_schema_is_one_and_every_reference_leads_somewhere() -> None:
    found = document()
    for path, _, operation in operations():
        for content in operation.get("requestBody", {}).get("content", {}).values():
            Draft202012Validator.check_schema(content["schema"])
        assert operation["responses"]["default"], path
    for schema in found["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for reference in re.findall(rb'"\$ref":"#/components/schemas/([^"]+)"', orjson.dumps(found)):
        assert reference.decode() in found["components"]["schemas"]
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(names) == len(set(names))


def test_parameters_of_paths_are_declared() -> None:
    for path, _, operation in operations():
        declared = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
        assert declared == set(re.findall(r"\{(\w+)\}", path)), path


async def test_the_document_names_every_path_and_method_that_is_served() -> None:
    named = {(path, verb) for path, verb, _ in operations()}
    assert {(path, "post") for path in DATA_PATHS} <= named
    assert {("/v1/models", "get"), ("/v1/models/{model}", "get"), ("/openapi.json", "get")} <= named
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        application = gateway.gateway._ops_runner.app
        for route in application.router.routes():
            path = re.sub(r":[^}]+\}", "}", route.resource.canonical).rstrip("/") if route.resource else ""
            if route.method.lower() in _VERBS and "static" not in path and "." not in path.removesuffix("openapi.json"):
                pattern = re.escape(path).replace(r"\{verb\}", r"\w+")  # one for each verb in the document
                assert any(re.fullmatch(pattern, name) and verb == route.method.lower() for name, verb in named), path
        served = await gateway.get("/openapi.json")
        assert served.json == orjson.loads(orjson.dumps(document()))


@pytest.fixture(scope="module")
def tools() -> Path:
    """The programs of Schemathesis and a validator, in an environment of their own."""
    return parts.environment("schemathesis", *_TOOLS)


@pytest.mark.slow
def test_the_document_is_valid_openapi_3_1(tools: Path, tmp_path: Path) -> None:
    path = tmp_path / "openapi.json"
    path.write_bytes(orjson.dumps(document()))
    subprocess.run([tools / "python", "-m", "openapi_spec_validator", path], check=True, timeout=60)


@pytest.mark.slow
async def test_schemathesis_finds_nothing(tools: Path) -> None:
    checks = "not_a_server_error,content_type_conformance,response_schema_conformance"
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        command = [tools / "schemathesis", "run", gateway.url + "/openapi.json", "--checks", checks]
        command += ["--max-examples", "25", "--seed", "1", "--no-color", "--phases", "examples,coverage,fuzzing"]
        command += ["--mode", "all", "--exclude-path-regex", "^/admin", "--request-timeout", "10"]
        process = await asyncio.create_subprocess_exec(
            *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        try:
            async with asyncio.timeout(400):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        sys.stdout.write(output.decode()[-20000:])
        assert process.returncode == 0
        assert gateway.gateway.services.in_flight == 0
