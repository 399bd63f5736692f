"""Real vLLM, two of them under the supervisor, the gateway before them; what clients see, and what they don't see."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import aiohttp
import openai
import pytest

from tests.support.figures import Figures
from tests.support.processes import alive, wait_until
from tests.support.sdks import ran
from tests.support.vllm.install import Installed
from tests.support.vllm.stack import Stack, Stopwatch, running_stack

pytestmark = pytest.mark.slow
STREAMED_TOKENS = 400
#: Looks in a row, a tenth of a second apart, at which nothing has changed any more.
_STILL = 5
QUESTION: Any = [{"role": "user", "content": "What do seals eat?"}]


@pytest.fixture(scope="module")
def shared(installed: Installed, tmp_path_factory: pytest.TempPathFactory, figures: Figures) -> Iterator[Stack]:
    watch = Stopwatch()
    with running_stack(installed, tmp_path_factory.mktemp("vllm")) as stack:
        figures.add("two vLLM servers and the gateway healthy", watch.seconds, "s")
        yield stack


@pytest.fixture
def stack(shared: Stack) -> Stack:
    """The stack, whole again whatever the test before did to it."""
    shared.wait_healthy()
    return shared


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


async def whole(client: openai.AsyncOpenAI, max_tokens: int = 16, **more: Any) -> str:
    answer = await client.chat.completions.create(
        model="tiny", messages=QUESTION, max_tokens=max_tokens, temperature=0, extra_body={"ignore_eos": True}, **more
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == max_tokens
    return answer.choices[0].message.content or ""


@dataclass
class Streamed:
    """What a client has of a whole greedy stream."""

    text: str = ""
    tokens: int = 0
    end: str | None = None
    ids: int = 0

    @classmethod
    async def of(cls, client: openai.AsyncOpenAI, question: str, begun: Begun | None = None) -> Self:
        """Reads one; `begun` is told at its fifth piece of text."""
        stream = await client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": question}],
            max_tokens=STREAMED_TOKENS,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        made, names, pieces = cls(), set(), 0
        async for chunk in stream:
            names.add(chunk.id)
            for choice in chunk.choices:
                made.text += choice.delta.content or ""
                made.end = choice.finish_reason or made.end
                pieces += 1
                if pieces == 5 and begun is not None:
                    begun.note(stream.response.headers["X-Seawall-Backend"])
            if chunk.usage is not None:
                made.tokens = chunk.usage.completion_tokens
        made.ids = len(names)
        return made


async def until(condition: Callable[[], bool], timeout: float, what: str) -> None:
    await asyncio.to_thread(wait_until, condition, timeout, what)


async def test_chat_whole_and_streamed_are_the_same_on_both_servers(stack: Stack, client: openai.AsyncOpenAI) -> None:
    answers = {await whole(client) for _ in range(6)}
    assert len(answers) == 1
    chunks = await client.chat.completions.create(
        model="tiny",
        messages=QUESTION,
        max_tokens=16,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    received = [chunk async for chunk in chunks]
    assert {"".join(c.choices[0].delta.content or "" for c in received if c.choices)} == answers
    assert received[-1].usage is not None
    assert received[-1].usage.completion_tokens == 16


async def test_the_correlation_id_is_vllms_request_id(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="tiny", messages=QUESTION, max_tokens=1, extra_headers={"X-Correlation-ID": "corr-77"}
    )
    assert answer.id == "chatcmpl-corr-77"


async def test_the_servers_own_gauges_are_read(stack: Stack) -> None:
    endpoint = stack.endpoint("a")
    assert (endpoint["state"], endpoint["waiting"]) == ("healthy", 0)


async def test_a_prompt_too_long_is_the_clients_error_with_numbers(stack: Stack, client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "seal " * 400}], max_tokens=400
        )
    error: Any = refused.value.body
    assert error["code"] == "context_length_exceeded"
    assert error["details"]["max_length"] == 512
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=5000)
    assert refused.value.code == "context_length_exceeded"
    assert stack.endpoint("a")["breaker"] == stack.endpoint("b")["breaker"] == "closed"


async def test_an_unknown_model_is_not_found_by_gateway_and_server(client: openai.AsyncOpenAI) -> None:
    for model in ("nobody", "ghost"):  # no route; a route to a name that vLLM does not serve
        with pytest.raises(openai.NotFoundError) as refused:
            await client.chat.completions.create(model=model, messages=QUESTION, max_tokens=1)
        assert refused.value.code == "model_not_found"


async def test_anthropics_sdk_chats_streams_and_raises_its_own_exceptions(stack: Stack, sdks: Path) -> None:
    got = await asyncio.to_thread(ran, sdks, "anthropic_client.py", stack.url)
    assert got["request_id"]
    assert (got["role"], got["output_tokens"], got["stop_reason"]) == ("assistant", 12, "max_tokens")
    assert got["streamed"] == got["final"] == got["whole"] != ""
    assert got["streamed_tokens"] == 12
    for error in (got["not_found"], got["not_found_there"]):
        assert (error["name"], error["status"], error["type"]) == ("NotFoundError", 404, "not_found_error")
        assert error["request_id"] == error["correlation_id"]
    too_long = got["too_long"]
    assert (too_long["name"], too_long["type"]) == ("BadRequestError", "invalid_request_error")
    assert "512" in too_long["message"]


async def test_a_killed_engine_costs_no_request_and_comes_back(
    stack: Stack, client: openai.AsyncOpenAI, figures: Figures
) -> None:
    """`kill -9` of one engine under load: no failed request, breaker open and closed again, the server restarted."""
    restarts = stack.a.status()["restarts"]
    answers: list[str] = []
    failures: list[Exception] = []
    breakers: set[str] = set()
    loading: set[str] = set()
    done = asyncio.Event()

    async def ask() -> None:
        while not done.is_set():
            try:
                answers.append(await whole(client, 24))
            except openai.OpenAIError as error:
                failures.append(error)

    async def watch() -> None:
        while not done.is_set():
            endpoint = await asyncio.to_thread(stack.endpoint, "a")
            breakers.add(endpoint["breaker"])
            if endpoint["state"] == "loading" and endpoint["message"]:  # none once its probes are good again
                loading.add(endpoint["message"].partition(",")[0])
            await asyncio.sleep(0.05)

    asking = [asyncio.create_task(ask()) for _ in range(8)]
    watching = asyncio.create_task(watch())
    await until(lambda: len(answers) > 16, 60, "answers")
    killed = Stopwatch()
    stack.a.engine().kill()
    await asyncio.to_thread(stack.a.wait_ready, restarts=restarts + 1)
    figures.add("engine killed: restarted and ready", killed.seconds, "s")
    await until(lambda: stack.endpoint("a")["healthy"], 30, "health")
    await until(lambda: stack.endpoint("a")["breaker"] == "closed", 60, "a closed breaker")
    figures.add("engine killed: serving again, circuit closed", killed.seconds, "s")
    done.set()
    await asyncio.gather(*asking, watching)
    figures.add("engine killed: requests answered", len(answers), "")
    figures.add("engine killed: requests failed", len(failures), "")
    assert failures == []
    assert len(set(answers)) == 1
    assert {"open", "closed"} <= breakers
    assert loading == {"loading its model"}


async def test_a_hung_engine_is_hidden_found_and_restarted(
    stack: Stack, client: openai.AsyncOpenAI, figures: Figures
) -> None:
    """SIGSTOP of an engine: `/health` stays good, tokens stay away."""
    restarts, expected = stack.b.status()["restarts"], await whole(client)
    stopped = Stopwatch()
    stack.b.engine().send_signal(signal.SIGSTOP)
    answers = [asyncio.create_task(whole(client)) for _ in range(4)]
    assert set(await asyncio.gather(*answers)) == {expected}
    await until(lambda: stack.b.status()["restarts"] > restarts, 120, "the restart")
    figures.add("engine hung: found and restarted", stopped.seconds, "s")
    assert "liveness checks in a row failed" in stack.b.status()["last_error"]
    assert await whole(client) == expected


async def test_a_busy_engine_is_left_alone(shared: Stack) -> None:
    """More work than the server can do for several probes' time: slow, not hung."""
    before = shared.a.status()
    body = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 500, "temperature": 0, "ignore_eos": True}
    async with aiohttp.ClientSession() as session:

        async def ask() -> int:
            async with session.post(f"{shared.a.url}/v1/completions", json=body) as answer:
                await answer.read()
                return answer.status

        statuses = await asyncio.gather(*[ask() for _ in range(64)])
    assert set(statuses) == {200}
    after = shared.a.status()
    assert (after["restarts"], after["pid"]) == (before["restarts"], before["pid"])


