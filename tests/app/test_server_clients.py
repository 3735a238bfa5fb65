"""Clients that other people wrote, against this server: the `openai` package, the `llm` command, schemathesis."""

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.server import create
from app.server_guard import Policy
from lab import assets
from lab.chats import Chats, reproduce
from lab.errors import LabError
from lab.generate import Sampling, generate
from lab.imports import import_run
from lab.run import Run
from tests.app.serving import BASE, PATIENCE, TOKEN, Real, loopback, really_served, served, training
from tests.made_runs import made_run

QUESTION: list[Any] = [{"role": "user", "content": "the old dog"}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made_run(tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """A server of a run of its own, on a real socket."""
    with loopback(create(made_run(tmp_path_factory.mktemp("loopback")).path, Policy(TOKEN))) as url:
        yield Real(None, url, TOKEN)


@pytest.fixture(params=["loopback", pytest.param("in process", marks=pytest.mark.slow)])
def client(request: pytest.FixtureRequest, run: Run) -> Iterator[Any]:
    openai = pytest.importorskip("openai")
    if request.param == "loopback":
        found: Real = request.getfixturevalue("real")
        yield openai.OpenAI(base_url=f"{found.url}/v1", api_key=found.token, max_retries=0)
        return
    with served(run.path) as (http, _):
        http.headers.pop("authorization")
        yield openai.OpenAI(base_url=f"{BASE}/v1", api_key=TOKEN, http_client=http, max_retries=0)


def truth(run: Run) -> Any:
    tokenizer = run.tokenizer()
    ids, _ = tokenizer.chat(QUESTION, reply_as="assistant")
    return generate(run.model(8), tokenizer, ids, Sampling(max_tokens=12, seed=7, temperature=1.0))


def test_the_openai_client_lists_retrieves_and_chats(client: Any, run: Run) -> None:
    assert [model.id for model in client.models.list()] == ["lab", "lab@step-8", "lab@step-0"]
    assert client.models.retrieve("lab@step-0").id == "lab@step-0"
    answer = client.chat.completions.create(model="lab", messages=QUESTION, max_tokens=12, seed=7)
    assert answer.choices[0].message.content == truth(run).text and answer.system_fingerprint == "step-8"
    assert answer.usage.completion_tokens == len(truth(run).ids)


def test_the_openai_client_streams_with_usage_and_log_probabilities(client: Any, run: Run) -> None:
    options = {"model": "lab", "messages": QUESTION, "max_tokens": 12, "seed": 7, "logprobs": True, "top_logprobs": 2}
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == truth(run).text and chunks[-1].usage.completion_tokens == len(truth(run).ids)
    said = [one for c in chunks if c.choices and c.choices[0].logprobs for one in c.choices[0].logprobs.content]
    assert len(said) == len(truth(run).ids) and all(len(one.top_logprobs) == 2 for one in said)


def test_the_openai_clients_helper_is_told_honestly_how_an_answer_ended(client: Any) -> None:
    import openai

    text = (
        client.chat.completions.create(model="lab", messages=QUESTION, max_tokens=40, seed=7).choices[0].message.content
    )
    with client.chat.completions.stream(
        model="lab", messages=QUESTION, max_tokens=40, seed=7, stop=[text[2:3]]
    ) as stream:
        assert stream.get_final_completion().choices[0].finish_reason == "stop"
    short = client.chat.completions.stream(model="lab", messages=QUESTION, max_tokens=2, seed=7)
    with short as stream, pytest.raises(openai.LengthFinishReasonError):
        stream.get_final_completion()


def test_the_openai_client_raises_its_own_errors(client: Any) -> None:
    import openai

    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4", messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="lab", messages=QUESTION, temperature=9)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    answer = client.completions.create(model="lab", prompt="the old", max_tokens=5, seed=1, logprobs=1)
    assert answer.choices[0].finish_reason in ("stop", "length") and answer.usage.completion_tokens <= 5


def llm(real: Real, folder: Path, text: str, *options: str) -> str:
    """What the `llm` command prints: a process of its own, that was told of the server in its own way."""
    about = f"- model_id: lab-run\n  model_name: lab\n  api_base: {real.url}/v1\n  api_key_name: lab\n"
    (folder / "extra-openai-models.yaml").write_text(about)
    (folder / "keys.json").write_text(json.dumps({"lab": real.token}))
    words = [sys.executable, "-m", "llm", "-m", "lab-run", *options, "-o", "max_tokens", "12", "-o", "seed", "7", text]
    environment = os.environ | {"LLM_USER_PATH": str(folder)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
    return done.stdout


@pytest.mark.parametrize("option", [(), pytest.param(("--no-stream",), marks=pytest.mark.slow)])
def test_the_llm_command_talks_with_it(real: Real, run: Run, tmp_path: Path, option: tuple[str, ...]) -> None:
    pytest.importorskip("llm")
    assert llm(real, tmp_path, "the old dog", *option).strip() == truth(run).text.strip()


STEPS = 4  # different checkpoints that are to answer, so that training demonstrably goes on in between
ENOUGH = 20


@pytest.mark.slow
def test_clients_of_others_talk_with_a_run_from_scratch_while_it_trains(tmp_path: Path, text_file: Path) -> None:
    """Every answer is `lab.generate`'s at the checkpoint that it names, token for token, and can be made again."""
    openai = pytest.importorskip("openai")
    pytest.importorskip("llm")
    said: list[tuple[str, int, int, str]] = []  # id, step, seed, text
    with (
        training(tmp_path, text_file, "checkpoint.every=40", "checkpoint.keep=1000") as run,
        really_served(run.path) as real,
    ):
        client = openai.OpenAI(base_url=f"{real.url}/v1", api_key=real.token, max_retries=0)
        deadline = time.monotonic() + PATIENCE
        while len({step for _, step, _, _ in said}) < STEPS or len(said) < ENOUGH:
            assert time.monotonic() < deadline, f"only {said[-1:]}"
            seed = len(said)
            asked = {"model": "lab", "messages": QUESTION, "max_tokens": 24, "seed": seed}
            whole = client.chat.completions.create(**asked, logprobs=True)
            assert len(whole.choices[0].logprobs.content) <= whole.usage.completion_tokens
            said.append((whole.id, step_of(whole), seed, whole.choices[0].message.content))
            chunks = list(client.chat.completions.create(**asked, stream=True))
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            said.append((chunks[0].id, step_of(chunks[0]), seed, text))
        assert client.models.retrieve(f"lab@step-{said[0][1]}").step == said[0][1]
        printed = [llm(real, tmp_path, "the old dog", *option) for option in ((), ("--no-stream",))]
        assert real.ask("/health")["training"] == "training"
    with Chats.reader(run.path) as chats:
        records = {one.id: one for one in chats.exchanges(10_000)}
    assert len(records) == len(said) + 2 and all(record.state == "done" for record in records.values())
    tokenizer = run.tokenizer()
    ids, _ = tokenizer.chat(QUESTION, reply_as="assistant")
    model = functools.cache(run.model)
    for id, step, seed, text in said:
        found = generate(model(step), tokenizer, ids, Sampling(max_tokens=24, seed=seed, temperature=1.0))
        assert (text, step, seed, ids) == (found.text, records[id].step, records[id].seed, records[id].prompt_ids)
        assert found.ids == records[id].ids
    assert all(reproduce(run, records[id]).ids == records[id].ids for id, *_ in said[::10])
    for record in (record for id, record in records.items() if id not in {id for id, *_ in said}):  # asked by `llm`
        found = generate(model(record.step), tokenizer, ids, Sampling(max_tokens=12, seed=7, temperature=1.0))
        assert found.ids == record.ids and any(found.text.strip() == text.strip() for text in printed)


def step_of(answer: Any) -> int:
    return int(answer.system_fingerprint.removeprefix("step-"))


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Run:
    try:
        assets.get("smollm2")
    except LabError as missing:  # a failure under LAB_STRICT=1
        pytest.skip(str(missing))
    return import_run("smollm2", "smol", tmp_path_factory.mktemp("smollm2"))


@pytest.mark.slow
def test_clients_of_others_talk_with_smollm2(smollm2: Run, tmp_path: Path) -> None:
    openai = pytest.importorskip("openai")
    pytest.importorskip("llm")
    text = "What is the capital of France?"
    asked: dict[str, Any] = {"model": "lab", "messages": [{"role": "user", "content": text}]}
    with really_served(smollm2.path) as real:
        client = openai.OpenAI(base_url=f"{real.url}/v1", api_key=real.token, max_retries=0)
        assert [model.id for model in client.models.list()] == ["lab", "lab@step-0"]
        assert client.models.retrieve("lab@step-0").step == 0
        greedy = client.chat.completions.create(**asked, temperature=0, max_tokens=24)
        assert "Paris" in greedy.choices[0].message.content and greedy.choices[0].finish_reason == "stop"
        options = {"max_tokens": 24, "seed": 3, "logprobs": True, "top_logprobs": 3}
        whole = client.chat.completions.create(**asked, **options)
        chunks = list(client.chat.completions.create(**asked, **options, stream=True))
        with client.chat.completions.stream(**asked, temperature=0, max_tokens=24) as stream:
            assert stream.get_final_completion().choices[0].message.content == greedy.choices[0].message.content
        short = client.chat.completions.stream(**asked, max_tokens=2)
        with short as stream, pytest.raises(openai.LengthFinishReasonError):
            stream.get_final_completion()
        for error, wrong in ((openai.NotFoundError, {"model": "gpt-4"}), (openai.BadRequestError, {"temperature": 9})):
            with pytest.raises(error):
                client.chat.completions.create(**asked | wrong)
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()
        printed = [llm(real, tmp_path, text, *option) for option in ((), ("--no-stream",))]
    with Chats.reader(smollm2.path) as chats:
        records = {one.id: one for one in chats.exchanges()}
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    rows = [one for chunk in chunks if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content]
    assert said == whole.choices[0].message.content == records[whole.id].text
    assert rows == whole.choices[0].logprobs.content and all(len(one.top_logprobs) == 3 for one in rows)
    assert all(one.logprob <= 0 for one in rows) and len(rows) == len(records[whole.id].ids)
    tokenizer = smollm2.tokenizer()
    ids, _ = tokenizer.chat(asked["messages"], reply_as="assistant")
    model = smollm2.model(0)
    for record in records.values():  # also those of `llm`, and of the stream that was cut at its length
        settings = record.settings | {"stop": tuple(record.settings["stop"])}
        found = generate(model, tokenizer, ids, Sampling(seed=record.seed, **settings))
        assert record.state == "done" and (record.prompt_ids, record.ids) == (ids, found.ids)
    assert len(records) == 7
    told = generate(model, tokenizer, ids, Sampling(max_tokens=12, seed=7, temperature=1.0)).text
    assert [one.strip() for one in printed] == [told.strip()] * 2
    assert reproduce(smollm2, records[whole.id]).ids == records[whole.id].ids


@pytest.mark.slow
def test_schemathesis_finds_no_answer_that_is_the_servers_failure(real: Real, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    words = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{real.url}/openapi.json"]
    words += ["--header", f"Authorization: Bearer {real.token}", "--checks", "not_a_server_error"]
    words += ["--max-examples", "30", "--phases", "examples,fuzzing", "--seed", "1", "--no-color"]
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, timeout=240
    )  # it leaves notes where it runs
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
