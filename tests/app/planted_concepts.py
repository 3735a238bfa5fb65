"""A run with concepts whose cards, shimmer, freezes and proofs are known, because we wrote them. No model is trained."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.records import Event, Reading, Records, Regime
from lab.run import Run
from tests.app.planted import make_run

Json = dict[str, Any]
STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
BITS = (0.0, 0.01, 0.0, 0.01, 0.0, 0.31, 0.30, 0.32, 0.30, 0.31, 0.30, 0.31)  # at once, between steps 8 and 16
SE, WORDS = 0.01, 1280
EVIL = "<img src=http://evil.example/a.png>\u202e"
SHA = "5" * 64
CONVENTION = "0 = embedding sum (blocks.0.hook_resid_pre), l = after block l, before the final norm; depth = layer / L"


def planted_card(name: str = "weather", layer: int = 3, classes: Sequence[str] = ("dry", "wet")) -> Json:
    """Every part that `lab concept add` writes, with numbers that cannot be taken for each other."""
    examples = {
        where: [
            {
                "before": f"in {where} ",
                "word": f"w{place}",
                "after": " it was.",
                "at": at - place / 100,
                "class": classes[0],
            }
            for place in range(12 if where in ("top", "bottom") else 4)
        ]
        for where, at in {"top": 4.5, "0.9": 2.5, "0.5": 0.25, "0.1": -2.25, "bottom": -3.5}.items()
    }
    cost = {"tokens": 811, "sentences": 102, "erased": 0.0613, "random": 0.0127, "used": True}
    cost["net"] = {"value": 0.0486, "low": 0.0311, "high": 0.0664}
    details = {
        "source": {"kind": "words", "names": ["dry", "wet"], "lists": [["sun"], ["rain"]], "origin": {}},
        "layers": CONVENTION,
        "text": {"documents": 57, "sentences": 409},
        "counts": {one: 100 + place for place, one in enumerate(classes)},
        "columns": {"asked": 2, "kept": 2},
        "bits": {"value": 0.721, "low": 0.655, "high": 0.783, "n": 1281, "of": 0.993},
        "profile": {
            "layers": list(range(7)),
            "value": [0.11, 0.23, 0.42, 0.73, 0.64, 0.52, 0.41],
            "low": [0.07, 0.19, 0.37, 0.66, 0.59, 0.47, 0.33],
            "high": [0.15, 0.27, 0.48, 0.81, 0.69, 0.58, 0.46],
            "n": 1283,
        },
        "noise_floor": {
            "angles_degrees": [7.3, 31.4],
            "overlap": 0.771,
            "overlap_median": 0.853,
            "random_overlap": 0.0317,
            "splits": 20,
            "units": 57,
            "unit": "document",
        },
        "tokens": [
            {
                "direction": "dry → wet",
                "promoted": [
                    {"token": f" rain{place}", "id": place, "logit": 0.9 - place / 100} for place in range(12)
                ],
                "demoted": [{"token": f"sun{place}\n", "id": place, "logit": place / 100 - 0.7} for place in range(12)],
            }
        ],
        "histogram": {
            "edges": [-3.0, -1.5, 0.0, 1.5, 3.0],
            "counts": {one: [40 + place, 30, 20, 10] for place, one in enumerate(classes)},
        },
        "examples": examples,
        "use": {"subspaces": 5, "concept": cost, "all": cost | {"tokens": 9001, "erased": 0.0019, "used": False}},
        "variance": {"share": 0.0372},
        "notes": [f"a note {EVIL}"],
    }
    checkpoint = {"step": 512, "sha256": "0" * 64}
    return {
        "version": 1,
        "name": name,
        "layer": layer,
        "classes": list(classes),
        "checkpoint": checkpoint,
        "tokenizer": "1" * 64,
        "sha256": SHA,
        "details": details,
    }


def write_card(run: Run, card: Json) -> Path:
    folder = run.concepts / str(card["name"])
    folder.mkdir(exist_ok=True)
    (folder / "card.json").write_text(json.dumps(card, indent=1, sort_keys=True), encoding="utf8")
    return folder / "card.json"


def make_concepts(root: Path, name: str = "fox") -> Run:
    """`weather` with everything, `bare` with a card of the subspace alone, `ruin` with a broken one; shimmer of `weather`,
    `weather` held live since step 600, and two branches of it: one proved, one not."""
    run = make_run(root, name)
    write_card(run, planted_card())
    write_card(run, planted_card("bare", 1) | {"classes": [], "details": {}})
    write_card(run, planted_card("ruin") | {"layer": "third"})
    with Records.writer(run.database) as records:
        shimmer_rows(records, "concept.weather", 3)
        shimmer_rows(records, "class.next", 3)
        records.add_now(held(600, "weather", "anchor"), held(1050, "lost", "pin"))  # 1050: a resume from 1000 left it
        records.metrics(2, 1500, {"freeze/weather/nrmse": 0.0871})
    branch(root, run.name, f"{run.name}--weather-pin", "pin")
    made = branch(root, run.name, f"{run.name}--weather-write", "write")
    proof = planted_proof(run.name, made.name, "write")
    (made.evidence / f"freeze-{made.name}.json").write_text(json.dumps(proof), encoding="utf8")
    branch(root, run.name, f"{run.name}--weather-write--twin-unfrozen", "write", "unfrozen")
    return run


def shimmer_rows(records: Records, task: str, layer: int) -> None:
    """Rows as live visits write them."""
    protocol = {"instrument": "planted", "every": 100}
    regime = next(iter(records.rows(Regime, name="shimmer")), None)
    if regime is None:
        regime = Regime(name="shimmer", step=0, protocol=protocol, hash="2" * 64)
        records.add_now(regime)
    half = 1.959964 * SE
    records.add_now(
        *(
            Reading(
                task=task, reading="shimmer", segment=1, step=step, layer=layer, regime=regime.id,
                value=bits, lo=bits - half, hi=bits + half, n=WORDS,
            )
            for step, bits in zip(STEPS, BITS, strict=True)
        )
    )  # fmt: skip


def held(step: int, concept: str, mode: str, kind: str = "freeze", segment: int = 1, **more: object) -> Event:
    """An event as `train.freeze_record` writes it."""
    item = {"concept": concept, "mode": mode, "layer": 3, "from_step": step, "until": None, "status": "holding"}
    return Event(kind=kind, text=f"{concept} {EVIL}", at=1e9, segment=segment, step=step, data=item | more)


def branch(root: Path, parent: str, name: str, mode: str, kind: str = "freeze", step: int = 1000) -> Run:
    run = make_run(root, name, steps=())
    request = {"concept": "weather", "mode": mode, "from_step": step}
    about = {
        "parent": parent,
        "step": step,
        "weights_sha256": "3" * 64,
        "kind": kind,
        "concepts": ["weather"],
        "frozen": [] if kind == "unfrozen" else [request],
        "steps": 500,
        "stop": step + 500,
        "horizon": 2000,
        "parent_horizon": 2000,
    }
    run.update_manifest(branch=about)
    return run


def planted_proof(parent: str, name: str, mode: str) -> Json:
    """A proof with an unfrozen and a random twin, in which the concept moved although the weights were held."""

    def interval(value: float) -> Json:
        return {"value": value, "lo": value - 0.011, "hi": value + 0.013}

    models = ("parent", "branch", "unfrozen", "random")
    drift = {
        one: {"raw": interval(at), "worst": at + 0.1, "worst_document": "d", "normed": interval(at), "rms_ratio": 1.02}
        | {"parts": {"bias": 0.01, "rest": 0.02}}
        for one, at in zip(models[1:], (0.173, 0.357, 0.361), strict=True)
    }
    accuracy = {"value": 0.913, "lo": 0.9, "hi": 0.92, "count": 913, "checks": 1000}
    decided = {"accuracy": accuracy, "churn": {"value": 0.034, "lo": 0.03, "hi": 0.04, "count": 34, "checks": 1000}}
    reads = {"accuracy": [0.61, 0.62, 0.63], "bits": [0.1, 0.2, 0.3]}
    return {
        "version": 1,
        "branch": name,
        "parent": parent,
        "from_step": 1000,
        "to_step": 1500,
        "mode": mode,
        "target": 0.1,
        "status": "holding",
        "says": "Write holds the dictionary.",
        "concept": {"name": "weather", "layer": 3, "rank": 2, "classes": ["dry", "wet"], "sha256": SHA},
        "n_layers": 6,
        "verdict": "FROZEN-WEIGHTS-ONLY",
        "flags": ["COSTLY"],
        "reasons": [f"the weights write what they wrote {EVIL}"],
        "undecided": {"LEAK": "no reason"},
        "missing": {"lower": "there is no lower twin: not trained"},
        "text": {"documents": 61, "tokens": 7013, "labelled_words": 3011, "labelled_documents": 60}
        | {"source": "validation text", "labels": "task"},
        "weights": {one: {"largest": 3.1e-8} for one in models[1:]},
        "drift": drift | {"ratio": interval(0.484)},
        "decisions": {one: copy.deepcopy(decided) for one in models},
        "refound": None,
        "leak": {"layers": [2, 3, 4], "words": 1000, "excess": [interval(0.004)] * 3}
        | {"models": {one: {"outside": reads, "whole": reads} for one in models}},
        "use": {one: {"now": interval(0.0417)} for one in models},
        "cost": {"unfrozen": interval(0.021), "random": interval(0.0264)},
        "resources": {"seconds_per_step": {"branch": 0.021}, "times_unfrozen": {}, "frozen_copy_bytes": 4_200_000},
    }