async def test_streams_cut_by_a_killed_engine_end_as_if_nothing_had_been(
    stack: Stack, client: openai.AsyncOpenAI, figures: Figures
) -> None:
    """Greedy streams in flight when their engine dies: token for token what an undisturbed run gives."""
    questions = [f"Tell me of whale number {number}." for number in range(8)]
    undisturbed = [await Streamed.of(client, question) for question in questions]
    before, begun = stack.resumes(), Begun(stack)
    streams = [asyncio.create_task(Streamed.of(client, question, begun)) for question in questions]
    broken = await begun.killed_in_the_middle()
    cut = await asyncio.gather(*streams)
    assert [one.text for one in cut] == [one.text for one in undisturbed]
    assert {one.tokens for one in cut} == {STREAMED_TOKENS}
    assert {one.end for one in cut} == {"length"}
    assert all(one.ids == 1 for one in cut)
    resumed = stack.resumes() - before
    figures.add("streams in flight when an engine was killed", len(cut), "")
    figures.add("streams resumed from token ids, exact", resumed, "")
    assert resumed >= broken


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_messages_and_responses_cut_by_a_killed_engine_end_as_if_nothing_had_been(
    stack: Stack, figures: Figures, path: str
) -> None:
    """These go on by replay: the text of an undisturbed run, under one id, and no event twice or missing."""
    async with aiohttp.ClientSession() as session:
        undisturbed = [await events(session, stack.url + path, number) for number in range(6)]
        before, begun = stack.resumes("replay"), Begun(stack)
        asked = [asyncio.create_task(events(session, stack.url + path, number, begun)) for number in range(6)]
        broken = await begun.killed_in_the_middle()
        cut = await asyncio.gather(*asked)
    for right, got in zip(undisturbed, cut, strict=True):
        assert text_in(got) == text_in(right)
        assert [kind for kind, _ in groupby(e["type"] for e in got)] == [
            kind for kind, _ in groupby(e["type"] for e in right)
        ]
        assert [e["sequence_number"] for e in got if "sequence_number" in e] == list(range(len(got)))[
            : len(got) if "responses" in path else 0
        ]
        assert len({e["item_id"] for e in got if "item_id" in e}) <= 1
    resumed = stack.resumes("replay") - before
    figures.add(f"streams of {path} resumed by replay, exact", resumed, "")
    assert resumed >= broken


