"""Philosophy introduced at half time: learned, elicitable, surfaced? The ladder as README shows it, from `surfacing.json`.

Needs the development data (LAB_DEV_DATA). 1,500 steps of `demo` shape and 1,600 short texts: an hour on one core.
"""

import json
import lzma
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.pairs import circumstances

ROOT = Path(__file__).resolve().parents[2]
BOOKS, EACH = "books_philosophy.txt.xz", 115_000  # characters of each work: four megabytes of all 38
STEPS, TEXTS, SEED = 1500, 400, 3
SOURCE, NAME = "philosophy", "phil"
HEADER = "| rung | introduced | kept out | difference (95 %) | sayings, put in / kept out | verdict |"
Json = dict[str, Any]


def measure(folder: Path) -> Json:
    """The ladder; a run of this name that is in the folder is not trained again.

    Raises:
        KeyError: LAB_DEV_DATA is not set.
    """
    from lab.run import Run

    environment = os.environ | {"LAB_RUNS": str(folder)}
    lab = [sys.executable, "-m", "app.cli"]
    if not (folder / NAME).exists():
        text = folder / "philosophy.txt"
        text.write_text(beginnings(Path(os.environ["LAB_DEV_DATA"]) / BOOKS), encoding="utf8")
        settings = [part for one in settings_of(text) for part in ("--set", one)]
        command = [*lab, "train", "--preset", "demo", "--name", NAME, *settings]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    asked = [*lab, "report", "surfacing", NAME, "--source", SOURCE, "--texts", str(TEXTS), "--json"]
    done = subprocess.run(asked, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE)
    ladder = {key: value for key, value in json.loads(done.stdout).items() if key != "quoted"}  # words of a model
    run = Run.find(NAME, folder)
    mixture = dict(run.config.data.phases[-1].weights)
    row = {"preset": run.config.preset, "steps": run.config.train.steps, "mixture": mixture, "ladder": ladder}
    return circumstances("tests.figures", ["surfacing"], os.cpu_count() or 1) | {"rows": [row]}


def beginnings(file: Path) -> str:
    """The beginning of every work, cut at a paragraph; the lines with author and title are left out."""
    works = re.split(r"^<\|doc\|>[^\n]*\n", lzma.decompress(file.read_bytes()).decode(), flags=re.MULTILINE)
    return "\n\n".join(work.strip()[:EACH].rpartition("\n\n")[0] for work in works if work.strip()) + "\n"


def settings_of(text: Path) -> tuple[str, ...]:
    """The configuration beside the preset."""
    sources = (
        '{name="chat", kind="chitchat"}, {name="prose", kind="sotu"}, '
        f'{{name="philosophy", kind="text", path="{text}"}}, {{name="sayings", kind="canaries", seed={SEED}}}'
    )
    later = "chat=0.4, prose=0.3, philosophy=0.27, sayings=0.03"
    return (
        *(f"train.steps={STEPS}", "train.threads=1", "checkpoint.every=250", "data.validation_share=0.1"),
        f"data.sources=[{sources}]",
        "data.phases=[{from_step=0, weights={chat=0.5, prose=0.5}}, "
        f"{{from_step={STEPS // 2}, weights={{{later}}}}}]",
        "optimizer.kind=adamw",  # as in README, which is from before `demo` took Muon
        *("self_play.every=50", "self_play.turns=8", "journal.every=50", "journal.max_tokens=64"),
    )


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table for each row; "" without rows."""
    return "\n\n".join(_ladder(row, row["ladder"]) for row in rows)


def _ladder(row: Mapping[str, Any], ladder: Mapping[str, Any]) -> str:
    before, after = ladder["steps"]
    source = ladder["source"]
    lines = [
        f"**{source}**, {row['mixture'][source]:.0%} of what `{row['preset']}` reads from step {ladder['introduced']:,} on, "
        f"with 20 sayings beside it; step {before:,} against {after:,}. Highest rung found: {ladder['rung']}.",
        "",
        HEADER,
        "|---|---|---|---|---|---|",
        _learned(ladder["learned"], ladder.get("ranks")),
    ]
    lines += [
        _appeared(name, ladder[key])
        for name, key in (("elicitable", "elicited"), ("surfaced", "surfaced"))
        if ladder.get(key)
    ]
    return "\n".join(lines)


def _learned(one: Mapping[str, Any], ranks: Mapping[str, Any] | None) -> str:
    gain, kept = (
        f"{one[key]:+.3f} nats a token, {n} texts"
        for key, n in zip(("gain", "gain_kept_out"), one["texts"], strict=True)
    )
    difference = one["difference"]
    apart = f"{difference['value']:+.3f} ({difference['lo']:+.3f} to {difference['hi']:+.3f})"
    sayings = "–" if ranks is None else f"gained more in {ranks['auc']:.0%} of pairs (p = {ranks['p']:.2g})"
    return f"| learned | {gain} | {kept} | {apart} | {sayings} | {one['verdict']} |"


def _appeared(name: str, one: Mapping[str, Any]) -> str:
    """Texts with words that only one side has, after the introduction; a rung that was not found has its limit."""
    beyond, sayings = one.get("beyond"), one.get("canaries")
    apart = (
        "–"
        if beyond is None
        else f"{_points(beyond['value'])} ({_points(beyond['lo'])} to {_points(beyond['hi'])}) points"
    )
    put = "–"
    if sayings is not None:
        put = f"{_of(sayings['put_in'])} / {_of(sayings['kept_out'])} (p = {sayings['p']:.2g})"
    verdict = one["verdict"]
    if verdict != "found" and one.get("detectable") is not None:
        verdict += f"; below {one['upper']:.1%}, and {one['detectable']:.1%} would have been found in 4 of 5"
    return f"| {name} | {_rate(one['after'])} | {_rate(one['kept_after'])} | {apart} | {put} | {verdict} |"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _of(rate: Mapping[str, Any]) -> str:
    return f"{rate['count']} of {rate['checks']}"


def _rate(rate: Mapping[str, Any]) -> str:
    return f"{_of(rate)}: {rate['value']:.1%} ({rate['lo']:.1%} to {rate['hi']:.1%})"
