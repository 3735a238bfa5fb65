"""Clients that other people wrote, against this server: the `openai` package, the `llm` command, schemathesis."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.server import create
from app.server_guard import Policy
from lab.generate import Sampling, generate
from lab.run import Run
from tests.app.serving import BASE, TOKEN, Real, loopback, served
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


@pytest.fixture(params=["in process", "loopback"])
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


def test_the_llm_command_talks_with_it(real: Real, tmp_path: Path) -> None:
    pytest.importorskip("llm")
    about = f"- model_id: lab-run\n  model_name: lab\n  api_base: {real.url}/v1\n  api_key_name: lab\n"
    (tmp_path / "extra-openai-models.yaml").write_text(about)
    (tmp_path / "keys.json").write_text(json.dumps({"lab": real.token}))
    for option in ([], ["--no-stream"]):
        words = [sys.executable, "-m", "llm", "-m", "lab-run", *option, "-o", "max_tokens", "9", "-o", "seed", "7"]
        environment = os.environ | {"LLM_USER_PATH": str(tmp_path)}
        done = subprocess.run([*words, "the old dog"], env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and done.stdout.strip(), done.stderr


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
