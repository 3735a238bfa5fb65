"""A verdict in words: the one place that turns its numbers and names into text, for card, terminal and report.

`card_facts` and `reading_facts` say what there is to say; a view only lays it out, so a card, a report and a terminal
cannot disagree. Nothing here measures, draws or opens a file. Text that a model or a stranger wrote passes `visible`.
"""

import math
import unicodedata
from collections.abc import Mapping
from typing import Any, NamedTuple

Json = Mapping[str, Any]
Facts = list[tuple[str, str]]
"""Label and text, in the order of reading."""

VERDICTS = (
    "SUPPORTED-STRONG",
    "SUPPORTED-WEAK",
    "REFUTED-REVERSED",
    "REFUTED-EQUIVALENT",
    "FREQUENCY-EXPLAINED",
    "INCONCLUSIVE",
    "UNTESTABLE",
    "UNPARSED",
)
NO_VERDICT = "NO VERDICT YET"
MODEL = "model"  # the author of what the model wrote
MODEL_WRITTEN = "model-written, not a measurement"
ORDER = ("decide", "decode.next", "decode.current", "use")
GAIN_UNITS = {"decode": "bits per word", "decide": "nats of KL", "use": "nats of cost"}
DEPTH_VERBS = {"decide": "settled", "decode": "linearly readable", "use": "used", None: "reached"}
ADJUSTED = "Δ of decide is adjusted for word frequency, surprisal and position; the depths of A and B are as they are."
SCOPES = {"artefact": "in this run", "recipe": "in whatever is trained this way"}
KEPT_FORMAT_CHARACTERS = "\n\t\u200c\u200d"  # line breaks, and the joiners that some scripts need


