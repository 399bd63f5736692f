"""What an endpoint says when a first attempt glances at it: the same as when it is asked everything one by one."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest

from gateway.config import load_config
from gateway.endpoint import Endpoint, Service
from gateway.runtime import build
from policies.outcome import ErrorKind, Failure

_NOW = 1000.0
_CONFIG = """\
backends: {a: {url: "http://127.0.0.1:1", kind: vllm, weight: 2, max_concurrency: 4}}
routes: [{model: m, backends: [a]}]
policies: {default: {circuit_breaker: {open_for: 10s, half_open_probes: 1}}}
"""


@pytest.fixture
async def endpoint(tmp_path: Path) -> Endpoint:
    path = tmp_path / "gateway.yaml"
    path.write_text(_CONFIG)
    return build(load_config(path), None, random.Random(1)).endpoints["a"]


def _fill(endpoint: Endpoint) -> None:
    endpoint.in_flight = 4


def _say_busy(endpoint: Endpoint) -> None:
    permit = endpoint.begin(_NOW)
    endpoint.end(permit, Failure(ErrorKind.MODEL_OVERLOADED), 0.1, _NOW)


def _miss(endpoint: Endpoint) -> None:
    permit = endpoint.begin(_NOW)
    endpoint.end(permit, Failure(ErrorKind.BACKEND_UNREACHABLE), 0.1, _NOW)


def _strain(endpoint: Endpoint) -> None:
    endpoint.strained = True


def _shrink(endpoint: Endpoint) -> None:
    endpoint.in_flight = 3
    endpoint.limiter.limit = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "hinder",
    [
        _fill,
        _shrink,
        _say_busy,
        _miss,
        _strain,
        lambda endpoint: endpoint.breaker.trip(_NOW),
        lambda endpoint: endpoint.set_service(Service.DRAINING, _NOW),
    ],
)
async def test_whatever_speaks_against_it_makes_its_burden_infinite(
    endpoint: Endpoint, hinder: Callable[[Endpoint], None]
) -> None:
    assert endpoint.burden(_NOW) == 0.0
    hinder(endpoint)
    assert endpoint.burden(_NOW) == inf


async def test_else_its_burden_is_its_load(endpoint: Endpoint) -> None:
    endpoint.in_flight, endpoint.waiting, endpoint.kv_cache = 3, 2.0, 0.5
    assert endpoint.burden(_NOW) == endpoint.load(_NOW) == 2.75


async def test_one_on_probation_is_glanced_at_like_any_other_until_its_permits_are_out(endpoint: Endpoint) -> None:
    endpoint.breaker.trip(_NOW)
    after = _NOW + 11.0
    assert endpoint.burden(after) == 0.0
    endpoint.begin(after)
    assert endpoint.burden(after) == inf


async def test_one_that_answers_again_after_a_miss_can_be_asked(endpoint: Endpoint) -> None:
    _miss(endpoint)
    endpoint.vitality.seen(_NOW + 1.0)
    assert endpoint.burden(_NOW + 1.0) == 0.0


async def test_a_glance_brings_back_the_weight_of_one_whose_circuit_has_closed(endpoint: Endpoint) -> None:
    endpoint.breaker.trip(_NOW)
    endpoint.breaker.reset(_NOW)
    endpoint.burden(_NOW)
    first = endpoint.weight
    endpoint.burden(_NOW + 60.0)
    assert (first < 0.5, endpoint.weight) == (True, 2.0)
