"""The text worker over a real socket with its real model."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer

from backends.workers.embedded.engine import Engine
from backends.workers.embedded.loading import Loaded, load
from backends.workers.embedded.server import TextServer

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
STORY = "Tell me a story about a brave crab"
PROMPTS = (
    STORY,
    "Tell me a long story about the moon",
    "What do seals eat?",
    "Count to thirty",
    "Write a poem about an owl",
)

Client = TestClient[Any, Any]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load("tide", "0")


@asynccontextmanager
async def worker(loaded: Loaded, **engine: Any) -> AsyncIterator[tuple[Client, Engine]]:
    server = TextServer(["tide", "tide-alias"], "0")
    http = TestServer(server.app())
    await http.start_server()
    running = Engine(loaded.model, loaded.tokenizer, **engine)
    async with TestClient(http) as client, server.open(loaded, running):
        yield client, running


@pytest.fixture
async def client(loaded: Loaded) -> AsyncIterator[Client]:
    async with worker(loaded) as (client, _):
        yield client


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "tide", "messages": [{"role": "user", "content": text}], "temperature": 0} | more


async def post(client: Client, path: str, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    async with client.post(path, json=body) as answer:
        assert answer.status == status, await answer.text()
        parsed: dict[str, Any] = await answer.json()
        return parsed


async def stream(client: Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The frames of a stream, which ends as it should."""
    async with client.post(path, json=body | {"stream": True}) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"
        *events, done, rest = (await answer.text()).split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def until(condition: Callable[[], bool]) -> None:
    """Waits for it while the loop runs on. Raises TimeoutError after five seconds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the engine has no event for it
            await asyncio.sleep(0.005)


async def ids_of(client: Client, text: str, **more: Any) -> tuple[list[int], list[int], str]:
    """Prompt ids, answer ids and text of a greedy chat answer."""
    answer = await post(client, CHAT, chat(text, return_token_ids=True, **more))
    (choice,) = answer["choices"]
    return answer["prompt_token_ids"], choice["token_ids"], choice["message"]["content"]


async def test_answers_are_on_the_subject(client: Client) -> None:
    for question, part in (
        (STORY, "crab"),
        ("What do seals eat?", "Seals eat fish"),
        ("What is the opposite of calm?", "stormy"),
        ("What is a pier?", "A pier is a"),
    ):
        (choice,) = (await post(client, CHAT, chat(question)))["choices"]
        assert part in choice["message"]["content"]
        assert choice["finish_reason"] == "stop"


async def test_a_chat_stream_has_vllms_frames(client: Client) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = chat("What is a pier?", max_tokens=3, return_token_ids=True, stream_options=options)
    async with client.post(CHAT, json=body | {"stream": True}, headers={"X-Request-Id": "corr-123"}) as answer:
        events = (await answer.text()).split("\n\n")
    frames = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    head = {key: frames[0][key] for key in ("id", "object", "created", "model")}
    assert head | {"created": 0} == {
        "id": "chatcmpl-corr-123",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "tide",
    }
    prompt = frames[0]["prompt_token_ids"]
    counts = [{"prompt_tokens": len(prompt), "total_tokens": len(prompt) + n, "completion_tokens": n} for n in range(4)]
    tokens = [frame["choices"][0]["token_ids"] for frame in frames[1:4]]
    texts = [frame["choices"][0]["delta"]["content"] for frame in frames[1:4]]
    assert "".join(texts) == "A pier is"
    opening = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    expected = [head | {"choices": [opening], "usage": counts[0], "prompt_token_ids": prompt, "prompt_text": None}]
    for place in range(3):
        choice = {"index": 0, "delta": {"content": texts[place]}, "logprobs": None, "finish_reason": None}
        if place == 2:
            choice |= {"finish_reason": "length", "stop_reason": None}
        expected.append(head | {"choices": [choice | {"token_ids": tokens[place]}], "usage": counts[place + 1]})
    expected.append(head | {"choices": [], "usage": counts[3], "system_fingerprint": frames[-1]["system_fingerprint"]})
    assert [list(frame) for frame in frames] == [list(frame) for frame in expected]
    assert frames == expected
    assert events[-2:] == ["data: [DONE]", ""]


async def test_a_completion_stream_has_vllms_frames(client: Client) -> None:
    body = {"model": "tide", "prompt": [0, 54, 300], "max_tokens": 2, "temperature": 0, "return_token_ids": True}
    frames = await stream(client, COMPLETIONS, body)
    assert [list(frame) for frame in frames] == [["id", "object", "created", "model", "choices", "usage"]] * 2
    first, last = (frame["choices"][0] for frame in frames)
    fields = ["index", "text", "logprobs", "finish_reason", "stop_reason", "prompt_token_ids", "token_ids"]
    assert list(first) == list(last) == fields
    assert first["prompt_token_ids"] == [0, 54, 300]
    assert (last["prompt_token_ids"], last["finish_reason"]) == (None, "length")


@pytest.mark.parametrize("question", PROMPTS)
async def test_a_stream_says_what_the_whole_answer_says(client: Client, question: str) -> None:
    _, ids, text = await ids_of(client, question)
    frames = await stream(client, CHAT, chat(question, return_token_ids=True, stream_options={"include_usage": True}))
    choices = [frame["choices"][0] for frame in frames[1:-1]]
    assert "".join(choice["delta"]["content"] for choice in choices) == text
    assert [token for choice in choices for token in choice["token_ids"]] == ids
    assert frames[-1]["usage"]["completion_tokens"] == len(ids)


async def test_a_cut_answer_goes_on_token_exactly_on_a_busy_worker(loaded: Loaded) -> None:
    """What mid-stream failover needs: from ids, whoever else is in the batch, the rest is the same to the token."""
    async with worker(loaded) as (calm, _):
        whole = [await ids_of(calm, question, max_tokens=120) for question in PROMPTS]
    async with worker(loaded, max_num_seqs=16) as (busy, _):
        requests = [
            (prompt, ids, cut)
            for prompt, ids, _ in whole
            for cut in sorted({1, 2, 7, len(ids) // 2, len(ids) - 1})
            if 0 < cut < len(ids)
        ]
        bodies = [
            {"model": "tide", "prompt": prompt + ids[:cut], "temperature": 0, "max_tokens": 120 - cut}
            for prompt, ids, cut in requests
        ]
        load = [post(busy, CHAT, chat(text, max_tokens=60, temperature=1.0, seed=7)) for text in PROMPTS]
        asks = [post(busy, COMPLETIONS, body | {"return_token_ids": True}) for body in bodies]
        answers = (await asyncio.gather(*load, *asks))[len(load) :]
    assert len(requests) >= 20
    for (_, ids, cut), answer in zip(requests, answers, strict=True):
        assert answer["choices"][0]["token_ids"] == ids[cut:]


async def test_a_seeded_answer_too_goes_on_exactly(client: Client) -> None:
    hot = {"temperature": 1.0, "seed": 11, "top_p": 0.95, "max_tokens": 60}
    prompt, ids, _ = await ids_of(client, STORY, **hot)
    again = await ids_of(client, STORY, **hot)
    rest = {"prompt": prompt + ids[:20], "return_token_ids": True} | hot | {"max_tokens": 40}
    continued = await post(client, COMPLETIONS, rest)
    other = await ids_of(client, STORY, **(hot | {"seed": 12}))
    assert again[1] == ids
    assert continued["choices"][0]["token_ids"] == ids[20:]
    assert other[1] != ids


async def test_a_text_goes_on_where_it_was_cut(client: Client) -> None:
    _, _, text = await ids_of(client, "What do seals eat?")
    cut = text.index(" ", text.index(" ") + 1)  # between two words: the text before it has the tokens it had
    turns = [{"role": "user", "content": "What do seals eat?"}, {"role": "assistant", "content": text[:cut]}]
    more = {"messages": turns, "continue_final_message": True, "add_generation_prompt": False}
    answer = await post(client, CHAT, chat("") | more)
    assert answer["choices"][0]["message"]["content"] == text[cut:]


async def test_a_stop_string_ends_the_answer_before_it(client: Client) -> None:
    _, _, text = await ids_of(client, "What do seals eat?")
    for stop in ("fish and", "h an", text[-5:]):
        frames = await stream(client, CHAT, chat("What do seals eat?", stop=["never said", stop]))
        sent = "".join(frame["choices"][0]["delta"]["content"] for frame in frames)
        assert sent == text[: text.index(stop)]
        assert frames[-1]["choices"][0]["finish_reason"] == "stop"
        assert frames[-1]["choices"][0]["stop_reason"] == stop


async def test_characters_of_several_tokens_come_whole(client: Client, loaded: Loaded) -> None:
    euro = loaded.tokenizer.encode("€")
    assert len(euro) > 1
    bias = {str(token): 100 for token in euro}
    body = chat("Hi", logit_bias=bias, temperature=1, seed=4, max_tokens=200, ignore_eos=True, return_token_ids=True)
    choices = [frame["choices"][0] for frame in (await stream(client, CHAT, body))[1:]]
    for choice in choices[:-1]:
        whole = b"".join(map(loaded.tokenizer.token_bytes, choice["token_ids"]))
        assert choice["delta"]["content"] == whole.decode("utf-8", "replace")
    assert any("€" in choice["delta"]["content"] for choice in choices)


async def test_logprobs_of_every_token(client: Client) -> None:
    answer = await post(client, CHAT, chat("Hello", logprobs=True, top_logprobs=2, max_tokens=6))
    content = answer["choices"][0]["logprobs"]["content"]
    assert "".join(each["token"] for each in content) == answer["choices"][0]["message"]["content"]
    for each in content:
        assert [set(each), len(each["top_logprobs"])] == [{"token", "logprob", "bytes", "top_logprobs"}, 2]
        assert each["top_logprobs"][0]["token"] == each["token"]  # greedy
        assert each["logprob"] <= 0
    body = {"prompt": "Once upon a", "max_tokens": 3, "temperature": 0, "logprobs": 1}
    told = (await post(client, COMPLETIONS, body))["choices"][0]
    assert "".join(told["logprobs"]["tokens"]) == told["text"]
    assert set(map(len, told["logprobs"].values())) == {3}


async def test_several_prompts_and_choices_add_up(client: Client) -> None:
    body = {"prompt": ["Once upon a time", "The sea"], "n": 2, "seed": 5, "max_tokens": 4, "ignore_eos": True}
    answer = await post(client, COMPLETIONS, body)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    prompt = sum([(await post(client, "/tokenize", {"prompt": text}))["count"] for text in body["prompt"]])
    usage = {"prompt_tokens": prompt, "total_tokens": prompt + 16, "completion_tokens": 16}
    assert answer["usage"] == usage | {"prompt_tokens_details": None}
    frames = await stream(client, COMPLETIONS, body | {"stream_options": {"include_usage": True}})
    texts = ["", "", "", ""]
    for frame in frames[:-1]:
        texts[frame["choices"][0]["index"]] += frame["choices"][0]["text"]
    assert texts == [choice["text"] for choice in answer["choices"]]
    assert frames[-1]["usage"] == usage


async def test_a_client_that_leaves_frees_its_place(loaded: Loaded) -> None:
    endless = chat(STORY, ignore_eos=True, max_tokens=900)
    async with worker(loaded, max_num_seqs=1, max_waiting=0, tokens_per_second=100) as (client, engine):
        for streamed in (True, False):
            async with AsyncExitStack() as stack:
                session = await stack.enter_async_context(ClientSession())
                leaving = asyncio.create_task(session.post(client.make_url(CHAT), json=endless | {"stream": streamed}))
                await until(lambda: engine.counters.generation_tokens > 0)
                async with client.post(CHAT, json=chat("Hi")) as refused:
                    assert refused.status == 503
                    assert refused.headers["Retry-After"] == "1"
                    assert (await refused.json())["error"]["type"] == "ServiceUnavailableError"
                if streamed:
                    (await leaving).close()
                leaving.cancel()
            await until(lambda: not engine.running)
            assert engine.counters.generation_tokens < 200
            engine.counters.generation_tokens = 0
        assert engine.counters.finished["abort"] == 2
        await post(client, CHAT, chat("Hi", max_tokens=1))


LONG = "word " * 6000
TOO_LONG = (
    "This model's maximum context length is 1024 tokens. However, your prompt contains 30000 characters (more than "
    "{bound} characters, which is the upper bound for 1024 input tokens). Please reduce the length of the input "
    "prompt. (parameter=input_text, value=30000)"
)


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        (
            CHAT,
            chat("Hi", max_tokens=5000),
            400,
            "max_tokens=5000 cannot be greater than max_model_len=1024. Please request fewer output tokens. "
            "(parameter=max_tokens, value=5000)",
        ),
        (CHAT, chat(LONG), 400, TOO_LONG),
        (
            COMPLETIONS,
            {"prompt": [5] * 1030, "max_tokens": 1},
            400,
            "This model's maximum context length is 1024 tokens. However, you requested 1 output tokens and your "
            "prompt contains at least 1030 input tokens, for a total of at least 1031 tokens. Please reduce the length "
            "of the input prompt or the number of requested output tokens. (parameter=input_tokens, value=1030)",
        ),
        (CHAT, chat("Hi", model="nope"), 404, "The model `nope` does not exist. Valid aliases: tide, tide-alias."),
        (COMPLETIONS, {"prompt": [99999]}, 400, "Token id 99999 is out of vocabulary"),
    ],
)
async def test_errors_to_the_byte(
    client: Client, loaded: Loaded, path: str, body: dict[str, Any], status: int, error: str
) -> None:
    message = error.format(bound=1024 * loaded.tokenizer.longest_token)
    answer = (await post(client, path, body, status))["error"]
    assert (answer["message"], answer["code"]) == (message, status)
    assert list(answer) == ["message", "type", "param", "code"]


async def test_unknown_paths_and_methods(client: Client) -> None:
    assert await post(client, "/v1/nothing", {}, 404) == {"detail": "Not Found"}
    assert await post(client, "/v1/models", {}, 405) == {"detail": "Method Not Allowed"}


async def test_tokenize_and_back(client: Client) -> None:
    told = await post(client, "/tokenize", {"messages": [{"role": "user", "content": "Grüße, 海"}]})
    assert (told["count"], told["max_model_len"]) == (len(told["tokens"]), 1024)
    text = (await post(client, "/detokenize", {"tokens": told["tokens"]}))["prompt"]
    assert text == "<|bos|><|user|>Grüße, 海<|end|><|assistant|>"


async def test_embeddings_are_unit_vectors_near_for_near_texts(client: Client) -> None:
    texts = ["What do seals eat?", "What do crabs eat?", "Count to ten"]
    answer = await post(client, "/v1/embeddings", {"input": texts})
    one, near, far = (each["embedding"] for each in answer["data"])
    assert sum(x * x for x in one) == pytest.approx(1)
    assert sum(map(lambda x, y: x * y, one, near)) > sum(map(lambda x, y: x * y, one, far))
    packed = await post(client, "/v1/embeddings", {"input": texts[0], "encoding_format": "base64"})
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert struct.unpack(f"<{len(one)}f", raw) == pytest.approx(one, rel=1e-5)


async def test_the_worker_tells_how_it_is(client: Client) -> None:
    async with client.get("/health") as health:
        assert (health.status, (await health.json())["status"]) == (200, "ok")
    async with client.get("/v1/models") as models:
        listed = (await models.json())["data"]
    assert [(model["id"], model["max_model_len"]) for model in listed] == [("tide", 1024), ("tide-alias", 1024)]
    async with client.get("/load") as load_answer:
        assert await load_answer.json() == {"server_load": 0}
    await post(client, CHAT, chat("Hi", max_tokens=2))
    async with client.get("/metrics") as metrics:
        lines = (await metrics.text()).splitlines()
    labels = '{engine="0",model_name="tide"}'
    for line in ("num_requests_running{} 0.0", "kv_cache_usage_perc{} 0.0", "generation_tokens_total{} 2.0"):
        assert f"vllm:{line.format(labels)}" in lines


async def test_a_dead_engine_says_so(loaded: Loaded) -> None:
    async with worker(loaded, tokens_per_second=50) as (client, engine):
        opened = asyncio.create_task(stream(client, CHAT, chat(STORY)))
        await until(lambda: engine.counters.generation_tokens > 0)
        engine._die()
        frames = await opened
        assert frames[-1]["error"]["type"] == "InternalServerError"
        assert "EngineCore encountered an issue" in frames[-1]["error"]["message"]
        assert (await post(client, CHAT, chat("Hi"), 500))["error"] == frames[-1]["error"]
        async with client.get("/health") as health:
            assert health.status == 503


async def test_before_the_model_is_loaded_the_worker_says_so() -> None:
    async with TestClient(TestServer(TextServer(["tide"], "0").app())) as client:
        async with client.get("/health") as health:
            assert health.status == 503
        async with client.post(CHAT, json=chat("Hi")) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert (await answer.json())["error"]["message"] == "Loading model"
