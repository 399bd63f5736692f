"""Runs one subject through one scenario, and what is made of the outcomes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.chaos.fleet import ROOT, Fleet
from benchmarks.chaos.load import TOKENS, Load, Outcome, read_slowly
from benchmarks.chaos.scenarios import END, LAST, Scenario
from benchmarks.chaos.subjects import Subject
from benchmarks.subjects import VERSIONS
from tests.support.processes import free_port

#: Seconds of silence within an answer that are worth a story.
_LONG = 0.5


@dataclass(frozen=True, slots=True)
class Result:
    """Shares are of all requests of that kind, 0 to 1, and times in seconds. `amplification`: backend requests per
    client's request. `wasted`: tokens generated that no client got, per client's request. `recovery`: from the end of
    the fault to the end of the last request that failed; 0 when none failed after it. `aborted`: from the moment at
    which a client left to the end of its backend request, at worst; None where nobody left. `late`: how long after its
    time a request was sent, at worst; where that is much, the machine was busy, and times say little.
    `version`: of a peer."""

    subject: str
    scenario: str
    requests: int
    unary_exact: float
    streams_exact: float
    silent: int
    p99: float
    stall: float
    amplification: float
    wasted: float
    recovery: float
    aborted: float | None
    why: dict[str, int]
    late: float = 0.0
    version: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


async def run(subject: Subject, scenario: Scenario, *, rate: float = 40.0, logs: Path | None = None) -> Result:
    """Starts everything anew, breaks it on time, and counts.

    Raises RuntimeError if the subject does not start, or gives a slow reader no stream.
    """
    loop = asyncio.get_running_loop()
    async with Fleet() as fleet:
        urls = {name: backend.url for name, backend in fleet.backends.items()}
        port = free_port()
        with tempfile.TemporaryDirectory() as work:
            log = Path(work, "log") if logs is None else logs / f"{subject.name}-{scenario.name}.log"
            async with _running(subject, Path(work), port, urls, log):
                url = f"http://127.0.0.1:{port}/v1/chat/completions"
                load = Load(url, subject.headers(urls), rate, leavers=scenario.leavers)
                began = loop.time()
                acting = asyncio.create_task(_act(fleet, scenario, began))
                readers = [
                    asyncio.create_task(read_slowly("127.0.0.1", port, LAST))
                    for _ in range(5 if scenario.slow_readers else 0)
                ]
                await load.run(LAST)
                healed = max(began + END, await acting)
                if logs is not None:
                    stories = await _stories(f"http://127.0.0.1:{port}", load.outcomes, began)
                    log.with_suffix(".json").write_text(json.dumps(stories, indent=1) + "\n")
                await asyncio.gather(*readers)
    found = summary(subject.name, scenario, load.outcomes, fleet.seen(), healed)
    return replace(found, late=round(load.late, 3), version=VERSIONS.get(subject.name, ""))


async def _stories(url: str, outcomes: list[Outcome], began: float) -> list[dict[str, Any]]:
    """How each request went that failed, was silent for long, or is of the slowest hundredth, with its attempts where
    the gateway tells of them; seconds from `began`."""
    slowest = sorted(outcomes, key=lambda outcome: outcome.began - outcome.ended)[: len(outcomes) // 100 + 1]
    stories = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        for outcome in outcomes:
            if outcome.verdict in ("failed", "silent") or outcome.stall > _LONG or outcome in slowest:
                story = None
                with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError, ValueError):
                    async with session.get(f"{url}/requests/{outcome.request_id}") as answer:
                        story = await answer.json()
                times = {"began": outcome.began - began, "ended": outcome.ended - began}
                stories.append(asdict(outcome) | times | {"story": story})
    return stories


async def _act(fleet: Fleet, scenario: Scenario, began: float) -> float:
    """Lets the scenario happen; the loop time at which the last act was done (a process takes a while to start)."""
    loop = asyncio.get_running_loop()
    for act in scenario.acts:
        await asyncio.sleep(max(0.0, began + act.at - loop.time()))
        await fleet.backends[act.backend].act(act)
    return loop.time()


@contextlib.asynccontextmanager
async def _running(subject: Subject, work: Path, port: int, urls: dict[str, str], logged: Path) -> Any:
    argv = subject.command(work, port, urls)
    environ = os.environ | subject.env | {"PYTHONPATH": str(ROOT)}
    log = logged.open("wb")
    process = await asyncio.create_subprocess_exec(
        *argv, cwd=ROOT, env=environ, stdout=log, stderr=log, start_new_session=True
    )
    try:
        await _ready(subject, process, port, urls)
        yield
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        log.close()


async def _ready(subject: Subject, process: asyncio.subprocess.Process, port: int, urls: dict[str, str]) -> None:
    """Waits until three requests in a row are answered right."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "warm up"}], "max_tokens": 1}
    good = 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        for _ in range(300):
            if process.returncode is not None:
                break
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                url = f"http://127.0.0.1:{port}/v1/chat/completions"
                async with session.post(url, json=body, headers=subject.headers(urls)) as answer:
                    await answer.read()
                    good = good + 1 if answer.status == 200 else 0
            if good == 3:
                return
            await asyncio.sleep(0.05 if good else 0.2)
    raise RuntimeError(f"{subject.name} did not start")


def summary(
    subject: str, scenario: Scenario, outcomes: list[Outcome], seen: list[dict[str, Any]], healed: float
) -> Result:
    """What a person wants to know of a run."""
    right = {"exact", "reduced", "left"} | ({"refused"} if scenario.refused else set())
    unary = [outcome for outcome in outcomes if not outcome.stream]
    streams = [outcome for outcome in outcomes if outcome.stream]
    after = [outcome.ended - healed for outcome in outcomes if outcome.verdict not in right and outcome.ended > healed]
    times = sorted(outcome.ended - outcome.began for outcome in outcomes if outcome.verdict in right)
    got = sum(outcome.tokens for outcome in outcomes)
    made = sum(min(request["tokens_sent"], TOKENS) for request in seen)
    return Result(
        subject,
        scenario.name,
        len(outcomes),
        _share(unary, right),
        _share(streams, right),
        sum(outcome.verdict == "silent" for outcome in outcomes),
        round(times[int(len(times) * 0.99)], 3) if times else float("inf"),
        round(max((outcome.stall for outcome in streams), default=0.0), 3),
        round(len(seen) / max(1, len(outcomes)), 3),
        round(max(0, made - got) / max(1, len(outcomes)), 2),
        round(max(after, default=0.0), 2),
        _aborted(outcomes, seen) if scenario.leavers else None,
        dict(Counter(f"{o.verdict}: {o.why}" for o in outcomes if o.verdict not in right).most_common(5)),
    )


def _share(outcomes: list[Outcome], right: set[str]) -> float:
    return sum(outcome.verdict in right for outcome in outcomes) / max(1, len(outcomes))


def _aborted(outcomes: list[Outcome], seen: list[dict[str, Any]]) -> float:
    """All processes of a machine read one monotonic clock, so that their times can be compared."""
    left = sorted(outcome.ended for outcome in outcomes if outcome.verdict == "left")
    ended = sorted(request["ended_at"] for request in seen if request["state"] == "aborted" and request["ended_at"])
    if len(ended) < len(left):
        return float("inf")
    return round(max((b - a for a, b in zip(left, ended, strict=False)), default=0.0), 3)


def write(results: list[Result], path: Path) -> None:
    path.write_text(json.dumps([result.as_json() for result in results], indent=1) + "\n")