def number(value: Any, signed: bool = False) -> str:
    """Every number of a verdict is shown by this: counts whole with thousands, others with three decimals.

    >>> number(5120), number(0.21, signed=True), number(-0.0002), number(None), number(float("nan"))
    ('5,120', '+0.210', '-2.0e-04', '–', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if isinstance(value, int):
        return format(value, "+,d" if signed else ",d")
    tiny = 0 < abs(value) < 0.001  # three decimals would hide on which side of zero a bound lies
    return format(value, ("+" if signed else "") + (".1e" if tiny else ".3f"))


def interval(found: Json | None, signed: bool = False) -> str:
    """A value and its 95 % interval.

    >>> interval({"value": 0.21, "lo": 0.15, "hi": 0.27})
    '0.210 (95 % 0.150 to 0.270)'
    """
    if found is None:
        return "–"
    value, lo, hi = (number(found[key], signed) for key in ("value", "lo", "hi"))
    return f"{value} (95 % {lo} to {hi})"


def visible(text: str) -> str:
    """Control, formatting and unassigned characters as a dot, one for one: shown, not obeyed, and spans stay true.

    >>> visible("a\\u202eb\\x1b[2J")
    'a·b·[2J'
    """
    return "".join(
        c if c in KEPT_FORMAT_CHARACTERS or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") else "·"
        for c in text
    )  # fmt: skip


def short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def byline(author: str, kind: str = "") -> str:
    """Who wrote an entry; the model never passes for a person."""
    return MODEL_WRITTEN if MODEL in (author, kind) else f"by {visible(author)}"


class Counted(NamedTuple):
    """A reading of a verdict together with its name."""

    name: str
    evidence: Json


def readings(verdict: Json) -> list[Counted]:
    """The readings, the primary first, then as in `ORDER`."""
    rank = {name: at for at, name in enumerate(ORDER)}
    names = sorted(
        verdict["readings"], key=lambda name: (name != verdict["primary"], rank.get(name, len(rank)), str(name))
    )
    return [Counted(name, verdict["readings"][name]) for name in names]


def margin(verdict: Json) -> float:
    """Half-width, in relative depth, of what counts as the same depth: half a layer, at least .05.

    As `probes.claims.outcomes.margin`, which cannot be imported here: it brings torch, and the app loads none.
    """
    return max(0.05, 0.5 / int(verdict["n_layers"]))


def claim_in_words(claim: Json) -> str:
    """What the claim was taken to say.

    >>> claim_in_words({"kind": "depth_order", "a": "function words", "b": "content words", "reading": "decide"})
    'function words are settled at less depth than content words, in this run'
    """
    if not claim.get("kind"):
        return "not understood"
    a, b, where, when = claim["a"], claim.get("b"), _text_of(claim.get("where")), _text_of(claim.get("when"))
    verb = DEPTH_VERBS.get(claim.get("reading"), "reached")
    match claim["kind"]:
        case "depth_order" if claim.get("relation") == "same":
            said = f"{a} and {b} are {verb} at the same depth"
        case "depth_order":
            said = f"{a} are {verb} at less depth than {b}"
        case "band":
            said = f"{a} lie in {where or 'a region'}"
        case "emergence":
            said = f"{a} came up" + (f" before {b}" if b else "") + (f" within {when}" if when else "")
        case "stability":
            moves = claim.get("relation")
            said = f"{a} stay as they are" if moves in (None, "steady") else f"{a} move ({moves})"
            said += f" over {when}" if when else ""
        case "causal":
            said = f"erasing {a}" + (f" at {where}" if where else "") + f" costs {b or 'something'}"
        case other:
            said = f"{other}: {a}" + (f", {b}" if b else "")
    said = f"it is not so that {said}" if claim.get("polarity") == "negative" else said
    hedges = f" (hedged: {', '.join(claim['hedges'])})" if claim.get("hedges") else ""
    return visible(f"{said}, {SCOPES.get(claim.get('scope') or 'artefact', claim.get('scope'))}{hedges}")


def claim_facts(claim: Json) -> Facts:
    """How the sentence was read, part by part; what a person disputes first."""
    parts = [("kind", claim.get("kind")), ("A", claim.get("a")), ("B", claim.get("b"))]
    parts += [("where", _text_of(claim.get("where"))), ("when", _text_of(claim.get("when")))]
    parts += [("reading", claim.get("reading") or "by default"), ("polarity", claim.get("polarity"))]
    parts += [("scope", claim.get("scope"))]
    facts = [("Reads as", claim_in_words(claim))]
    if claim.get("kind"):
        facts.append(("Parsed as", " · ".join(visible(f"{name} {value}") for name, value in parts if value)))
    if claim.get("reason"):
        facts.append(("Remark", visible(claim["reason"])))
    return facts


def card_facts(verdict: Json) -> Facts:
    """What a claim card says, but for the readings themselves (`reading_facts`) and the measuring (`method_facts`)."""
    facts = claim_facts(verdict["claim"])
    where = f"at step {number(verdict['step'])}, {visible(verdict['scope'])}"
    facts.append(("Verdict", f"{visible(verdict['verdict'])} {where}"))
    if verdict.get("primary"):
        facts.append(("Decided by", f"the reading {visible(verdict['primary'])}"))
    facts.append(("Causal", visible(verdict["causal"])))
    facts += [("Because", visible(reason)) for reason in verdict["reasons"]]
    if verdict.get("q_run") is not None:
        facts.append(("Whole journal", f"q {number(verdict['q_run'])} among all claims (Benjamini–Hochberg)"))
    if verdict.get("n_needed") is not None:
        facts.append(("Would need", f"about {number(verdict['n_needed'])} {_units(verdict)}"))
    facts += _counts(verdict)
    facts += _echo(verdict.get("echo"))
    facts += _preference(verdict.get("preference"))
    return facts


def reading_facts(name: str, evidence: Json, primary: bool = False) -> Facts:
    """One reading: difference, both sides, variants, why it cannot decide, remarks."""
    facts = [("Reading", f"{visible(name)}{' (primary)' if primary else ''}: {visible(evidence['verdict'])}")]
    delta = evidence["delta"]
    if delta is not None:
        held = f", Holm {number(evidence['p_holm'])}" if evidence.get("p_holm") is not None else ""
        facts.append(
            (
                f"Δ, {'adjusted ' if evidence['reading'] == 'decide' else ''}depth of B less A",
                f"{interval(delta, signed=True)}; 90 % {number(delta['lo90'], True)} to {number(delta['hi90'], True)}; "
                f"p = {number(delta['p'])}{held}",
            )
        )
        facts.append(
            (
                "Resampled",
                f"{number(delta['units'])} {visible(delta['unit'])}s, {number(delta['replicates'])} replicates, "
                f"{visible(delta['method'])}",
            )
        )
    if evidence.get("p_in_region") is not None:
        facts.append(("A in the region", f"in a share of {number(evidence['p_in_region'])} of the replicates"))
    for letter in ("a", "b"):
        if evidence[letter] is not None:
            facts.append(
                (f"{letter.upper()}, {short(visible(evidence[letter]['subject']), 40)}", _side(evidence, letter))
            )
    facts += _series(evidence["settings"].get("series"))
    facts += [(f"Δ, {visible(each['name'])}", interval(each, signed=True)) for each in evidence["variants"]]
    facts += [("Cannot decide", visible(reason)) for reason in evidence["untestable"]]
    told = set(evidence["untestable"])
    facts += [("Because", visible(reason)) for reason in evidence.get("reasons") or () if reason not in told]
    if evidence.get("n_needed") is not None:
        facts.append(("Would need", f"about {number(evidence['n_needed'])} {_units(evidence)}"))
    return facts + [("Note", visible(note)) for note in evidence["notes"]]


def method_facts(verdict: Json) -> Facts:
    """How it was measured: corpus, layers, settings, and the hash of everything that went in."""
    corpus = verdict.get("corpus")
    facts: Facts = [("Layers", visible(verdict["layer_convention"]))]
    if corpus:
        facts.append(
            (
                "Corpus",
                f"{visible(corpus['source'])}: "
                f"{number(corpus['words'])} words, {number(corpus['sentences'])} sentences, "
                f"{number(corpus['documents'])} documents, {number(corpus['in_training'])} of them in the training data",
            )
        )
        facts += [
            (f"Label {visible(name)}", visible(source)) for name, source in sorted(corpus.get("labels", {}).items())
        ]
    for name, evidence in readings(verdict):
        kept = sorted((key, value) for key, value in evidence["settings"].items() if key != "series")
        settings = ", ".join(f"{key} {_setting(value)}" for key, value in kept)
        facts += [(f"Settings of {visible(name)}", visible(settings))] if settings else []
    for name, value in sorted(verdict["inputs"].items()):
        facts.append((f"Input: {visible(name).replace('_', ' ')}", visible(str(value))))
    return facts


def _side(evidence: Json, letter: str) -> str:
    side = evidence[letter]
    said = [f"depth {interval(side['depth'])}" if side["depth"] else "no depth"]
    for key, words in (("half_gain", "half of the gain at"), ("peak", "peak at")):
        if side[key] is not None:
            said.append(f"{words} {number(side[key])}")
    if side["gain"]:
        said.append(f"gain {interval(side['gain'])} {GAIN_UNITS.get(evidence['reading'], '')}".rstrip())
    if side["selectivity"]:
        said.append(f"selectivity {interval(side['selectivity'])} bits")
    if side["twin_share"] is not None:
        said.append(f"the never-trained twin has a share of {number(side['twin_share'])} of it")
    n = f"n = {number(side['words'])} words, {number(side['sentences'])} sentences, {number(side['documents'])} documents"
    return visible(f"{side['label']}: {'; '.join(said)}; {n}")


def _counts(verdict: Json) -> Facts:
    found = verdict["readings"].get(verdict.get("primary"))
    if not found:
        return []
    sides = [(letter.upper(), found[letter]) for letter in ("a", "b") if found[letter]]
    said = "; ".join(
        f"{name}: {number(side['words'])} words, {number(side['sentences'])} sentences, {number(side['documents'])} documents"
        for name, side in sides
    )
    unit = f"; resampled by {visible(found['delta']['unit'])}" if found["delta"] else ""
    return [("n", said + unit)]


def _echo(echo: Json | None) -> Facts:
    if echo is None:
        return []
    facts = [("Echo", f"{'ECHO. ' if echo['echo'] else ''}{visible(echo['text'])}")]
    for key, where in (("training", "the training data"), ("prompt", "the prompt")):
        match = echo.get(key)
        if match is not None:
            quoted = f": “{visible(match['text'])}”" if match["text"] else ""
            facts.append((f"In {where}", f"{number(match['words'])} of {number(match['of'])} words in a row{quoted}"))
    return facts


def _preference(found: Json | None) -> Facts:
    if found is None:
        return []
    if found.get("prefers") is None:
        return [("Preference", f"not testable: {visible(found['text'])}")]
    said = (
        f"over {number(found['paraphrases'])} paraphrases, claim {number(found['claim_nats'])} nats, "
        f"reversal {number(found['reversal_nats'])} nats, difference {interval(found['difference'], signed=True)}"
    )
    if found["reference"]:
        said += f"; gained since the reference checkpoint {interval(found['reference'], signed=True)}"
    return [("Preference", f"prefers {visible(found['prefers'])}: {visible(found['text'])}"), ("Preference, n", said)]


def _series(series: Json | None) -> Facts:
    """A reading over checkpoints: bits of the best layer and depth, of each subject at each step."""
    return [
        (f"{short(visible(subject), 40)}, step {number(point['step'])}", f"{interval(point['bits'])} bits per word"
         + (f", depth {interval(point['depth'])}" if point["depth"] else ""))
        for subject, points in (series or {}).items()
        for point in points
    ]  # fmt: skip


def _units(found: Json) -> str:
    primary = found.get("readings", {}).get(found.get("primary")) or found
    delta = primary.get("delta")
    return f"{visible(delta['unit'])}s" if delta else "sentences"


def _text_of(place: Json | None) -> str | None:
    return None if place is None else str(place["text"])


def _setting(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)
