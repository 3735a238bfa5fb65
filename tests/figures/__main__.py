"""`make figures`: rerun the measurements that README quotes, keep them as JSON here, and render README's table from them.

    python -m tests.figures               # everything (about two hours on two cores)
    python -m tests.figures --render      # only README's table, from the JSON that is here
    python -m tests.figures demo laptop   # only these
    python -m tests.figures peers --pairs 15  # side by side with every peer (make bench-peers)

Benches against HookedTransformer 3.9.0 run in the second environment (make test-tl39 sets it up); `generation` needs the
SmolLM2 asset (lab data get smollm2).
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.pairs import circumstances
from tests.figures import bench as benched
from tests.figures import beside, freeze, growth, peers, remedy, serving, soak, stereotypes, surfacing, talks, verdicts

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OTHER = ROOT / ".venv-tl39" / "bin" / "python"
DEMO, WIDE = (
    ["--d-model", "128", "--heads", "4", "--context", "128", "--batch", "32"],
    ["--d-model", "512", "--batch", "4"],
)
BENCHES: dict[str, tuple[str, list[str]]] = {
    "step_demo": (sys.executable, ["tests.benchmarks.step", *DEMO]),
    "step_plain": (sys.executable, ["tests.benchmarks.step"]),
    "step_llama": (sys.executable, ["tests.benchmarks.step", "--against", "llama", *WIDE]),
    "step_llama_256": (sys.executable, ["tests.benchmarks.step", "--against", "llama", "--batch", "16"]),
    "step_hooked_256": (
        str(OTHER),
        ["tests.benchmarks.step", "--against", "hooked", "--context", "256", "--batch", "16"],
    ),
    "step_hooked_1024": (
        str(OTHER),
        ["tests.benchmarks.step", "--against", "hooked", "--context", "1024", "--batch", "2"],
    ),
    "harvest": (str(OTHER), ["tests.benchmarks.harvest"]),
    "generation": (sys.executable, ["tests.benchmarks.generation", "--run", "smol"]),
    "probes": (sys.executable, ["tests.benchmarks.probes"]),
    "coverage": (sys.executable, ["tests.benchmarks.coverage"]),
    "faults": (sys.executable, ["tests.benchmarks.faults"]),
    "interval": (sys.executable, ["tests.benchmarks.interval"]),
    "costs": (sys.executable, ["tests.benchmarks.costs", "--run", "laptop"]),
    "serving": (sys.executable, ["tests.benchmarks.serving"]),
    "parallel": (sys.executable, ["tests.benchmarks.parallel"]),
    "live_tab": (sys.executable, ["tests.benchmarks.live_tab"]),
    "growth": (sys.executable, ["tests.benchmarks.growth"]),
    "soak": (sys.executable, ["tests.benchmarks.soak"]),
    "race": (sys.executable, ["tests.benchmarks.race"]),
}
OWN_FOLDER = ("soak", "race")  # benches that keep what they make in a folder of their own
SIDE_BY_SIDE = (*peers.PEERS, "harvest", "generation", "probes", "bench_lm_eval")
RUNS = ("demo", "laptop")
VERDICTS = ("verdict_laptop", "verdict_smollm2")
TALKS = ("talks_laptop", "talks_smollm2")
FREEZE = "freeze"
BEHAVIOUR = ("remedy", "stereotypes", "surfacing")
LASTING = ("growth", "soak", "parallel", "live_tab")
BENCHED = tuple(benched.MEASURES)
BEGIN, END = "<!-- figures: rendered by python -m tests.figures -->", "<!-- /figures -->"
BEGIN_FREEZE, END_FREEZE = "<!-- freeze: rendered by python -m tests.figures -->", "<!-- /freeze -->"
BEGIN_SERVING, END_SERVING = "<!-- serving: rendered by python -m tests.figures -->", "<!-- /serving -->"
BEGIN_VERDICTS, END_VERDICTS = "<!-- verdicts: rendered by python -m tests.figures -->", "<!-- /verdicts -->"
BEGIN_TALKS, END_TALKS = "<!-- talks: rendered by python -m tests.figures -->", "<!-- /talks -->"


def bench(name: str, folder: Path, pairs: int | None = None) -> dict[str, Any]:
    """One bench in its environment; its JSON."""
    python, arguments = BENCHES[name]
    arguments = arguments + (["--folder", str(folder / f"of-{name}")] if name in OWN_FOLDER else [])
    arguments += ["--pairs", str(pairs)] if pairs is not None else []
    # One thread for every library: a second one of numpy's would count as CPU time of the peer that uses it.
    environment = os.environ | {"LAB_RUNS": str(folder), "OMP_NUM_THREADS": "1"}
    if name == "generation" and not (folder / "smol").exists():
        command = [sys.executable, "-m", "app.cli", "import", "smollm2", "--name", "smol"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    if name == "costs" and not (folder / "laptop").exists():
        trained("laptop", folder)
    done = subprocess.run([python, "-m", *arguments], cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def trained(preset: str, folder: Path) -> dict[str, Any]:
    """A run of a preset by the command line: validation, the bigram yardstick, and what each attachment cost."""
    environment = os.environ | {"LAB_RUNS": str(folder)}
    subprocess.run(
        [sys.executable, "-m", "app.cli", "train", "--preset", preset, "--name", preset],
        cwd=ROOT,
        env=environment,
        check=True,
    )
    return describe(preset, folder)


def describe(name: str, folder: Path) -> dict[str, Any]:
    """The figures of a finished run."""
    from lab.bigram import bigram_bits_per_byte
    from lab.run import Run
    from train.session import corpus_of

    run = Run.find(name, folder)
    with run.records() as records:
        series = [(step, round(value, 4)) for _, step, value in records.series("validation/bits_per_byte")]
        loss = records.newest("validation/loss")
        seconds = {
            metric.removeprefix("cost/").removesuffix("_seconds"): round((records.newest(metric) or (0, 0.0))[1], 1)
            for metric in records.metric_names()
            if metric.startswith("cost/")
        }
        steps = series[-1][0]
        visits = len(records.reading_steps())
        tokens = (records.newest("train/tokens") or (0, 0.0))[1]
    yardstick = bigram_bits_per_byte(run.config, corpus_of(run), steps)
    row = {
        "preset": run.config.preset,
        "steps": steps,
        "tokens": int(tokens),
        "validation_nats_per_token": round(loss[1], 4) if loss else None,
        "validation_bits_per_byte": series,
        "bigram_bits_per_byte": round(yardstick, 4),
        "seconds": seconds,
        "probing_visits": visits,
        "probing_share": round(seconds["probing"] / seconds["train"], 4),
    }
    return circumstances("tests.figures", [name], os.cpu_count() or 1) | {"rows": [row]}


def render() -> str:
    """README's table, from the JSON files that are here."""
    rows = ["| what | measured | n |", "|---|---|---|"]
    rows += [*peers.render(_rows), *peers.race(_content("race"))]
    for row in _rows("coverage"):
        held = ", ".join(f"{name} {share:.1%}" for name, share in row["coverage"].items())
        worst = max(abs(bias) for bias in row["bias_layers"].values())
        title = f"planted depths, {row['sentences']} sentences, {row['method']} intervals: nominal 95 % intervals hold"
        errors = f"; A = B called different in {row['rejected']:.1%}; largest bias {worst:.3f} of 8 layers"
        rows.append(f"| {title} | {held}{errors} | {row['worlds']:,} worlds |")
    for row in _rows("faults"):
        low, high = row["interval"]
        rows.append(
            f"| injected fault, {row['fault']}: seen by the understanding module | {row['found']} of {row['n']} "
            f"[{low:.0%}, {high:.0%}] | {row['n']} seeds |"
        )
    for row in _rows("faults", "clean"):
        rows.append(f"| alerts on a clean `tiny` run | {row['alerts']} in {row['steps']:,} steps | 1 run |")
    for row in _rows("interval"):
        overlap = sum(rule["overlap"] for rule in row["rules"])
        spike, disk = (
            next(one for one in row["rules"] if one["rule"] == f"health.{name}") for name in ("loss-spike", "disk")
        )
        title = f"alarms per 1,000 checks, interval changed {row['from']} → {row['to']} on a `tiny` run"
        text = f"loss-spike {_change(spike)}; disk {_change(disk)}; {overlap} of {len(row['rules'])} rules overlap"
        rows.append(f"| {title} | {text} | {row['steps']:,} steps |")
    for row in _rows("costs"):
        text = f"{row['ratio_of_run']:.3f}× over {row['steps']:,} steps, {row['ratio_of_interval']:.3f}× in 250 ordinary ones"
        number = f"{row['step']['pairs']} pairs of steps, 3 visits each"
        rows.append(f"| `laptop`, everything attached / nothing attached, CPU time | {text} | {number} |")
        parts = [f"{one['name']} {one['share_of_run']:.1%}" for one in row["attachments"]]
        step = f"a step between visits {peers.ratio(row['step'])}"
        rows.append(f"| of that, by attachment | {', '.join(parts)}; {step} | {number} |")
    for name in RUNS:
        for row in _rows(name):
            first, last = row["validation_bits_per_byte"][0], row["validation_bits_per_byte"][-1]
            yardstick = f"bigram of the same tokens: {row['bigram_bits_per_byte']:.3f}"
            text = f"{first[1]:.3f} → {last[1]:.3f} bits per byte ({yardstick})"
            rows.append(f"| `{name}`: validation, {row['tokens'] / 1e6:.1f} M tokens | {text} | 1 run |")
            share = f"{row['probing_share']:.1%} of training time, {row['seconds']['train'] / 60:.1f} minutes"
            share += f" ({row['note']})" if "note" in row else ""
            rows.append(f"| `{name}`: probing visits | {share} | {row['probing_visits']} visits |")
    return "\n".join(rows)


