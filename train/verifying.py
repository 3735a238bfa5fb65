"""From journal sentences to verdicts: claims, readings on unseen text, decision, echo and preference, records.

A verdict file holds every number that decided and the hashes of everything they came from; the same run, claim and options
give the same file, byte for byte. Options, text and material are checked before an entry is stored, and verdicts are
written all together at the end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lab.durable import replace_file
from lab.errors import LabError
from lab.records import Records
from lab.records import Verdict as VerdictRow
from lab.run import Run
from lab.run_lock import RunLocked
from probes.claims import outcomes, verdict
from probes.claims.echo import Sources, find_echo
from probes.claims.grammar import PARSED, Claim, parse
from probes.claims.preference import preference, sentence_scorer
from probes.claims.verdict import (
    ReadingVerdict,
    Verdict,
    combine,
    false_discovery_over_run,
    holm_within_entry,
    judge,
    judge_series,
    p_value,
)
from probes.layers import depth
from probes.layers.evidence import Evidence
from probes.layers.labels import ALL_LABELS
from probes.layers.problem import Untestable
from train.entries import add_entry, check_entry, entries, entry_of, with_claims
from train.material import LAYER_CONVENTION, SENTENCES, Material, canonical, gather
from train.probing_steps import probe_all
from train.readings import QUICK, Readings, Sizes
from train.references import reference_at

__all__ = ["add_entry", "entries", "probe_all", "verify"]

READINGS = ("decode", "decide", "use")
RULES = "1"  # of this file's protocol; the thresholds are in `outcomes`, whose text is hashed too
Progress = Callable[[str, float], None]


class NothingToVerify(LabError):
    """No journal entry, or none with a claim."""


def verify(
    run: Run,
    *,
    entry: int | None = None,
    text: str | None = None,
    author: str = "person",
    step: int | None = None,
    readings: Sequence[str] = READINGS,
    sentences: int | None = None,
    conllu: Sequence[Path] = (),
    streusle: Sequence[Path] = (),
    quick: bool = False,
    reference: int | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Test the claims of one entry, of a text (which becomes an entry), or of the whole journal.

    Args:
        step: the checkpoint to test at; the newest by default.
        sentences: of confirmation text; 1,000 by default, 400 with `quick`.
        quick: fewer tokens, sentences, subspaces and refits (`readings.QUICK`): wider intervals, sooner.
        conllu, streusle: gold files to test on instead of the run's validation text.
        reference: the checkpoint that preferences are compared with; the run's reference checkpoint by default.

    Returns:
        Verdict dicts, with `p` of the reading that decides and, over a whole journal, its `q_run` after Benjamini and
        Hochberg, in the order of the claims, as in `evidence/verdict-<claim>.json`. They are recorded when the run is
        not in use; while it trains, only the files are written.

    Raises:
        LabError: no entry, a file that cannot be read, too little text, no checkpoint.
    """
    report = progress or (lambda what, share: None)
    wanted = _readings(readings)
    info = run.checkpoint_info(step)
    if reference is not None:
        run.checkpoint_info(reference)
    texts = _texts(run, entry, text, author, info.step)
    previews = [claim for one in texts for claim in parse(one["text"], "", ALL_LABELS)]
    if not previews:
        raise NothingToVerify(
            f"{run.name}: no claim about layers or concepts in "
            + ("this text." if text is not None else f"{len(texts)} journal entries.")
            + " A claim says of something that it is early, late, at some layer, or needed."
        )
    maker = None
    testable = sum(claim.status == PARSED for claim in previews)
    if testable:
        size = sentences if sentences is not None else 400 if quick else SENTENCES
        material = gather(run, info.step, size, conllu, streusle, report)
        parameters = sum(p.numel() for p in material.model.parameters())
        maker = Readings(material, QUICK if quick else Sizes.fitting(parameters))
    chosen = [_stored(run, one) for one in texts]
    claims = {one["id"]: parse(one["text"], one["id"], ALL_LABELS) for one in chosen}
    at = info.step
    results: list[dict[str, Any]] = []
    sources: Sources | None = None
    for one in chosen:
        found = claims[one["id"]]
        if found and maker is not None and sources is None:
            report("indexing the training text for echoes", 0.3)
            sources = Sources.of(maker.material.corpus.training_documents())
        results += _judge_entry(one, found, maker, wanted, sources, run, at, reference, report, len(results), testable)
    whole_journal = text is None and entry is None
    q_values = false_discovery_over_run({str(at): one["p"] for at, one in enumerate(results)}) if whole_journal else {}
    for number, one in enumerate(results):
        one["q_run"] = q_values.get(str(number))
    _record(run, results, {one["id"]: one["text"] for one in chosen})
    return results


