"""Freezes of a concept as a section of a page: what is held now, branches with their proofs, and the command to freeze.

Freezing is asked for in `freeze_dialog`, or in a terminal. Words out of a run or a proof are shown as text.
"""

import logging
import shlex
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from app import concept_figures, concept_html, concepts, header, proof_figures, proof_text, queries
from app.concept_card import DAMAGED, Card
from app.concepts import Branch, Json, Proof
from app.freeze_plan import STEPS, TWINS
from app.queries import Opened
from app.verdict_html import facts_block
from app.verdict_text import number, short, visible
from app.views import freeze_dialog, inert
from app.views.freeze_dialog import MODES
from app.views.linked import pick
from lab.records import Records
from probes.concepts.rules import HOLDS, LEAK_ACCURACY

log = logging.getLogger(__name__)
LEAKS = f"LEAK is surely more than {LEAK_ACCURACY:g} above the unfrozen twin."
PLAIN = {"displayModeBar": False}


@dataclass(frozen=True)
class Entry:
    """A run that was frozen: a branch, or the shown run itself (`branch` is None)."""

    name: str
    path: Path
    branch: Branch | None
    proof: Proof | None


def section(opened: Opened, records: Records, concept: str, card: Card | None) -> None:
    """Everything about freezing one concept of a run; without a card, what is held and proved all the same."""
    st.subheader("Freezes")
    _origin(opened)
    root = opened.path.parent
    held = concepts.held(root, opened.name, records)
    _held(opened, records, held, concept)
    _entries(opened, concept, card)
    if card is not None:
        _ask(opened, records, concept, card, [item["concept"] for item in held if item["status"] != "released"])


def _origin(opened: Opened) -> None:
    assert opened.run is not None
    about = concepts.branched_from(opened.run)
    if about is not None:
        parent, kind = short(visible(str(about["parent"])), 80), short(visible(str(about["kind"])), 20)
        st.text(f"This run is a branch of {parent} from step {about['step']} ({kind}).")


def _held(opened: Opened, records: Records, held: list[Json], concept: str) -> None:
    st.markdown("**Held in this run**")
    if not held:
        st.text("Nothing is frozen in this run.")
        return
    rows = []
    for item in held:
        name = str(item["concept"])
        now = records.newest(f"freeze/{name}/nrmse")
        status = str(item["status"])
        if status != "holding" and item.get("released_step") is not None:
            status += f", let go at step {item['released_step']}"
        until = item.get("until")
        rows.append(
            (
                name + (" (this concept)" if name == concept else ""),
                str(item.get("mode", "–")),
                str(item.get("layer", "–")),
                str(item.get("from_step", "–")),
                "–" if until is None else str(until),
                status,
                "–" if now is None else f"{number(now[1])} at step {number(now[0])}",
            )
        )
    st.html(
        concept_html.table_block(
            ("concept", "mode", "layer", "since step", "until", "status", "drift in training"), rows
        )
    )
    st.caption(
        "From the run's events; layer 0 is the embedding sum, layer l after block l. Drift: of an anchor, on the newest "
        "batch, in units of the concept's spread."
    )
    quoted = shlex.quote(opened.name)
    if any(item["concept"] == concept and item["status"] == "holding" for item in held):
        st.code(f"lab release {quoted} {concept}\nlab prove {quoted} --concept {concept}", language="bash")
        if header.state_of(opened) in header.LIVE_STATES:
            freeze_dialog.release_button(opened, concept)


def _entries(opened: Opened, concept: str, card: Card | None) -> None:
    st.markdown("**Branches and proofs**")
    root = opened.path.parent
    entries = [
        Entry(one.name, one.path, one, concepts.proof(one.path, concept))
        for one in concepts.branches(root, opened.name, concept)
    ]
    own = concepts.proof(opened.path, concept)
    if own is not None:
        entries.insert(0, Entry(opened.name, opened.path, None, own))
    if not entries:
        st.text("No branch of this run froze this concept yet; the command below trains one and its twins.")
        return
    header_row = ("run", "mode", "steps", "state", "verdict", "flags", "NRMSE (95 %)", "ΔCE to random V (95 %)")
    st.html(concept_html.table_block(header_row, [_row(one) for one in entries]))
    st.caption(
        "NRMSE: drift of the concept on held-out text from the freeze to the end, in units of its spread. ΔCE: loss less "
        "that of a twin that held a random subspace, nats per token."
    )
    by_name = {one.name: one for one in entries}
    if (proved := st.session_state.pop(freeze_dialog.PROVED, None)) in by_name:
        st.session_state["branch"] = proved
    _proof(by_name[pick("Branch", list(by_name), "branch", lambda name: name, width=620)], concept, card)