def _content(name: str) -> dict[str, Any]:
    file = HERE / f"{name}.json"
    return dict(json.loads(file.read_text(encoding="utf8"))) if file.exists() else {}


def _rows(name: str, key: str = "rows") -> list[dict[str, Any]]:
    return list(_content(name).get(key, []))


def _together(name: str) -> list[dict[str, Any]]:
    """The row over all seeds, where a figure has one."""
    content = _content(name)
    return [content["together"]] if "together" in content else []


def _change(rule: dict[str, Any]) -> str:
    before, after = (
        f"{one['per_thousand']:.1f} [{one['interval'][0]:.1f}, {one['interval'][1]:.1f}]"
        for one in (rule["before"], rule["after"])
    )
    return f"{before} → {after}"


def rendered_readme() -> str:
    """README with the table, the verdicts and the talks in their places."""
    text = (ROOT / "README.md").read_text(encoding="utf8")
    shown = "\n\n".join(verdicts.render(name.removeprefix("verdict_"), row) for name in VERDICTS for row in _rows(name))
    said = "\n\n".join(talks.render(name.removeprefix("talks_"), row) for name in TALKS for row in _rows(name))
    places = ((BEGIN, render(), END), (BEGIN_VERDICTS, shown, END_VERDICTS), (BEGIN_TALKS, said, END_TALKS))
    places += ((BEGIN_FREEZE, freeze.render(_rows(FREEZE)), END_FREEZE),)
    places += ((BEGIN_SERVING, serving.render(_rows("serving")), END_SERVING),)
    rendered: tuple[str, ...] = (
        remedy.render(_rows("remedy"), _together("remedy")),
        stereotypes.render(_rows("stereotypes")),
        surfacing.render(_rows("surfacing")),
        growth.render(_rows("growth")),
        soak.render(_rows("soak")),
        beside.parallel(_rows("parallel")),
        beside.live_tab(_rows("live_tab")),
    )
    rendered += tuple(benched.render(name, _rows(name)) for name in BENCHED)
    for name, content in zip((*BEHAVIOUR, *LASTING, *BENCHED), rendered, strict=True):
        places += ((f"<!-- {name}: rendered by python -m tests.figures -->", content, f"<!-- /{name} -->"),)
    for begin, content, end in places:
        place = f"{re.escape(begin)}.*?{re.escape(end)}"
        text = re.sub(place, lambda _, new=f"{begin}\n{content}\n{end}": new, text, flags=re.DOTALL)
    return text


