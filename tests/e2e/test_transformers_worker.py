"""Any transformers model behind the text worker: the same tokens as transformers' own, and the same manners as ever."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import torch
from aiohttp.test_utils import TestClient, TestServer

from backends.workers.embedded.engine import Engine
from backends.workers.embedded.generation import Generation
from backends.workers.embedded.loading import Loaded
from backends.workers.embedded.loading import load as load_carried
from backends.workers.embedded.sampling import SamplingParams
from backends.workers.embedded.server import TextServer
from backends.workers.load_failure import Cause, load_failure
from tests.support.gateway import running_gateway
from tests.support.hf_models import install, save_random, save_tide, save_tokenizer
from tests.support.processes import Process, free_port

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
GREEDY = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)
PROMPTS = [[0, 3, 300 + number, *range(310, 312 + 3 * number)] for number in range(5)]
QUESTION = [{"role": "user", "content": "Tell me a story about a seal."}]
#: Kind of model, by its configuration class, and how it can be served.
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "LlamaConfig": ({}, "PackedModel"),
    "MistralConfig": ({"sliding_window": 4}, "PackedModel"),
    "Qwen3Config": ({"head_dim": 16}, "PackedModel"),
    "Gemma3TextConfig": ({"head_dim": 16, "sliding_window": 4, "query_pre_attn_scalar": 16}, "PackedModel"),
    "MixtralConfig": ({"num_local_experts": 2}, "PackedModel"),
    "GPT2Config": ({"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}, "PackedModel"),
    "Gemma2Config": ({"head_dim": 16, "sliding_window": 4, "query_pre_attn_scalar": 16}, "AloneModel"),
    "BloomConfig": ({"n_layer": 2, "n_head": 4}, "AloneModel"),
}
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}


@pytest.fixture(scope="module", autouse=True)
def packages() -> Path:
    """The folder that has transformers, on the path from here on."""
    home = install()
    if str(home) not in sys.path:
        sys.path.append(str(home))
    return home


@pytest.fixture(scope="module")
def tide(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tide-mini"
    save_tide(folder)
    return folder


def loaded(folder: Path, **options: Any) -> Loaded:
    from backends.workers.transformers.loading import load

    return load(folder, "0", **options)


def random_model(kind: str, folder: Path) -> None:
    import transformers

    more, _ = KINDS[kind]
    vocabulary = load_carried("tide-mini", "0").tokenizer.vocab_size
    own = {name: value for name, value in SHAPE.items() if not kind.startswith(("GPT2", "Bloom"))}
    common = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 1, "hidden_size": 64}
    if kind == "GPT2Config":
        del common["hidden_size"]
    save_random(folder, getattr(transformers, kind)(**(common | own | more)))


async def whole(generation: Generation) -> list[int]:
    ids: list[int] = []
    while deltas := await generation.next():
        ids += [token for delta in deltas for token in delta.token_ids]
    return ids


async def together(
    model: Loaded, prompts: Sequence[Sequence[int]], params: SamplingParams, **engine: Any
) -> list[list[int]]:
    async with Engine(model.model, model.tokenizer, **engine) as running:
        return list(await asyncio.gather(*[whole(running.submit([prompt], [params])) for prompt in prompts]))


@asynccontextmanager
async def worker(model: Loaded, **engine: Any) -> AsyncIterator[TestClient[Any, Any]]:
    server = TextServer([model.name], "0")
    async with (
        TestClient(TestServer(server.app())) as client,
        server.open(model, Engine(model.model, model.tokenizer, **engine)),
    ):
        yield client


async def test_a_carried_model_saved_as_a_llama_gives_the_same_tokens(tide: Path) -> None:
    ours, theirs = load_carried("tide-mini", "0"), loaded(tide, dtype="float64")
    prompts = [ours.tokenizer.chat([{"role": "user", "content": text}]) for text in ("What do seals eat?", "Hi 海", "")]
    assert [
        theirs.tokenizer.chat([{"role": "user", "content": t}]) for t in ("What do seals eat?", "Hi 海", "")
    ] == prompts
    assert theirs.tokenizer.encode("the tide", special=True) == ours.tokenizer.encode("the tide", special=True)
    for params in (GREEDY, replace(GREEDY, temperature=0.9, seed=7)):
        assert await together(theirs, prompts, params) == await together(ours, prompts, params)
    answer = theirs.tokenizer.decode((await together(theirs, prompts[:1], replace(GREEDY, ignore_eos=False)))[0])
    assert answer.isascii()
    assert len(answer.split()) > 5


@pytest.mark.parametrize("kind", KINDS)
async def test_greedy_answers_are_those_of_transformers_itself(kind: str, packages: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    random_model(kind, tmp_path)
    # Batched, sums are in another order: in float64 that never shows. Grouped experts have no float64.
    dtype = "float32" if kind == "MixtralConfig" else "float64"
    model = loaded(tmp_path, dtype=dtype)
    assert type(model.model).__name__ == KINDS[kind][1]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=getattr(torch, dtype))
    options = {"do_sample": False, "max_new_tokens": GREEDY.max_tokens, "suppress_tokens": [1], "pad_token_id": 2}
    expected = []
    for ids in PROMPTS:
        (made,) = theirs.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), **options)
        expected.append(made[len(ids) :].tolist())
    assert await together(model, PROMPTS, GREEDY) == expected
    assert await together(model, PROMPTS, GREEDY, max_num_seqs=2, prefill_budget=3) == expected


@pytest.mark.parametrize("kind", ["LlamaConfig", "Gemma2Config"])
async def test_out_of_memory_in_a_step_changes_no_token(kind: str, packages: Path, tmp_path: Path) -> None:
    random_model(kind, tmp_path)
    model = loaded(tmp_path, dtype="float64")
    undisturbed = await together(model, PROMPTS, GREEDY)
    calls = 0

    def fails(*_: object) -> None:
        """At the end of a step: by then all keys and values are written."""
        nonlocal calls
        calls += 1
        if calls in (3, 20):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    hook = model.model._model.base_model.norm.register_forward_pre_hook(fails)
    try:
        async with Engine(model.model, model.tokenizer) as engine:
            given = await asyncio.gather(*[whole(engine.submit([prompt], [GREEDY])) for prompt in PROMPTS])
            assert engine.counters.preemptions > 0
            assert engine.counters.finished["error"] == 0
    finally:
        hook.remove()
    assert given == undisturbed


async def test_it_speaks_as_the_carried_models_do(tide: Path) -> None:
    async with worker(loaded(tide)) as client:
        body = {"messages": QUESTION, "temperature": 0, "max_tokens": 20, "return_token_ids": True}
        async with client.post(CHAT, json=body) as answer:
            said = await answer.json()
        ids = said["choices"][0]["token_ids"]
        assert said["usage"]["completion_tokens"] == len(ids) == 20
        cut = {
            "prompt": said["prompt_token_ids"] + ids[:9],
            "temperature": 0,
            "max_tokens": 11,
            "return_token_ids": True,
        }
        async with client.post("/v1/completions", json=cut) as answer:
            assert (await answer.json())["choices"][0]["token_ids"] == ids[9:]
        async with client.get("/v1/models") as answer:
            assert (await answer.json())["data"][0]["max_model_len"] == 1024
        async with client.post(CHAT, json=body | {"max_tokens": 5000}) as answer:
            assert answer.status == 400
            assert "cannot be greater than max_model_len=1024" in (await answer.json())["error"]["message"]
        async with client.post("/v1/completions", json={"prompt": [99999], "max_tokens": 1}) as answer:
            assert answer.status == 400
        async with client.post("/v1/embeddings", json={"input": ["the tide", "the sea"]}) as answer:
            vectors = [entry["embedding"] for entry in (await answer.json())["data"]]
        assert vectors[0] != vectors[1]
        assert sum(value * value for value in vectors[0]) == pytest.approx(1, abs=1e-3)


async def test_a_model_without_a_chat_template_says_so(tide: Path, tmp_path: Path) -> None:
    shutil.copytree(tide, tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    save_tokenizer(tmp_path / "bare", template=False)
    async with worker(loaded(tmp_path / "bare")) as client:
        async with client.post(CHAT, json={"messages": QUESTION}) as answer:
            assert answer.status == 400
            assert "provide a chat template" in (await answer.json())["error"]["message"]
        async with client.post("/v1/completions", json={"prompt": "The sea", "max_tokens": 3}) as answer:
            assert answer.status == 200


async def test_a_templates_refusal_is_the_clients_to_read(tide: Path, tmp_path: Path) -> None:
    shutil.copytree(tide, tmp_path / "strict")
    (tmp_path / "strict" / "chat_template.jinja").write_text("{{ raise_exception('Roles must alternate.') }}")
    async with worker(loaded(tmp_path / "strict")) as client, client.post(CHAT, json={"messages": QUESTION}) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["message"] == "Roles must alternate."


async def test_the_models_own_sampling_is_used_where_the_request_says_nothing(tide: Path, tmp_path: Path) -> None:
    shutil.copytree(tide, tmp_path / "greedy")
    (tmp_path / "greedy" / "generation_config.json").write_text(json.dumps({"temperature": 0.7, "top_k": 1}))
    model = loaded(tmp_path / "greedy")
    assert model.defaults == {"temperature": 0.7, "top_k": 1}
    body = {"messages": QUESTION, "max_tokens": 12}
    async with worker(model) as client:
        texts = []
        for more in ({}, {}, {"temperature": 0}):
            async with client.post(CHAT, json=body | more) as answer:
                texts.append((await answer.json())["choices"][0]["message"]["content"])
    assert len(set(texts)) == 1


def break_file(name: str, change: Any) -> Any:
    return lambda folder: change(folder / name)


def other_shape(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 32}))


def other_kind(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "seahorse"}))


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (break_file("config.json", Path.unlink), Cause.FILES),
        (break_file("model.safetensors", Path.unlink), Cause.FILES),
        (break_file("tokenizer.json", Path.unlink), Cause.FILES),
        (break_file("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:20000])), Cause.WEIGHTS),
        (break_file("model.safetensors", lambda path: path.write_bytes(b"<html>not found</html>")), Cause.WEIGHTS),
        (break_file("config.json", other_shape), Cause.WEIGHTS),
        (break_file("config.json", other_kind), Cause.UNSUPPORTED),
    ],
    ids=["no config", "no weights", "no tokenizer", "cut weights", "no weights at all", "other shape", "other kind"],
)
def test_why_it_cannot_be_loaded_is_told_apart(
    tide: Path, packages: Path, tmp_path: Path, damage: Any, cause: Cause
) -> None:
    shutil.copytree(tide, tmp_path / "model")
    damage(tmp_path / "model")
    command = [
        "-m",
        "backends.workers.embedded",
        "text",
        "--model",
        str(tmp_path / "model"),
        "--port",
        str(free_port()),
    ]
    with Process.python(*command, env={"PYTHONPATH": f"{packages}:."}) as process:
        assert process.wait(60) == 1
        found = load_failure(process.output.splitlines(), 1)
    assert found.cause is cause, process.output
    assert "Traceback" not in process.output


async def test_streams_survive_the_end_of_a_supervised_worker(tide: Path, packages: Path) -> None:
    ports = [free_port(), free_port()]
    told = free_port()
    command = ["-m", "gateway", "worker", "text", "--model", str(tide)]
    flags = ("--", "--tokens-per-second", "40", "--dtype", "float64")
    env = {"PYTHONPATH": f"{packages}:."}
    options = (["--port", str(ports[0]), "--status-port", str(told)], ["--port", str(ports[1])])
    workers = [Process.python(*command, *each, *flags, env=env) for each in options]
    config = "\n".join(
        [
            "backends:",
            *[f"  b{number}: {{url: 'http://127.0.0.1:{port}', kind: embedded}}" for number, port in enumerate(ports)],
            "routes: [{model: tide-mini, backends: [b0, b1]}]",
        ]
    )
    try:
        for process, port in zip(workers, ports, strict=True):
            await asyncio.to_thread(process.wait_ready, f"http://127.0.0.1:{port}/health", 90)
        async with running_gateway(config) as gateway:
            client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)
            begun = asyncio.Semaphore(0)

            async def answer(said: str) -> str:
                text = ""
                stream = await client.chat.completions.create(
                    model="tide-mini",
                    messages=[{"role": "user", "content": said}],
                    temperature=0,
                    max_tokens=80,
                    stream=True,
                    extra_body={"ignore_eos": True},
                )
                async for chunk in stream:
                    text += chunk.choices[0].delta.content or "" if chunk.choices else ""
                    begun.release()
                return text

            asked = [f"Tell me story {number}." for number in range(6)]
            undisturbed = await asyncio.gather(*map(answer, asked))
            begun = asyncio.Semaphore(0)
            running = asyncio.gather(*map(answer, asked))
            for _ in range(60):
                await begun.acquire()
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{told}/status") as status:
                os.kill((await status.json())["workers"][0]["pid"], signal.SIGKILL)
            assert await running == undisturbed
            await asyncio.to_thread(workers[0].wait_for_count, "Serving", 2, 60)
            await client.close()
    finally:
        for process in workers:
            process.terminate()
            process.close()
