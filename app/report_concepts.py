"""A run's concepts as blocks of a report: each with its card, how it came and went, and the proofs of its freezes.

As the app's Concepts page, drawn by the same functions. Words out of a run pass `escaped`.
"""

from __future__ import annotations

from collections.abc import Iterator

from app import (
    concept_card,
    concept_figures,
    concept_html,
    concepts,
    proof_figures,
    proof_text,
    shimmer_figures,
    shimmer_rows,
)
from app.report_pieces import drawn, paragraph, side_by_side
from app.verdict_html import escaped, facts_block
from app.verdict_text import number, short
from lab.concepts import names
from lab.records import Records
from lab.run import Run
from probes.concepts.states import WINDOW


def blocks(run: Run, records: Records) -> Iterator[str]:
    """Card, life and proofs of each; a card that is damaged is said so."""
    there = names(run)
    tracks = shimmer_rows.followed(run, records)["tracks"] if there else []
    for at, name in enumerate(there):
        yield f"<h3>{escaped(name)}</h3>"
        try:
            yield from _concept(concept_card.card(run, name), f"concept-{at}")
        except concept_card.CardBroken as error:
            yield paragraph(str(error))
        own = [track for track in tracks if track["name"] == shimmer_rows.CONCEPT + name]
        if own:
            yield drawn(concept_figures.readable(shimmer_figures.heat_map(own)), f"concept-{at}-shimmer")
            steps = sorted({point["step"] for track in own for point in track["points"]})
            about = {"tracks": own, "steps": steps, "window": WINDOW}
            yield paragraph(f"{shimmer_figures.describe(about)} {shimmer_figures.caption(about)}")
        for each, proof in enumerate(_proofs(run, name)):
            yield from _proof(proof, f"concept-{at}-proof-{each}")


def _concept(card: concept_card.Card, name: str) -> Iterator[str]:
    details, step = card.details, card.checkpoint.step
    yield paragraph(f"Layer {card.layer}, found at step {number(step)}.")
    yield facts_block(concept_html.card_facts(card))
    beside = []
    if details.histogram is not None:
        words = paragraph(concept_figures.histogram_caption(card))
        beside.append(drawn(concept_figures.histogram(details.histogram), f"{name}-classes") + words)
    if details.profile is not None:
        words = paragraph(concept_figures.profile_caption(card))
        beside.append(drawn(concept_figures.profile(details.profile, step or 0, card.layer), f"{name}-layers") + words)
    yield side_by_side(*beside)
    yield facts_block(concept_html.floor_facts(card))
    if details.tokens:
        yield concept_html.tokens_block(details.tokens[0])
    if any(details.examples.values()):
        yield concept_html.words_block(concept_html.fewer(details.examples))


def _proofs(run: Run, name: str) -> Iterator[concepts.Proof]:
    """The run's own proof of a concept, then those of its branches."""
    branches = concepts.branches(run.path.parent, run.name, name)
    for folder in (run.path, *(one.path for one in branches)):
        found = concepts.proof(folder, name)
        if found is not None:
            yield found


def _proof(found: concepts.Proof, name: str) -> Iterator[str]:
    yield f"<h4>Frozen in {escaped(short(found.run, 120))}</h4>"
    if found.problem:
        yield paragraph(found.problem)
        return
    proof = found.data
    yield concept_html.verdict_chips(proof) + paragraph(proof_text.subject(proof))
    yield concept_html.proof_block(proof) + paragraph(proof_text.NOTE)
    yield facts_block([*proof_text.facts(proof), *(("missing", text) for text in proof_text.missing(proof))])
    measured = {
        "drift": proof_figures.drift(proof),
        "cost": proof_figures.cost(proof),
        "leak": proof_figures.leak(proof),
    }
    yield side_by_side(*(drawn(figure, f"{name}-{what}") for what, figure in measured.items() if figure is not None))