def measure(name: str, folder: Path, pairs: int | None = None) -> dict[str, Any]:
    """One figure; what is said of and by `laptop` is of the run that was trained for its own figure, or of a new one."""
    if name in BENCHES:
        return bench(name, folder, pairs)
    if name in RUNS:
        return trained(name, folder)
    if name == FREEZE:
        return freeze.measure(folder)
    if name in BENCHED:
        if name == "bench_blimp" and not (folder / "laptop").exists():
            trained("laptop", folder)
        return benched.harness(folder, pairs) if name == "bench_lm_eval" else benched.MEASURES[name](folder)
    if name == "remedy":
        return remedy.measure(folder)
    if name == "stereotypes":
        return stereotypes.measure(folder)
    if name == "surfacing":
        return surfacing.measure(folder)
    kind, _, model = name.partition("_")
    if model == "laptop" and not (folder / model).exists():
        trained(model, folder)
    if kind == "talks":
        return talks.measure(model, folder)
    return verdicts.measure(model, folder)


def main(arguments: list[str]) -> None:
    everything = [*BENCHES, *RUNS, *VERDICTS, *TALKS, FREEZE, *BEHAVIOUR, *BENCHED]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of: {', '.join(everything)}; peers: {', '.join(SIDE_BY_SIDE)}")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--runs", type=Path, help="keep the runs here, and use those that are there")
    parser.add_argument("--pairs", type=int, help="of what is compared with a peer, in place of 15")
    options = parser.parse_args(arguments)
    asked = options.names or everything
    names = [one for name in asked for one in (SIDE_BY_SIDE if name == "peers" else (name,))]
    with tempfile.TemporaryDirectory() as folder:
        for name in [] if options.render else names:
            found = measure(name, options.runs or Path(folder), options.pairs if name in SIDE_BY_SIDE else None)
            (HERE / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf8")
    (ROOT / "README.md").write_text(rendered_readme(), encoding="utf8")


if __name__ == "__main__":
    main(sys.argv[1:])