class Begun:
    """Streams that have begun, each with the backend that it comes from, and the engines of both."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._engines = {"a": stack.a.engine(), "b": stack.b.engine()}  # found now: looking for them takes its time
        self._streams: list[tuple[str, asyncio.Task[Any] | None]] = []
        self._new: asyncio.Queue[str] = asyncio.Queue()

    def note(self, backend: str) -> None:
        """The running task's stream has begun."""
        self._streams.append((backend, asyncio.current_task()))
        self._new.put_nowait(backend)

    async def killed_in_the_middle(self) -> int:
        """Kills an engine in the middle of streams that are seen to come from it; how many of them there are.

        The engine is stopped first: once all that was on its way has come, what is in flight there can only break.
        """
        while True:
            async with asyncio.timeout(30):
                name = await self._new.get()
            engine = self._engines[name]
            engine.suspend()
            seen = [-1]
            while len(seen) < _STILL or len(set(seen[-_STILL:])) > 1:
                await asyncio.sleep(0.1)
                seen.append((await asyncio.to_thread(self._stack.endpoint, name))["in_flight"])
            broken = sum(1 for of, task in self._streams if of == name and task is not None and not task.done())
            if broken:
                engine.kill()
                return broken
            engine.resume()


async def events(
    session: aiohttp.ClientSession, url: str, number: int, begun: Begun | None = None
) -> list[dict[str, Any]]:
    """The events of one greedy stream; `begun` is told at its fifth."""
    asked: dict[str, Any] = {"model": "tiny", "temperature": 0, "stream": True}
    text = f"Tell me of whale number {number}."
    if url.endswith("messages"):
        asked |= {"messages": [{"role": "user", "content": text}], "max_tokens": STREAMED_TOKENS}
    else:
        asked |= {"input": text, "max_output_tokens": STREAMED_TOKENS}
    found: list[dict[str, Any]] = []
    async with session.post(url, json=asked) as answer:
        async for line in answer.content:
            if line.startswith(b"data:"):
                found.append(json.loads(line[5:]))
                if len(found) == 5 and begun is not None:
                    begun.note(answer.headers["X-Seawall-Backend"])
    return found


def text_in(found: list[dict[str, Any]]) -> str:
    deltas = [e["delta"] for e in found if e["type"] in ("content_block_delta", "response.output_text.delta")]
    return "".join(delta if isinstance(delta, str) else delta["text"] for delta in deltas)


def test_a_killed_supervisor_takes_all_of_vllm_with_it(shared: Stack) -> None:
    """Last, for that worker does not come back."""
    worker = shared.a if shared.a.state() == "ready" else shared.b
    pids = [process.pid for process in worker.family()]
    assert len(pids) >= 4
    worker.process.kill()
    wait_until(lambda: not any(map(alive, pids)), 30, "the end of vLLM's processes")
