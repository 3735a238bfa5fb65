"""Journals with planted verdicts: entries read by the real grammar, numbers that are ours, hostile text among them."""

import json
from pathlib import Path
from typing import Any

from lab.records import Entry, Records, Verdict
from lab.run import Run
from probes.claims import grammar
from probes.layers.evidence import Curve, Difference, Evidence, Interval, Side, Variant
from tests.app.planted import LAYERS, STEPS, make_run
from train.entries import as_row

LAST = LAYERS - 1
SEED = "Function words at lower layers, semantic concepts at higher layers."
HOSTILE = (
    '<img src="http://evil.example/a.png" onerror="alert(1)"> ![x](http://evil.example/b.png) '
    "<script>alert(2)</script> [click](javascript:alert(3)) </div></mark> \u202eedoc lortnoc\u202c \x1b[2J $x^2$ :red[boo] "
)
ENTRIES = (  # author, kind, step, text
    ("model", "check-in", 400, f"I have been reading speeches. {SEED} I wonder whether that will stay."),
    (
        "Ada",
        "note",
        1000,
        "Animals are in the top third of the layers. Sarcasm lives in layer 3. The weather was fine.",
    ),
    (
        "model",
        "check-in",
        1900,
        f"{SEED} Content words are settled before function words. Function words qxz the lower layers blorp.",
    ),
    ("Mallory <b>", "note", 1900, f"{HOSTILE}\n\nFunction words are settled before content words.\n\n{HOSTILE}"),
    ("Ada", "note", 1900, "Nothing to report today."),
)


def side(subject: str, label: str, at: float, reading: str) -> Side:
    """One side whose curve rises around `at`; n as in a real verdict, never a round number."""
    values = [round(0.9 / (1 + 2.718281828 ** (-4 * (layer - at * LAST))), 4) for layer in range(LAYERS)]
    if reading == "decide":
        values = [round(1.1 - value, 4) for value in values]
    twin = tuple(round(0.02 + 0.01 * layer, 4) for layer in range(LAYERS)) if reading == "decode" else None
    unit = {"decode": "usable bits per word", "decide": "nats of KL to the last layer", "use": "nats of cost"}[reading]
    lo, hi = tuple(v - 0.031 for v in values), tuple(v + 0.042 for v in values)
    return Side(
        subject=subject,
        label=label,
        words=4321,
        sentences=876,
        documents=54,
        curve=Curve(unit, tuple(range(LAYERS)), tuple(values), lo, hi, twin),
        depth=Interval(at, at - 0.021, at + 0.023),
        half_gain=at - 0.013,
        peak=at + 0.111,
        gain=Interval(0.877, 0.812, 0.934),
        selectivity=Interval(0.345, 0.301, 0.389) if reading == "decode" else None,
        twin_share=0.067 if reading == "decode" else None,
    )


def evidence(reading: str, target: str | None, a: str, b: str | None, delta: float) -> Evidence:
    low, reach = 0.35, 0.07
    found = Difference(
        value=delta,
        lo=delta - reach,
        hi=delta + 0.073,
        lo90=delta - 0.059,
        hi90=delta + 0.061,
        p=0.0005,
        unit="document",
        units=54,
        replicates=2000,
        method="fixed",
    )
    variants = (
        Variant("half n", delta - 0.017, delta - 0.121, delta + 0.113),
        Variant("hard depth", delta + 0.029, delta - 0.064, delta + 0.127),
    )
    reason = "the lens agrees with the last layer in .41 of the words at layer 5, and .5 is needed"
    return Evidence(
        reading=reading,  # type: ignore[arg-type]
        target=target,  # type: ignore[arg-type]
        a=side(a, f"class.{target or 'next'}", low, reading),
        b=side(b, f"supersense.{target or 'next'}", low + delta, reading) if b else None,
        delta=found if b else None,
        p_in_region=None if b else 0.972,
        variants=variants if b else (),
        untestable=(reason,) if reading == "use" else (),
        notes=("61 tokens were clipped", "duplicate sentences: 3"),
        settings={"folds": 5, "seed": 0, "replicates": 2000, "sentences": 876},
    )