def _judge_entry(
    one: Mapping[str, Any],
    claims: Sequence[Claim],
    maker: Readings | None,
    wanted: Sequence[str],
    sources: Sources | None,
    run: Run,
    at: int,
    reference: int | None,
    report: Progress,
    done: int,
    total: int,
) -> list[dict[str, Any]]:
    """All claims of one entry: evidence first, then verdicts, since Holm wants every p-value of the entry."""
    evidence: dict[str, dict[str, Evidence]] = {}
    series: dict[str, ReadingVerdict] = {}
    p_values: dict[str, float | None] = {}
    for number, claim in enumerate(claims):
        if claim.status != PARSED or maker is None:
            continue
        share = 0.35 + 0.6 * min(1.0, (done + number) / max(1, total))
        maker.report = partial(_tell, report, claim.text[:40], share)
        primary = verdict.primary_reading(claim)
        if primary == verdict.SERIES:
            evidence[claim.id], series[claim.id] = _series(maker, claim)
            continue
        try:
            evidence[claim.id] = maker.of(claim, wanted)
        except Untestable as error:
            evidence[claim.id], series[claim.id] = {}, ReadingVerdict(outcomes.UNTESTABLE, (str(error),))
            continue
        if primary in evidence[claim.id]:
            p_values[claim.id] = p_value(evidence[claim.id][primary], claim, maker.material.n_layers)
    adjusted = holm_within_entry(p_values)
    results = []
    for claim in claims:
        judged: dict[str, ReadingVerdict] = {}
        there = evidence.get(claim.id, {})
        primary = verdict.primary_reading(claim)
        for name, found in there.items():
            if maker is not None and name != verdict.SERIES:
                p = adjusted.get(claim.id) if name == primary else None
                judged[name] = judge(found, claim, maker.material.n_layers, p)
        if claim.id in series and primary is not None:
            judged[primary] = series[claim.id]
        final = combine(claim, judged)
        results.append(
            _result(one, claim, final, there, judged, maker, run, at)
            | {"p": p_values.get(claim.id)}
            | _origins(claim, one, maker, sources, reference)
        )
    return results


def _tell(report: Progress, about: str, share: float, what: str) -> None:
    report(f"{about}: {what}", share)


def _series(maker: Readings, claim: Claim) -> tuple[dict[str, Evidence], ReadingVerdict]:
    try:
        read, when = maker.series(claim)
    except Untestable as error:
        return {}, ReadingVerdict(outcomes.UNTESTABLE, (str(error),))
    points = {
        one.subject: [
            {"step": p.step, "bits": p.bits.__dict__, "depth": p.depth.__dict__ if p.depth else None}
            for p in one.points
        ]
        for one, _ in read
    }
    checkpoints = {str(step): digest for step, digest in sorted(maker.checkpoints.items())}
    (first, side_a), *others = read
    second, side_b = others[0] if others else (None, None)
    evidence = Evidence("decode", "next", side_a, side_b, settings={"series": points, "checkpoints": checkpoints})
    return {verdict.SERIES: evidence}, judge_series(claim, first, second, maker.material.n_layers, window=when)


def _result(
    one: Mapping[str, Any],
    claim: Claim,
    final: Verdict,
    evidence: Mapping[str, Evidence],
    judged: Mapping[str, ReadingVerdict],
    maker: Readings | None,
    run: Run,
    at: int,
) -> dict[str, Any]:
    readings = {}
    for name, found in evidence.items():
        said = judged[name]
        readings[name] = {
            **found.to_json(),
            "verdict": said.verdict,
            "reasons": list(said.reasons),
            "n_needed": said.n_needed,
            "p_holm": said.p_holm,
        }
    return {
        "version": 1,
        "claim": claim.to_json(),
        "author": one["author"],
        "entry_step": one["step"],
        "run": run.name,
        "step": at,
        "n_layers": run.config.model.n_layers,
        "verdict": final.verdict,
        "primary": final.primary,
        "causal": final.causal,
        "scope": final.scope,
        "wording": final.wording,
        "reasons": list(final.reasons),
        "n_needed": final.n_needed,
        "readings": readings,
        "corpus": maker.material.corpus_summary([name for name in (claim.a, claim.b) if name]) if maker else None,
        "inputs": (maker.material.inputs() if maker else {}) | {"rules": _rules_hash()},
        "layer_convention": LAYER_CONVENTION,
    }


