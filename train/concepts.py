"""Find a concept in a checkpoint of a run and keep it with its card: `lab concept add`.

What is measured is `probes.concepts`; this file gathers the text and the activations, chooses the layer and writes. The
card (`details`) holds plain data; whoever shows it needs neither the model nor torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lab.concepts import BadConcept, Concept, ConceptExists, folder_of
from lab.run import Run
from train.concept_cards import Measured, of_direction, of_labels
from train.concept_directions import FromFile
from train.concept_sources import BadSource, Groups, Task, Text, of_claim
from train.concept_texts import Prompts, Sentences, WordLists, prompt_file, sentence_files, word_lists
from train.material import LAYER_CONVENTION

__all__ = [
    "FromFile",
    "Groups",
    "Prompts",
    "Sentences",
    "Source",
    "Task",
    "WordLists",
    "add",
    "of_claim",
    "prompt_file",
    "sentence_files",
    "source_of",
    "word_lists",
]

Source = Task | Groups | WordLists | Sentences | Prompts
Progress = Callable[[str, float], None]
_FIELDS = ("layer", "basis", "mean", "weight", "bias", "classes")  # of a concept; what else was measured is its card's


def add(
    run: Run,
    name: str,
    source: Source | FromFile,
    *,
    layer: int | None = None,
    step: int | None = None,
    take: int | None = None,
    progress: Progress | None = None,
) -> Concept:
    """Find a concept, describe it and write it into the run's `concepts/`, whole or not at all.

    Args:
        layer: 0..L; by default the one with the most usable bits about the labels.
        step: the checkpoint; the newest by default.
        take: sentences of held-out text; by default as many as the run's probes use.

    Raises:
        LabError: a name that is taken or none, a layer outside the model, no checkpoint, too little text or too few words
            of a class, labels that cannot be read, or a file that cannot be used. Nothing was written.
    """
    report = progress or (lambda what, share: None)
    depth = run.config.model.n_layers
    if folder_of(run, name).exists():
        raise ConceptExists(
            f"{run.name} has a concept {name!r} already. Choose another name, or remove it: lab concept rm {run.name} {name}"
        )
    if layer is not None and not 0 <= layer <= depth:
        raise BadConcept(f"--layer {layer}: the model has layers 0..{depth}. Use one of them.")
    if take is not None and take < 10:
        raise BadConcept(f"--take {take}: at least 10 sentences are needed, better {run.config.probing.sentences}.")
    if layer is None and isinstance(source, FromFile):
        raise BadConcept(f"--from-file names no layer that the direction belongs to. Add --layer 0..{depth}.")
    info = run.checkpoint_info(step)  # once: a run in training may have a newer one a moment later
    text = Text(run, take)
    report("reading the text", 0.0)
    if isinstance(source, FromFile):
        basis, origin, notes = source.read(run.config.model.d_model)
        bench = Measured(run, run.model(info.step), text.probe_set())
        concept: dict[str, Any] = of_direction(layer or 0, basis, bench, report) | {"notes": notes, "source": origin}
    else:
        labelled = source.label(text)
        model = run.model(info.step)
        bench = Measured(run, model, labelled.probe_set)
        held_out = bench if labelled.held_out else Measured(run, model, text.probe_set())
        concept = of_labels(name, layer, labelled, bench, held_out, report) | {"source": source.to_dict()}
    details = {key: value for key, value in concept.items() if key not in _FIELDS}
    made = Concept(
        name=name,
        **{key: concept[key] for key in _FIELDS},
        checkpoint={"step": info.step, "sha256": info.weights_sha256},
        tokenizer=run.tokenizer().sha256,
        details=details | {"take": take, "layers": LAYER_CONVENTION},
    )
    made.save(run)
    return made


def source_of(details: Mapping[str, Any]) -> Source:
    """What a concept was found from, read back from its card.

    Raises:
        BadSource: a direction from a file, which has no labelled words, or a card that does not say.
    """
    data = dict(details.get("source", {}))
    kind, origin = data.get("kind"), data.get("origin", {})
    try:
        if kind == "task":
            return Task(data["task"], data["classes"] and tuple(data["classes"]), origin)
        if kind == "prompts":
            return Prompts(tuple((a, b) for a, b in data["pairs"]), origin)
        if kind in ("groups", "words", "sentences"):
            a, b = data["names"]
            if kind == "groups":
                (family_a, value_a), (family_b, value_b) = data["groups"]
                return Groups((a, b), ((family_a, value_a), (family_b, value_b)), data["target"], origin)
            first, second = (tuple(one) for one in data["lists"])
            return (WordLists if kind == "words" else Sentences)((a, b), (first, second), origin)
    except (KeyError, TypeError, ValueError) as error:
        raise BadSource(f"the concept's card does not hold together ({error}). Find the concept again.") from None
    raise BadSource("the concept has no labelled words: it is a direction from a file.")
