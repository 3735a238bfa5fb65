"""Terms of the journal → what can be labelled: the subjects of claims. The terms are in vocabulary.toml.

A subject has a canonical name, the label family that decodes it (`probes.layers.labels`), a class inside the family where
it is one class, and the group of next tokens that the *decide* reading counts. A subject whose family has no labels in
this lab is kept with the name of the missing task, so that a claim about it is UNTESTABLE and says why. Families known
by name but not yet labelled cost nothing here: the day `LABELS` has "pos.current", claims about nouns become testable.

Sources: the closed classes are those of Universal Dependencies (universaldependencies.org/u/pos), semantic classes are
WordNet's lexicographer files (wordnet.princeton.edu/documentation/lexnames5wn).
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.layers.labels import LABELS

UNNAMED = "?"  # the class of a subject that no table knows: its words are its name and its missing task
_CONCEPT = "[concept|concepts|words|word|terms|names|nouns|category|vocabulary]"


@dataclass(frozen=True)
class Subject:
    """What a claim is about.

    Attributes:
        name: canonical, as it stands in a claim's `a` and `b`.
        family: label family, "class" or "supersense" for example; for a missing one, its name.
        value: the class within the family; None = the family as a whole.
        words: "function" or "content": the next tokens whose depth the decide reading measures; None = no such reading.
    """

    name: str
    family: str
    value: str | None = None
    words: str | None = None

    @property
    def plural(self) -> bool:
        """Whether its name takes "are": "nouns", "parts of speech", "people", but not "tense" or "concreteness"."""
        head = self.name.split(" of ")[0]
        return head == "people" or (head.endswith("s") and not head.endswith("ss"))

    def tasks(self, labels: Collection[str] = LABELS) -> tuple[str, ...]:
        """The labels that decode it, of the current and of the next word; empty if there are none."""
        return tuple(label for label in labels if label.split(".")[0] == self.family)


_TABLES: dict[str, Any] = tomllib.loads(Path(__file__).with_name("vocabulary.toml").read_text(encoding="utf8"))
SUBJECTS: dict[str, Subject] = {
    row["name"]: Subject(row["name"], row["family"], row.get("class"), row.get("words")) for row in _TABLES["subjects"]
}
TERMS: list[tuple[str, Subject]] = [
    (f"({row['terms']}) {_CONCEPT if row.get('concept') else ''}", SUBJECTS[row["name"]]) for row in _TABLES["subjects"]
]
