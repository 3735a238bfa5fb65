"""Claim + what the readings say → one verdict: which reading decides, the causal column, and a plain sentence.

Which reading is primary is fixed by the claim's words, before anything is measured (`primary_reading`), and never changed
by what came out:

- a reading that the claim names ("decodable", "settled", "relies on") wins;
- causal claims are decided by *use*, emergence and stability by the *series* of checkpoints;
- claims whose subjects are groups of next tokens (function words, content words, …; two different groups if there are two)
  by *decide*: the depth at which those next tokens are settled;
- all others by *decode.next*. The class of the current word alone is lexical: layer 0 already has it.

The causal column compares with the reading *use*: CORROBORATED if its 95 % interval lies on the claim's side, CONTRADICTED
on the other, NOT SHOWN if on neither or if erasure costs too little to have a depth, NOT TESTED if nothing was erased. The
sentence says "settled", "decodable" or "erasing costs", by reading; only with CORROBORATED does it say "processed". Text that
a model wrote never enters the sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from probes.claims import outcomes as names
from probes.claims.grammar import PARSED, Claim
from probes.claims.judging import judge, p_value
from probes.claims.outcomes import CAUSAL, VERDICTS, ReadingVerdict
from probes.claims.series import judge_series
from probes.claims.vocabulary import SUBJECTS
from probes.layers.intervals import benjamini_hochberg, holm

FEWEST_RUNS = 5  # of one recipe, for a claim about the recipe (Sellam et al. 2021, arXiv:2106.16163)
DECODE = ("decode.next", "decode.current")
SERIES, USE, DECIDE = "series", "use", "decide"


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim; the fields are those of the verdict file."""

    verdict: str
    primary: str | None
    causal: str
    wording: str
    reasons: tuple[str, ...]
    scope: str
    n_needed: int | None = None


def primary_reading(claim: Claim) -> str | None:
    """The reading that decides the claim; None if it is not PARSED. Reads the claim only, never a result."""
    if claim.status != PARSED:
        return None
    if claim.kind in ("emergence", "stability"):
        return SERIES
    if claim.kind == "causal" or claim.reading == "use":
        return USE
    groups = [SUBJECTS[name].words if name in SUBJECTS else None for name in (claim.a, claim.b) if name is not None]
    distinct = all(groups) and len(set(groups)) == len(groups)
    if claim.reading == "decide" or (claim.reading is None and distinct):
        return DECIDE
    return DECODE[0]


def combine(claim: Claim, judged: Mapping[str, ReadingVerdict], runs: int = 1) -> Verdict:
    """The claim's verdict from those of its readings.

    Args:
        judged: by `Evidence.name` ("decide", "decode.next", "decode.current", "use"), and "series".
        runs: how many runs of the recipe the readings were resampled over; claims about the recipe need 5.
    """
    scope = "this run" if runs == 1 and primary_reading(claim) == SERIES else _scope(runs)
    if claim.status != PARSED:
        verdict = names.UNPARSED if claim.status == names.UNPARSED else names.UNTESTABLE
        return Verdict(verdict, None, names.NOT_TESTED, _NOTHING[verdict], (claim.reason or "no reason given",), scope)
    primary = primary_reading(claim)
    assert primary is not None  # the claim is PARSED
    causal, because = causal_column(judged.get(USE))
    found = judged.get(primary) or _missing(primary)
    reasons = [*found.reasons, *_others(found, primary, judged)]
    reasons += [because] if because and primary != USE else []
    if claim.scope == "recipe" and runs < FEWEST_RUNS:
        reasons.append(f"the claim is about the recipe; {FEWEST_RUNS} runs are needed for that, there is {runs}")
    wording = f"In {scope}, {_sentence(claim, primary, found, causal)}"
    return Verdict(found.verdict, primary, causal, wording, tuple(reasons), scope, found.n_needed)


def causal_column(use: ReadingVerdict | None) -> tuple[str, str | None]:
    """The causal column, and why where that is not plain."""
    if use is None:
        return names.NOT_TESTED, None
    column = {1: names.CORROBORATED, -1: names.CONTRADICTED}.get(use.sign, names.NOT_SHOWN)
    return column, f"use: {use.reasons[0]}" if use.reasons else None


