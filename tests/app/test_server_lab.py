"""The lab's own routes: what they show is what the run holds, control is a closed set, jobs are verbs of the command."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from starlette.testclient import TestClient

from app import cli_bench, cli_freeze, cli_shimmer, cli_verify, server_jobs
from app.server import Server
from app.server_fits import fit_probe
from app.server_job_progress import branch_of, progress_of
from app.server_jobs import BadJob, command_line
from lab.concepts import Concept
from lab.records import Finding, Records
from lab.run import Run
from probes.layers.fit import assign_folds
from probes.layers.lens import LOGIT_LENS, Head
from tests.app.serving import chat, commands_of, served, until
from tests.made_runs import made_run
from train.commands import VERBS
from train.probing import Bench


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = made_run(tmp_path_factory.mktemp("lab"))
    with Records.writer(run.database) as records:
        for step in (0, 8):
            records.add_now(
                Finding(
                    segment=1, step=step, instrument="loops", rule="tail", version="1", severity="watch", text=f"at {step}",
                    value=float("nan"), evidence={"source": "selfplay"},
                )
            )  # fmt: skip
    return run


@pytest.fixture(scope="module")
def both(run: Run) -> Iterator[tuple[TestClient, Server]]:
    with served(run.path) as found:
        yield found


@pytest.fixture
def client(both: tuple[TestClient, Server]) -> TestClient:
    return both[0]


def test_health_tells_little_and_status_tells_all(client: TestClient) -> None:
    health = client.get("/health", headers={"authorization": ""})
    assert set(health.json()) == {"status", "id", "uptime", "training", "step", "weights_step"}
    assert len(health.json()["id"]) == 32
    assert health.json() | {"uptime": 0, "id": ""} == {
        "status": "ok",
        "id": "",
        "uptime": 0,
        "training": "finished",
        "step": 8,
        "weights_step": 8,
    }
    status = client.get("/lab/v1/status").json()
    assert status["runs"][0]["weights_step"] == 8 and status["runs"][0]["loss"] == pytest.approx(4.2)
    assert status["server"]["device"] == "cpu"


def test_findings_journal_and_timeline_are_the_runs(client: TestClient, run: Run) -> None:
    found = client.get("/lab/v1/findings", params={"limit": 1}).json()
    assert found["count"] == 2 and [one["text"] for one in found["findings"]] == ["at 8"]
    assert found["findings"][0]["value"] is None  # no number: JSON has no NaN
    assert client.get("/lab/v1/journal").json() == {"run": run.name, "count": 0, "entries": []}
    from app.timeline import timeline

    assert client.get("/lab/v1/timeline").json()["moments"] == [one.to_json() for one in timeline(run)]
    assert client.get("/lab/v1/findings", params={"limit": 0}).status_code == 400
    assert client.get("/lab/v1/findings", params={"order": "x"}).status_code == 400


def test_control_takes_the_closed_set_typed_and_nothing_else(client: TestClient, run: Run) -> None:
    before = commands_of(run)
    wrong: list[dict[str, Any]] = [
        {"verb": "rm"}, {"verb": "pause", "arguments": {"owner": "root"}}, {"verb": "pause", "arguments": {"x": 1}}, {},
        {"verb": "set-interval", "arguments": {"name": "probing", "every": "5"}}, {"verb": "stop", "run": "../x"},
        {"verb": "set-interval", "arguments": {"name": "../x", "every": 5}}, {"verb": ["stop"]}, {"verb": "stop", "wait": 99},
        {"verb": "pause", "arguments": {"reason": "two\nlines"}}, {"verb": "stop", "extra": 1},
    ]  # fmt: skip
    for body in wrong:
        assert client.post("/lab/v1/control", json=body).status_code == 400, body
    assert commands_of(run) == before
    schema = client.get("/openapi.json").json()["components"]["schemas"]["ControlRequest"]
    assert schema["properties"]["verb"]["enum"] == list(VERBS)
    held = client.post("/lab/v1/control", json={"verb": "pause", "arguments": {"reason": "lunch"}}).json()
    assert held["changed"] and not held["refused"]
    assert client.get("/lab/v1/status").json()["runs"][0]["latches"][0]["reason"] == "lunch"
    assert client.post("/lab/v1/control", json={"verb": "unpause"}).json()["changed"]
    stopped = client.post("/lab/v1/control", json={"verb": "stop"}).json()
    assert stopped["refused"] and "no trainer" in stopped["result"]


def test_a_command_that_is_not_acknowledged_in_time_was_sent_and_is_no_failure(client: TestClient, run: Run) -> None:
    with run.lock("train"):  # a trainer that is busy with something long
        answer = client.post("/lab/v1/control", json={"verb": "pause", "wait": 0})
        assert answer.status_code == 202 and not answer.json()["acknowledged"]
        assert [path.name for path in run.inbox.iterdir()] == [f"command-{answer.json()['id']}.json"]
    assert client.post("/lab/v1/control", json={"verb": "unpause"}).json()["acknowledged"]


# ------------------------------------------------------------------------------------------------------------------ jobs


def finished(client: TestClient, id: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def ended() -> bool:
        found.update(client.get(f"/lab/v1/jobs/{id}").json())
        return found["ended_at"] is not None

    until(ended, "the job has ended")
    return found


@pytest.mark.slow
def test_a_job_is_the_verb_as_a_person_would_type_it(client: TestClient) -> None:
    asked = client.post("/lab/v1/jobs", json={"kind": "verify", "options": {"step": 5}})
    assert asked.status_code == 202 and asked.json()["state"] in ("queued", "running")
    failed = finished(client, asked.json()["id"])
    assert (
        failed["state"] == "failed" and failed["exit_code"] == 2 and any("step 5" in line for line in failed["lines"])
    )


def test_a_jobs_result_is_what_its_verb_printed(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_jobs, "command_line", lambda *_: [sys.executable, "-c", "print([1, 2])"])
    done = finished(client, client.post("/lab/v1/jobs", json={"kind": "verify"}).json()["id"])
    assert (done["state"], done["exit_code"], done["result"]) == ("done", 0, [1, 2])
    assert [job["id"] for job in client.get("/lab/v1/jobs").json()["jobs"]][:1] == [done["id"]]
    assert client.get("/lab/v1/jobs/job-0").status_code == 404 == client.delete("/lab/v1/jobs/job-0").status_code


def test_no_option_that_names_a_file_and_no_unknown_verb_gets_through(run: Run) -> None:
    for kind, options in (
        ("train", {}), ("app", {}), ("verify", {"html": "x"}), ("verify", {"conllu": ["x"]}), ("verify", {"run": "x"}),
        ("verify", {"quick": "yes"}), ("verify", {"step": True}), ("verify", {"text": "a\0b"}),
        ("verify", {"text": "a" * 5000}), ("verify", {"help": True}), ("verify", {"step": [1, 2]}),
    ):  # fmt: skip
        with pytest.raises(BadJob):
            command_line(kind, run, options)
    words = command_line("verify", run, {"text": "--html=x", "step": 3})
    assert words[-2:] == ["--", str(run.path)] and "--text=--html=x" in words and "--step=3" in words


VERBS_OF_JOBS = {"verify": cli_verify.verify, "bench": cli_bench.bench, "freeze": cli_freeze.freeze}
VERBS_OF_JOBS["shimmer"] = cli_shimmer.shimmer


def test_a_job_may_set_what_its_verb_takes_but_nothing_that_is_or_could_be_a_file() -> None:
    found, files = {}, set()
    for kind, verb in VERBS_OF_JOBS.items():
        taken = get_type_hints(verb)
        files |= {name for name, kinds in taken.items() if "Path" in str(kinds)}
        found[kind] = set(taken) - files - {"run", "set_", "as_json", "return"}
    assert found == server_jobs.KINDS and files == {"conllu", "streusle", "files", "html"}


@pytest.mark.parametrize("kind", server_jobs.KINDS)
def test_every_option_of_a_job_reaches_its_verb(run: Run, kind: str) -> None:
    import typer.main

    from app.cli import app

    examples: dict[str, Any] = {"bool": True, "int": 3, "float": 0.5, "str": "-a=b"}
    options: dict[str, Any] = {}
    for name, kinds in get_type_hints(VERBS_OF_JOBS[kind]).items():
        if name in server_jobs.KINDS[kind]:
            value = next(value for word, value in examples.items() if word in str(kinds))
            options[name] = [value, value] if "list" in str(kinds) else value
    words = command_line(kind, run, options)
    verb: Any = typer.main.get_command(app).commands[kind]  # type: ignore[attr-defined]
    read = verb.make_context(kind, words[words.index(kind) + 1 :]).params
    assert set(options) == server_jobs.KINDS[kind] and {name: read[name] for name in options} == options
    assert read["run"] == str(run.path) and read["as_json"] is True


def test_a_freeze_says_what_it_makes_and_its_progress_goes_over_all_its_runs() -> None:
    asked = {"concept": "weather", "mode": "write+anchor", "steps": 10, "twins": "unfrozen"}
    assert branch_of("freeze", "fox", asked) == "fox--weather-write-anchor"
    assert branch_of("freeze", "fox", asked | {"name": "mine"}) == "mine"
    assert branch_of("freeze", "fox", asked | {"live": True}) is None and branch_of("verify", "fox", asked) is None
    progress, shares = progress_of("freeze", asked), []
    for line in (
        "1 of 2: fox--weather-write-anchor", "tokens of story: 40%", "step 105/110  loss 3.1", "step 110/110  loss 3.0",
        "2 of 2: fox--weather-write-anchor--twin-unfrozen", "step 103/110  loss 3.1", "step 110/110", "proof: 50%",
        "proof: 100%",
    ):  # fmt: skip
        progress.hear(line)
        shares.append(progress.share)
    assert shares == pytest.approx([0, 0, 0.225, 0.45, 0.45, 0.585, 0.9, 0.95, 1.0])
    other = progress_of("verify", {})
    other.hear("1 of 2: claims, 25%")
    assert other.share == 0.25


def test_jobs_run_one_at_a_time_tell_their_progress_and_can_be_cancelled(
    both: tuple[TestClient, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server = both
    sleeper = "import sys,time\nprint('half: 50%', file=sys.stderr, flush=True)\ntime.sleep(600)"
    monkeypatch.setattr(server_jobs, "command_line", lambda *_: [sys.executable, "-c", sleeper])
    ids = [client.post("/lab/v1/jobs", json={"kind": "verify"}).json()["id"] for _ in range(3)]
    until(lambda: client.get(f"/lab/v1/jobs/{ids[0]}").json()["progress"] == 0.5, "the first says how far it is")
    states = [client.get(f"/lab/v1/jobs/{id}").json()["state"] for id in ids]
    assert states == ["running", "queued", "queued"]
    assert client.delete(f"/lab/v1/jobs/{ids[2]}").json()["state"] == "cancelled"
    client.delete(f"/lab/v1/jobs/{ids[0]}")
    assert finished(client, ids[0])["state"] == "cancelled"
    until(lambda: client.get(f"/lab/v1/jobs/{ids[1]}").json()["state"] == "running", "the second has begun")
    client.delete(f"/lab/v1/jobs/{ids[1]}")
    assert finished(client, ids[1])["state"] == "cancelled" and finished(client, ids[2])["begun_at"] is None
    assert client.delete(f"/lab/v1/jobs/{ids[1]}").json()["state"] == "cancelled"
    with monkeypatch.context() as patched:
        patched.setattr(server.lab.jobs, "_most", 0)
        assert client.post("/lab/v1/jobs", json={"kind": "verify"}).status_code == 429


# ----------------------------------------------------------------------------------------------------------------- trace


def test_the_lens_at_the_last_layer_is_the_model_itself(client: TestClient, run: Run) -> None:
    body = {"text": "the old farmer walked", "lens": "logit", "probes": False, "top_k": 4, "model": "lab@step-0"}
    found = client.post("/lab/v1/trace", json=body).json()
    model, tokenizer = run.model(0), run.tokenizer()
    ids = [tokenizer.bos, *tokenizer.encode("the old farmer walked")]
    assert [token["id"] for token in found["tokens"]] == ids and found["step"] == 0
    with torch.no_grad():
        logits, cache = model.run_with_cache(torch.tensor([ids]))
    truth = logits[0].softmax(-1).topk(4)
    top = found["lens"]["top"]
    assert len(top) == model.cfg.n_layers + 1 and len(top[0]) == len(ids)
    for place in range(len(ids)):
        assert [one["id"] for one in top[-1][place]] == truth.indices[place].tolist()
        assert [one["p"] for one in top[-1][place]] == pytest.approx(truth.values[place].tolist(), abs=2e-5)
    early = Head.of(model).logits(LOGIT_LENS.read(0, cache["blocks.0.hook_resid_pre"][0])).argmax(-1)
    assert [row[0]["id"] for row in top[0]] == early.tolist()


def test_attention_and_concepts_are_those_of_the_model(client: TestClient, run: Run) -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(32, 2, generator=generator)).Q
    concept = Concept(
        "farm", 1, basis, torch.zeros(32), torch.randn(2, 2, generator=generator), torch.zeros(2), ("no", "yes"),
        {"step": 8, "sha256": "x"}, run.tokenizer().sha256,
    )  # fmt: skip
    concept.save(run, replace=True)
    body = {"text": "the old farmer", "lens": "logit", "probes": False, "attention": {"block": 1, "head": 2}}
    found = client.post("/lab/v1/trace", json=body).json()
    ids = torch.tensor([[token["id"] for token in found["tokens"]]])
    with torch.no_grad():
        _, cache = run.model(8).run_with_cache(ids)
    assert torch.tensor(found["attention"]).allclose(cache["blocks.1.attn.hook_pattern"][0, 2], atol=1e-4)
    stream = cache["blocks.0.hook_resid_post"][0]
    scores = (stream @ basis @ concept.weight.T).softmax(-1)
    said = found["concepts"]["farm"]
    assert torch.tensor(said["probability"][1]).allclose(scores, atol=1e-4) and said["layer"] == 1
    assert torch.tensor(said["strength"][1]).allclose((stream @ basis).norm(dim=-1), rtol=1e-4, atol=1e-3)
    for wrong in ({"block": 9, "head": 0}, {"block": 0, "head": 9}):
        assert client.post("/lab/v1/trace", json=body | {"attention": wrong}).status_code == 400


def test_what_cannot_be_fitted_is_said_and_the_rest_is_shown(client: TestClient) -> None:
    found = client.post("/lab/v1/trace", json={"text": "the old farmer"}).json()
    assert "lab probe" in found["untestable"]["probes"] and found["lens"]["name"].startswith("logit")
    assert found["probes"] == {} and len(found["lens"]["top"]) == 3
    assert client.post("/lab/v1/trace", json={"text": "market " * 200}).status_code == 400
    assert client.post("/lab/v1/trace", json={"text": ""}).status_code == 400


def test_a_probe_reads_the_class_that_was_planted_where_it_was_planted() -> None:
    """Layer 0 holds noise; layer 1 the class along one direction, under an offset and another scale."""
    generator = torch.Generator().manual_seed(3)
    words, width = 900, 12
    label = torch.randint(2, (words,), generator=generator)
    values = torch.randn(2, words, width, generator=generator)
    values[1, :, 4] += 3.0 * label
    values[1] = values[1] * torch.linspace(0.1, 30, width) + 100
    sentence = torch.arange(words) // 3
    probe = fit_probe(values, label, sentence, assign_folds(300, 5), ("no", "yes"), "planted")
    share = probe.read(values)[..., 1]
    assert probe.bits[1] > 0.4 > 0.05 > probe.bits[0] and probe.n == words
    assert float(((share[1] > 0.5) == label.bool()).float().mean()) > 0.9
    assert float(share[0].std()) < 0.15  # where nothing can be read, it says the share of the class
    fresh = torch.randn(1000, width, generator=generator)
    sure = probe.read(torch.stack([fresh, (fresh + torch.eye(width)[4] * 3) * torch.linspace(0.1, 30, width) + 100]))[
        1, :, 1
    ]
    assert float((sure > 0.5).float().mean()) > 0.85
    loss = -torch.where(label.bool(), share[1], 1 - share[1]).log2().mean()
    assert float(loss) < 1 - probe.bits[1] + 0.05  # calibrated about as well as out of fold


def test_probes_and_ridge_lens_are_fitted_once_a_checkpoint_from_the_runs_own_probe_set(
    tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app import server_trace

    run = made_run(tmp_path, text=text_file)
    texts = text_file.read_text(encoding="utf8").split("\n\n")
    Bench.open(run, run.config.probing, run.tokenizer(), lambda: texts)
    fits: list[int] = []
    real = server_trace.fit

    def counted(*arguments: Any) -> Any:
        fits.append(1)
        return real(*arguments)

    monkeypatch.setattr(server_trace, "fit", counted)
    before = sorted(path.name for path in run.statistics.iterdir())
    with served(run.path) as (client, _):
        found = [client.post("/lab/v1/trace", json={"text": text}).json() for text in ("the old dog", "a king")]
        assert client.post("/lab/v1/trace", json={"text": "a king", "model": "lab@step-0"}).json()["step"] == 0
    assert len(fits) == 2 and sorted(path.name for path in run.statistics.iterdir()) == before  # it writes nothing
    assert found[0]["lens"]["name"] == "ridge lens", found[0]["untestable"]
    probe = found[0]["probes"]["class.current"]
    assert set(probe["classes"]) == {"content", "function"} and len(probe["usable_bits"]) == 3
    shares = torch.tensor(probe["probability"])
    assert shares.shape == (3, len(found[0]["tokens"]), 2) and torch.allclose(shares.sum(-1), torch.ones(()), atol=1e-3)


def test_a_run_whose_records_are_a_ruin_is_served_and_said_to_be_one(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    for leftover in ("run.db-wal", "run.db-shm"):
        (run.path / leftover).unlink(missing_ok=True)
    run.database.write_bytes(b"this is not SQLite" * 500)
    with served(run.path) as (client, _):
        assert client.get("/health").json()["training"] == "unreadable"
        assert chat(client).status_code == 200
        assert client.get("/lab/v1/findings").status_code == 503
        assert "cannot be read" in json.dumps(client.get("/lab/v1/status").json())


def test_the_document_names_every_route_and_only_those(both: tuple[TestClient, Server]) -> None:
    client, server = both
    document = client.get("/openapi.json").json()
    said = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert said == {(method, route.path) for route in server.routes for method in route.methods}
    text = json.dumps(document)
    for reference in set(part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]):
        assert reference in document["components"]["schemas"], reference