def verdict_of(claim: grammar.Claim, author: str, run: str, step: int, name: str, delta: float) -> dict[str, Any]:
    """The JSON that `lab verify` writes, for a claim of the grammar."""
    tested = name not in ("UNPARSED", "UNTESTABLE")
    order = f"{claim.a} are settled {'before' if delta > 0 else 'after'} {claim.b}."
    wording = order if claim.b else f"{claim.a} may lie where it says; the interval is too wide to tell."
    hashed = ("checkpoint", "confirmation", "exploration", "tokenizer", "rules")
    found = [
        evidence("decide", None, str(claim.a), claim.b, delta),
        evidence("decode", "next", str(claim.a), claim.b, delta / 2),
        evidence("decode", "current", str(claim.a), claim.b, -delta / 3),
        evidence("use", None, str(claim.a), claim.b, delta / 4),
    ]
    found = found if tested else []
    judged = {"verdict": name, "reasons": ["lower bound above the margin"], "n_needed": None, "p_holm": 0.0015}
    other = {"verdict": "INCONCLUSIVE", "reasons": ["the interval holds zero"], "n_needed": 3210, "p_holm": None}
    verdict = {
        "version": 1,
        "claim": claim.to_json(),
        "author": author,
        "entry_step": step,
        "run": run,
        "step": step,
        "n_layers": LAST,
        "verdict": name,
        "primary": "decide" if tested else None,
        "causal": "NOT SHOWN" if tested else "NOT TESTED",
        "scope": "this checkpoint of this run",
        "wording": wording if tested else "It cannot be tested.",
        "reasons": ["what was measured in 876 sentences"] if tested else [claim.reason or "not understood"],
        "n_needed": 1234 if name == "INCONCLUSIVE" else None,
        "readings": {e.name: {**e.to_json(), **(judged if e.reading == "decide" else other)} for e in found},
        "echo": {
            "training": {"words": 7, "text": "function words at lower layers semantic concepts", "of": 10},
            "prompt": {"words": 2, "text": "lower layers", "of": 10},
            "echo": True,
            "text": "most of the sentence stands in the training data",
        }
        if tested
        else None,
        "preference": {
            "claim_nats": -41.234,
            "reversal_nats": -41.567,
            "difference": {"value": 0.333, "lo": -0.444, "hi": 1.111},
            "reference": {"value": 0.012, "lo": -0.345, "hi": 0.367},
            "paraphrases": 24,
            "prefers": "neither",
            "text": "the model would as gladly say the reverse",
        }
        if tested
        else None,
        "corpus": {
            "source": "held-out text of the run",
            "silver": True,
            "labels": {"class": "rule: closed list of function words", "pos": "silver: a tagger"},
            "documents": 54,
            "sentences": 876,
            "words": 9876,
            "in_training": 0,
        },
        "inputs": {key: f"{at:x}" * 64 for at, key in enumerate(hashed, 10)} | {"twin_seed": 987654321},
        "layer_convention": "0 = embedding sum, l = after block l, before the final norm",
    }
    return json.loads(json.dumps(verdict))  # type: ignore[no-any-return]


JUDGED = {  # by subject A and B; what is not here stays without a verdict
    ("function words", "semantic concepts"): ("SUPPORTED-WEAK", 0.214),
    ("content words", "function words"): ("REFUTED-REVERSED", -0.187),
    ("animals", None): ("INCONCLUSIVE", 0.1),
}


def make_journal(root: Path, name: str, long: bool = False) -> Run:
    """A run whose journal has every sort of entry; `long` adds one of 100 kB and a dozen short ones."""
    run = make_run(root, name, tasks=("class.next", "supersense.next"))
    records = Records.writer(run.database)
    extra = [("Ada", "note", 1900, "x" * 99_990 + " end marker")]
    extra += [
        ("Ada", "note", 500 + i, f"Note {i}: function words are settled before content words.") for i in range(12)
    ]
    for at, (author, kind, step, text) in enumerate((*(extra if long else ()), *ENTRIES)):
        entry = Entry(step=step, author=author, kind=kind, text=text, created_at=1.79e9 + 3600 * at)
        records.add_now(entry)
        for claim in grammar.parse(text, entry.id):
            records.add_now(as_row(claim, entry.id))
            if claim.status == grammar.PARSED:
                judged = JUDGED.get((str(claim.a), claim.b))
            else:
                judged = (claim.status, 0.0)
            if judged:
                data = verdict_of(claim, author, name, STEPS[-1], *judged)
                records.add_now(
                    Verdict(claim=claim.id, step=STEPS[-1], verdict=judged[0], created_at=1.79e9, data=data)
                )
    records.close()
    return run


def stored(run: Run) -> list[dict[str, Any]]:
    """The verdicts as they are stored, in the order of making."""
    with run.records() as records:
        return [row.data for row in records.rows(Verdict)]