def holm_within_entry(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """The p-values of one entry's claims, by claim id, after Holm 1979; None (undecidable) is not in the family.

    Of a claim put at several checkpoints, give the last: it is the confirmatory one.
    """
    there = {key: p for key, p in p_values.items() if p is not None}
    adjusted = dict(zip(there, holm(list(there.values())), strict=True)) if there else {}
    return {key: adjusted.get(key) for key in p_values}


def false_discovery_over_run(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """The same over all claims of a run, after Benjamini and Hochberg 1995: q-values to show beside the verdicts."""
    there = {key: p for key, p in p_values.items() if p is not None}
    adjusted = dict(zip(there, benjamini_hochberg(list(there.values())), strict=True)) if there else {}
    return {key: adjusted.get(key) for key in p_values}


def _missing(primary: str) -> ReadingVerdict:
    why = f"{primary}, the reading that decides this claim, was not made"
    if primary == DECODE[0]:
        why += "; the word's own label alone is lexical, layer 0 already has it"
    return ReadingVerdict(names.UNTESTABLE, (why,))


def _others(found: ReadingVerdict, primary: str, judged: Mapping[str, ReadingVerdict]) -> list[str]:
    """What the readings that do not decide say against the one that does."""
    told = []
    for name in (DECIDE, *DECODE):
        other = judged.get(name)
        if other is None or name == primary:
            continue
        if (found.supports and other.refutes) or (found.refutes and other.supports):
            told.append(f"{name} says otherwise ({other.verdict}): {'; '.join(other.reasons[:1])}")
    return told


def _scope(runs: int) -> str:
    if runs < 1:
        raise ValueError(f"runs = {runs}: a verdict speaks of at least one run")
    if runs == 1:
        return "this checkpoint of this run"
    return f"this recipe ({runs} runs)" if runs >= FEWEST_RUNS else f"these {runs} runs of the recipe"


_NOTHING = {
    names.UNPARSED: "The sentence could not be read as a claim, so nothing was tested.",
    names.UNTESTABLE: "The claim cannot be tested here: there are no labels for what it speaks of.",
}


def _sentence(claim: Claim, primary: str, found: ReadingVerdict, causal: str) -> str:
    """What was found, in the words of the reading that found it."""
    if found.verdict in (names.UNTESTABLE, names.UNPARSED):
        return "the claim cannot be tested."
    if found.verdict == names.INCONCLUSIVE:
        dependent = bool(found.reasons) and found.reasons[0].startswith("method-dependent")
        return "the methods disagree." if dependent else "the measurement does not decide."
    holds = found.supports
    if holds:
        said = _asserted(claim, primary) + (", though weakly" if found.verdict == names.WEAK else "")
    elif claim.kind == "depth_order":
        said = _order_refuted(claim, primary, found.verdict)
    else:
        said = f"it is not so that {_asserted(claim, primary)}"
    if primary in (SERIES, USE) or claim.kind not in ("depth_order", "band"):
        return said + "."
    many = claim.b is not None or _plural(claim.a)
    them, they_are = ("them", "they are") if many else ("it", "it is")
    if holds and causal == names.CORROBORATED and claim.polarity == "positive":
        return f"{said}, and erasing shows that the model uses {them} so: {they_are} processed {_processed(claim)}."
    tested = {
        names.CORROBORATED: f"Erasing {them} points the way of the claim.",
        names.CONTRADICTED: f"Erasing {them} points the other way.",
        names.NOT_SHOWN: f"Erasing {them} does not show that the model uses {them} so.",
        names.NOT_TESTED: f"Whether the model uses {them} so was not tested.",
    }[causal]
    return f"{said}. {tested}"


def _processed(claim: Claim) -> str:
    if claim.kind == "band":
        return "there"
    return "at the same depth" if claim.relation == "same" else "in that order"


_STATE = {DECIDE: "settled", DECODE[0]: "decodable as the next word", USE: "hit hardest by erasure"}


def _subject(name: str | None) -> str:
    return name if name in SUBJECTS else "what the claim names"


def _plural(name: str | None) -> bool:
    return name in SUBJECTS and SUBJECTS[name].plural


def _are(name: str | None) -> str:
    return "are" if _plural(name) else "is"


def _asserted(claim: Claim, primary: str) -> str:
    a, b = _subject(claim.a), _subject(claim.b)
    no = "not " if claim.polarity == "negative" else ""
    if claim.kind == "causal" or (primary == USE and claim.kind == "band"):
        whom = f" on {b}" if claim.b else ""
        return f"erasing {a} {'costs nothing' if no else 'costs predictions'}{whom}"
    if claim.kind == "emergence":
        came = "did not come up" if no else "came up"
        return f"{a} {came} {'before ' + b if claim.b else 'within the steps named'}"
    if claim.kind == "stability":
        it_was = "they were" if _plural(claim.a) else "it was"
        return f"{a} {'changed' if no else f'stayed as {it_was}'}"
    state = _STATE[primary]
    if claim.kind == "band":
        return f"{a} {_are(claim.a)} {no}{state} in the layers named ({(claim.where or {}).get('text', 'none')})"
    if claim.relation == "same":
        return f"{a} and {b} are {no}{state} at the same depth"
    return f"{a} {_are(claim.a)} {no}{state} at lower layers than {b}"


def _order_refuted(claim: Claim, primary: str, verdict: str) -> str:
    a, b = _subject(claim.a), _subject(claim.b)
    state = _STATE[primary]
    if verdict == names.FREQUENCY:
        return f"{a} {_are(claim.a)} {state} at lower layers than {b} only until word frequency is accounted for"
    if verdict == names.EQUIVALENT:
        return f"{a} and {b} are {state} at the same depth, within half a layer or .05"
    if claim.relation == "same":
        return f"{a} and {b} are {state} at different depths"
    if claim.polarity == "negative":
        return f"{a} {_are(claim.a)} {state} at lower layers than {b}, which the claim denies"
    return f"{a} {_are(claim.a)} {state} at higher layers than {b}, the reverse of the claim"


__all__ = [
    "CAUSAL", "FEWEST_RUNS", "VERDICTS", "ReadingVerdict", "Verdict", "causal_column", "combine", "false_discovery_over_run",
    "holm_within_entry", "judge", "judge_series", "p_value", "primary_reading",
]  # fmt: skip
