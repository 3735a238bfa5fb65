"""What each mode of a freeze holds and costs: the comparison of modes, redone with twins, intervals and several seeds.

    python -m tests.benchmarks.freezing --runs FOLDER                       # 3 seeds at demo shape: hours on two cores
    python -m tests.benchmarks.freezing --runs FOLDER --shape laptop        # one seed: none, anchor, pin
    python -m tests.benchmarks.freezing --runs FOLDER --shape smollm2       # 20 steps: none, anchor
    python -m tests.benchmarks.freezing --runs FOLDER --collect             # only the figures of what is trained already

Parents stop in the middle of their schedule and keep a whole checkpoint there; branches and twins go on from it on the same
batches. A branch that is finished is not trained again and a proof that lacks no twin is not made again, so the bench may
be stopped and started at will; the JSON (on stdout, or in --out after each branch) holds what there is. First every mode of
every seed, then random twins.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lab.concepts import names
from lab.config import load_config
from lab.imports import import_run
from lab.run import Run
from lab.sections import FreezeRequest
from tests.benchmarks.pairs import circumstances
from train.__main__ import run_new
from train.branch import twin_name
from train.concepts import Task, add
from train.experiment import plan, train
from train.proving import file_name, prove

NONE = "none"
MODES = (NONE, "anchor", "pin", "write", "write+anchor", "lower")
# What rides along costs time and changes no weight; validation stays, as the yardstick of the parents.
QUIET = [f"{name}.every=0" for name in ("probing", "self_play", "check_ins", "journal", "understanding", "shimmer")]
QUIET += ["optimizer.kind=adamw"]  # as in the tables of README, which are from before `demo` took Muon


@dataclass(frozen=True)
class Shape:
    """What is trained, and how much.

    Attributes:
        to, of: the parent's last step, and the steps of its schedule; steps: of each branch.
        layer: of the concepts, the middle; sentences: that they are found on.
    """

    name: str
    to: int
    of: int
    steps: int
    seeds: int
    layer: int
    modes: tuple[str, ...]
    sentences: int = 1000
    concepts: tuple[str, ...] = ("person", "function")


SHAPES = {
    "demo": Shape("demo", 400, 800, 300, 3, 3, MODES),
    "laptop": Shape("laptop", 750, 1500, 300, 1, 3, (NONE, "anchor", "pin")),
    "smollm2": Shape("smollm2", 0, 200, 20, 1, 15, (NONE, "anchor"), 400),
    "tiny": Shape("tiny", 40, 120, 10, 1, 1, (NONE, "pin"), 200, ("function",)),  # to try the bench itself
}
# A class of meaning of the word at hand, and whether the word to come is a function word. (Of a person to come, layer 3 of a
# `demo` run knows 0.09 bits a word: too little for its drift to mean much.)
CONCEPTS = {"person": "supersense.current:noun.person", "function": "class.next"}


def parent(shape: Shape, seed: int, root: Path, extra: Sequence[str]) -> Run:
    """The run that branches go on from: trained to the middle of its schedule, or imported; with its concepts."""
    name = f"{shape.name}-{seed}"
    if not (root / name).exists():
        if shape.name == "smollm2":
            import_run("smollm2", name, root, n_ctx=128, overrides=[*QUIET, f"train.seed={seed}", *extra])
        else:
            settings = [f"train.steps={shape.of}", f"train.stop={shape.to}", f"train.seed={seed}", *QUIET, *extra]
            run_new(load_config(shape.name, None, settings), root, name)
    run = Run.open(root / name)
    for concept in shape.concepts:
        if concept not in names(run):
            add(run, concept, Task(CONCEPTS[concept]), layer=shape.layer, take=shape.sentences)
    return run


def work(shape: Shape, seeds: int, root: Path, extra: Sequence[str], random: bool) -> Iterator[str]:
    """Train and prove, one branch after another; yields what was done."""
    for twins in (["unfrozen"], ["unfrozen", "random"])[: 1 + random]:
        for seed in range(seeds):
            run = parent(shape, seed, root, extra)
            for concept in shape.concepts:
                for mode in shape.modes:
                    if mode == NONE or (mode == "lower" and "random" in twins):
                        continue  # the unfrozen twin of any mode is that branch; lower has no subspace to draw another of
                    yield branch(run, concept, mode, shape.steps, twins)


def branch(run: Run, concept: str, mode: str, steps: int, twins: Sequence[str]) -> str:
    """One frozen branch and its twins, proved; the unfrozen twin is trained once and serves all modes and concepts."""
    request = FreezeRequest.model_validate({"concept": concept, "mode": mode})
    kinds = [kind for kind in twins if kind != "unfrozen" or _unfrozen(run) is None]
    planned = plan(run, request, steps, twins=kinds)
    begin = time.monotonic()
    frozen = train(planned)
    proved = _proof(frozen, concept)
    unfrozen = _unfrozen(run)
    if proved is None or set(proved["missing"]) & set(twins):
        proved = prove(frozen)
    if unfrozen is not None and _proof(unfrozen, concept) is None:
        prove(unfrozen, concept)
    return f"{frozen.name}: {proved['verdict']} {' '.join(proved['flags'])} ({time.monotonic() - begin:.0f} s)"


def collect(root: Path) -> list[dict[str, Any]]:
    """A row for each proof that is there, in order of run and concept."""
    runs = sorted(Run.ls(root), key=lambda one: one.name)
    proofs = [_proof(run, concept) for run in runs for concept in CONCEPTS]
    return [row(proof) for proof in proofs if proof is not None]


def row(proof: dict[str, Any]) -> dict[str, Any]:
    """The figures of one proof."""
    at = proof["leak"]["layers"].index(proof["concept"]["layer"]) if proof["leak"] else None
    decided, refound = proof["decisions"], proof["refound"]
    outside = {
        name: None if at is None else proof["leak"]["models"][name]["outside"]["accuracy"][at]
        for name in ("parent", "branch")
    }
    accuracy = {name: decided[name]["accuracy"] and decided[name]["accuracy"]["value"] for name in outside}
    shape, seed = proof["parent"].rsplit("-", 1)
    return {
        "shape": shape,
        "seed": int(seed),
        "concept": proof["concept"]["name"],
        "rank": proof["concept"]["rank"],
        "mode": proof["mode"],
        "steps": proof["to_step"] - proof["from_step"],
        "verdict": proof["verdict"],
        "flags": proof["flags"],
        "reasons": proof["reasons"],
        "undecided": sorted(proof["undecided"]),
        "weights": proof["weights"]["branch"]["largest"],
        "nrmse": proof["drift"]["branch"]["raw"],
        "worst": proof["drift"]["branch"]["worst"],
        "ratio": proof["drift"]["ratio"],
        "churn": decided["branch"]["churn"]["value"],
        "accuracy": accuracy,
        "outside": outside,
        "leak": _worst_leak(proof),
        "drop": proof["use"]["branch"]["drop"] if proof["use"] else None,
        "overlap": refound and {key: refound["branch"][key] for key in ("overlap", "floor", "floor_low", "chance")},
        "cost_unfrozen": proof["cost"].get("unfrozen"),
        "cost_random": proof["cost"].get("random"),
        "loss": {name: proof["loss"][name] for name in outside},
        "times_unfrozen": proof["resources"]["times_unfrozen"].get("branch"),
        "documents": proof["text"]["documents"],
        "words": proof["text"]["labelled_words"],
    }


def _worst_leak(proof: dict[str, Any]) -> dict[str, Any] | None:
    """The layer with the largest lower bound of accuracy outside V above the unfrozen twin's."""
    if not proof["leak"] or not proof["leak"]["excess"]:
        return None
    pairs = list(zip(proof["leak"]["layers"], proof["leak"]["excess"], strict=True))
    layer, found = max(pairs, key=lambda pair: pair[1]["lo"])
    return {"layer": layer} | found