def _row(entry: Entry) -> tuple[str, ...]:
    proof = entry.proof.data if entry.proof and not entry.proof.problem else None
    branch = entry.branch
    summary = queries.summarise(header.open_cached(entry.path))
    if proof is not None:
        mode, steps = str(proof["mode"]), f"{proof['from_step']} to {proof['to_step']}"
    else:
        mode, steps = (branch.mode, f"{branch.step} to {branch.stop}") if branch else ("–", "–")
    if proof is None:
        told = ("not proved yet" if entry.proof is None else "its proof cannot be read", "", "–", "–")
    else:
        cost = proof["cost"].get("random")
        told = (
            str(proof["verdict"]),
            ", ".join(map(str, proof["flags"])),
            proof_text.interval(proof["drift"]["branch"]["raw"]),
            "–" if cost is None else proof_text.interval(cost, signed=True),
        )
    return (entry.name + ("" if branch else " (this run)"), mode, steps, summary.state, *told)


def _proof(entry: Entry, concept: str, card: Card | None) -> None:
    again = f"lab prove {shlex.quote(entry.name)}" + ("" if entry.branch else f" --concept {concept}")
    if entry.branch is not None:
        twins = ", ".join(entry.branch.controls) or "none"
        st.text(f"Its twins: {twins}.")
    if entry.proof is None or entry.proof.problem:
        if entry.proof is None:
            st.info("This freeze has not been proved yet. When it is trained to its end:")
        else:
            st.error("The proof of this freeze cannot be shown.")
            st.text(short(visible(entry.proof.problem or ""), 400))
        st.code(f"lab resume {shlex.quote(entry.name)}   # unless it is at its end\n{again}", language="bash")
        return
    proof = entry.proof.data
    try:
        st.html(concept_html.verdict_chips(proof))
        st.text(proof_text.subject(proof))
        if card is not None and proof["concept"].get("sha256") != card.sha256:
            st.warning("This proof is of an earlier subspace of that name, not of the one shown above.")
        st.markdown("**Before and after**")
        st.html(concept_html.proof_block(proof))
        st.caption(proof_text.NOTE)
        st.html(facts_block([*proof_text.facts(proof), *(("missing", text) for text in proof_text.missing(proof))]))
        _figures(proof)
    except DAMAGED:
        log.exception("a proof could not be shown")
        st.error("The rest of this proof cannot be shown; it does not hold together.")
    st.code(f"{again} --html proof.html", language="bash")


def _figures(proof: Json) -> None:
    n = f"{number(proof['text']['tokens'])} held-out tokens of {number(proof['text']['documents'])} documents"
    where = f"layer {proof['concept']['layer']} (0 = embedding sum, l = after block l), step {number(proof['to_step'])}"
    drawn = (
        (
            "drift",
            proof_figures.drift(proof),
            f"Drift of the concept by model, n = {n}, {where}; bars: 95 %. {proof_figures.AT_FLOOR}",
        ),
        ("cost", proof_figures.cost(proof), f"Loss of the branch less each twin's, n = {n}; bars: 95 %."),
        (
            "leak",
            proof_figures.leak(proof),
            f"Accuracy of new probes with the concept's subspace projected out, by layer; {LEAKS}",
        ),
    )
    shown = [one for one in drawn if one[1] is not None]
    for column, (name, figure, words) in zip(st.columns(len(shown), gap="medium"), shown, strict=True):
        with column:
            st.plotly_chart(concept_figures.fitted(figure), key=f"proof {name}", config=PLAIN, alt=words)
            inert.caption(words)


def _ask(opened: Opened, records: Records, concept: str, card: Card, held: list[str]) -> None:
    st.markdown("**Freeze it**")
    mode = pick("Mode", list(MODES), "mode", lambda one: MODES[one])
    st.text(HOLDS[mode])
    run = shlex.quote(opened.name)
    if concept in held:
        st.text(
            "It is held in this run already: release it first, or branch from a checkpoint before the freeze (--step)."
        )
    freeze_dialog.button(opened, records, concept, card, mode)
    freeze_dialog.jobs(opened, concept)
    lines = [
        f"lab freeze {run} {concept} --mode {mode} --steps {STEPS} --twins {','.join(TWINS)}",
        f"lab freeze {run} {concept} --mode {mode} --when stable   # only if shimmer says STABLE of its newest checkpoints",
    ]
    if header.state_of(opened) in header.LIVE_STATES:
        lines.append(f"lab freeze {run} {concept} --mode {mode} --live   # in this run, while it trains")
    st.caption(
        "Trains a branch that holds the concept and its twins on the same batches, then proves what stayed. This run is "
        "read and not changed. The same in a terminal:"
    )
    st.code("\n".join(lines), language="bash", wrap_lines=True)