def _origins(
    claim: Claim, one: Mapping[str, Any], maker: Readings | None, sources: Sources | None, reference: int | None
) -> dict[str, Any]:
    """Echo and preference: where the sentence may come from, and whether the model would as gladly say the reverse."""
    found = find_echo(claim.text, sources, one.get("prompt")).to_json() if sources is not None else None
    prefers = None
    if maker is not None and claim.status == PARSED:
        material = maker.material
        prefers = _preference(material, claim, reference)
    return {"echo": found, "preference": prefers}


def _preference(material: Material, claim: Claim, reference: int | None) -> dict[str, Any] | None:
    run = material.run
    there = run.checkpoint_info(reference) if reference is not None else reference_at(run, material.step)
    other = None if isinstance(there, str) or there.step >= material.step else there  # nothing can be gained since
    earlier = run.model(other.step) if other else None
    tokenizer = run.tokenizer()
    try:
        found = preference(
            claim, sentence_scorer(material.model, tokenizer), earlier and sentence_scorer(earlier, tokenizer)
        )
    except Untestable as error:
        return {"text": str(error), "prefers": None}
    made_on = {"reference_step": other and other.step, "reference_checkpoint": other and other.weights_sha256}
    return found.to_json() | made_on


def _texts(run: Run, entry: int | None, text: str | None, author: str, at: int) -> list[dict[str, Any]]:
    """The entries asked for; a text that is none yet has the id None."""
    if text is not None and entry is not None:
        raise LabError("--entry and --text: give one of them.")
    if text is not None:
        check_entry(text, author)
        there = [e for e in entries(run) if (e["text"], e["author"], e["step"]) == (text, author, at)]
        # asked again: the same entry, so that the same claims have the same names
        return there[-1:] or [{"id": None, "step": at, "author": author, "kind": "note", "text": text, "prompt": None}]
    if entry is not None:
        return [entry_of(run, entry)]
    found = entries(run)
    if not found:
        raise NothingToVerify(f'{run.name}: the journal is empty. Add an entry: lab journal add {run.name} --text "…"')
    return found


def _stored(run: Run, one: dict[str, Any]) -> dict[str, Any]:
    """The entry with its number; while the run is in use it cannot get one, and goes by a hash."""
    if one["id"] is not None:
        return one
    try:
        return entry_of(run, add_entry(run, one["text"], one["author"], one["step"])[0])
    except RunLocked:
        return one | {"id": "text-" + canonical([one["text"], one["author"], one["step"]])[:12]}


def _record(run: Run, results: Sequence[dict[str, Any]], texts: Mapping[int | str, str]) -> None:
    """The files, and the rows when the run is not in use. `texts`: those of the entries, by id."""
    run.evidence.mkdir(exist_ok=True)
    for one in results:
        replace_file(run.evidence / f"verdict-{one['claim']['id']}.json", as_bytes(one))
    stored = [one for one in results if str(one["claim"]["entry"]).isdigit()]
    if not stored:
        return
    try:
        with run.lock("verify"), Records.writer(run.database) as records:
            for number in sorted({int(one["claim"]["entry"]) for one in stored}):
                with_claims(records, number, texts[number])  # a verdict is refused where its claim is missing
            records.add_now(
                *(
                    VerdictRow(
                        claim=one["claim"]["id"],
                        step=one["step"],
                        verdict=one["verdict"],
                        created_at=time.time(),
                        data=one,
                    )
                    for one in stored
                )
            )
    except RunLocked:
        return  # it trains: the files hold everything, and `lab verify` afterwards records the same


def as_bytes(result: Mapping[str, Any]) -> bytes:
    """A verdict as its file holds it."""
    return (json.dumps(result, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _readings(wanted: Sequence[str]) -> tuple[str, ...]:
    unknown = [name for name in wanted if name not in READINGS]
    if unknown or not wanted:
        raise LabError(f"--readings {','.join(wanted) or '(none)'}: readings are {', '.join(READINGS)}.")
    return tuple(name for name in READINGS if name in wanted)


def _rules_hash() -> str:
    """Of the protocol and of every threshold in `outcomes` and `depth`."""
    named = [*vars(outcomes).items(), *vars(depth).items()]
    thresholds = {name: value for name, value in named if name.isupper() and not callable(value)}
    return canonical([RULES, {name: repr(value) for name, value in sorted(thresholds.items())}])