def _unfrozen(run: Run) -> Run | None:
    """The finished unfrozen twin of a parent, whichever freeze it was trained beside."""
    for concept in CONCEPTS:
        for mode in MODES[1:]:
            path = run.path.parent / twin_name(run.name, concept, mode, "unfrozen")  # type: ignore[arg-type]
            if path.exists() and (twin := Run.open(path)).state() == "finished":
                return twin
    return None


def _proof(run: Run, concept: str) -> dict[str, Any] | None:
    file = run.evidence / file_name(run, concept)
    return json.loads(file.read_text(encoding="utf8")) if file.exists() else None


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="where the runs are kept, and found again")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="demo")
    parser.add_argument("--seeds", type=int, help="how many (default: 3 at demo shape, else 1)")
    parser.add_argument("--no-random", action="store_true", help="leave out the random twins, half of the work")
    parser.add_argument("--collect", action="store_true", help="train nothing")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of new parents")
    parser.add_argument("--out", type=Path, help="write the JSON here after each branch, not to stdout at the end")
    options = parser.parse_args(arguments)

    def figures() -> str:
        made = circumstances("tests.benchmarks.freezing", ["--shape", options.shape], os.cpu_count() or 1)
        return json.dumps(made | {"rows": collect(options.runs)}, indent=2) + "\n"

    if not options.collect:
        shape = SHAPES[options.shape]
        options.runs.mkdir(parents=True, exist_ok=True)
        for line in work(shape, options.seeds or shape.seeds, options.runs, options.set, not options.no_random):
            print(line, file=sys.stderr, flush=True)
            if options.out:
                options.out.write_text(figures(), encoding="utf8")
    if options.out:
        options.out.write_text(figures(), encoding="utf8")
    else:
        sys.stdout.write(figures())


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count() or 1)
    main(sys.argv[1:])
