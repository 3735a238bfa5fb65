"""Short stories from a small grammar, every word's labels known because they were written first: gold text for tests.

About 10^8 different sentences; content words are in the same supersense as in WordNet's table where that has them. Tense
belongs to a sentence and topic to a story, so both are constant within it, as they would be in text by people.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from probes.layers.annotated import GoldText, Sentence, Word, document_name
from probes.layers.probe_set import BadProbeSet

FAMILIES = frozenset({"class", "pos", "supersense", "number", "tense", "topic"})
SENTENCES_PER_STORY = 8

# topic: people, then things and animals, then places; "singular/plural" and its supersense
_NOUNS: dict[str, tuple[str, str, str]] = {
    "farm": (
        "farmer/farmers shepherd/shepherds milkmaid/milkmaids neighbour/neighbours",
        "cow/cows=animal donkey/donkeys=animal lamb/lambs=animal plough/ploughs=artifact wagon/wagons=artifact "
        "apple/apples=food turnip/turnips=food willow/willows=plant",
        "barn/barns=artifact stable/stables=artifact meadow/meadows=location pasture/pastures=location",
    ),
    "sea": (
        "sailor/sailors fisherman/fishermen pirate/pirates widow/widows",
        "whale/whales=animal seagull/seagulls=animal lobster/lobsters=animal rope/ropes=artifact "
        "lantern/lanterns=artifact barrel/barrels=artifact biscuit/biscuits=food fern/ferns=plant",
        "lighthouse/lighthouses=artifact tavern/taverns=artifact island/islands=location harbour/harbours=location",
    ),
    "school": (
        "teacher/teachers pupil/pupils librarian/librarians orphan/orphans",
        "kitten/kittens=animal sparrow/sparrows=animal pencil/pencils=artifact crayon/crayons=artifact "
        "blackboard/blackboards=artifact sandwich/sandwiches=food cookie/cookies=food daisy/daisies=plant",
        "classroom/classrooms=artifact library/libraries=artifact village/villages=location suburb/suburbs=location",
    ),
    "court": (
        "princess/princesses soldier/soldiers servant/servants tailor/tailors",
        "stallion/stallions=animal falcon/falcons=animal sword/swords=artifact necklace/necklaces=artifact "
        "throne/thrones=artifact pastry/pastries=food cheese/cheeses=food rosebush/rosebushes=plant",
        "palace/palaces=artifact tower/towers=artifact kingdom/kingdoms=location province/provinces=location",
    ),
}
_VERBS = (
    "saw/sees/see found/finds/find carried/carries/carry lost/loses/lose wanted/wants/want painted/paints/paint "
    "sold/sells/sell remembered/remembers/remember praised/praises/praise bought/buys/buy borrowed/borrows/borrow"
)
_ADJECTIVES = "old young hungry quiet clever tired lonely proud gentle strange tall muddy"
_OPENINGS = ("then", "often", "later", "soon", "suddenly", "usually")
_PREPOSITIONS = ("near", "behind", "beside", "inside", "outside")
_DETERMINERS = {"Sing": ("the", "a", "this", "every", "her"), "Plur": ("the", "these", "all", "some", "her")}

Piece = tuple[str, dict[str, str]]


def stories(count: int, seed: int = 0) -> GoldText:
    """`count` stories of eight sentences each; the same seed gives the same stories, and more of them begin with the fewer.

    Raises:
        BadProbeSet: a count below 1.
    """
    if count < 1:
        raise BadProbeSet(f"stories: count = {count}. Ask for 1 or more.")
    sentences: list[Sentence] = []
    for number in range(count):
        draw = random.Random(f"{seed} {number}")  # of a string: the same on every machine and in every process
        topic = list(_NOUNS)[number % len(_NOUNS)]
        story = [_written(list(_sentence(topic, draw))) for _ in range(SENTENCES_PER_STORY)]
        name = document_name(" ".join(text for text, _ in story))
        sentences += [Sentence(text, name, words, topic) for text, words in story]
    return GoldText(f"generated stories, seed {seed}", FAMILIES, tuple(sentences))


def _sentence(topic: str, draw: random.Random) -> Iterator[Piece]:
    """[opening] NP V NP P NP: who did what to what, where."""
    people, things, places = _NOUNS[topic]
    if draw.random() < 0.5:
        opening = draw.choice(_OPENINGS)
        yield opening, {"pos": "ADV", "class": "function" if opening == "then" else "content"}
    number = draw.choice(("Sing", "Plur"))
    yield from _phrase(f"{draw.choice(people.split())}=person", number, draw)
    tense = draw.choice(("Past", "Pres"))
    past, third, plural = draw.choice(_VERBS.split()).split("/")
    form = past if tense == "Past" else third if number == "Sing" else plural
    yield form, {"pos": "VERB", "class": "content", "tense": tense}
    yield from _phrase(draw.choice(things.split()), draw.choice(("Sing", "Plur")), draw)
    yield draw.choice(_PREPOSITIONS), {"pos": "ADP", "class": "function"}
    yield from _phrase(draw.choice(places.split()), draw.choice(("Sing", "Plur")), draw)


def _phrase(noun: str, number: str, draw: random.Random) -> Iterator[Piece]:
    forms, sense = noun.split("=")
    singular, plural = forms.split("/")
    form = singular if number == "Sing" else plural
    adjective = draw.choice(_ADJECTIVES.split()) if draw.random() < 0.6 else None
    determiner = draw.choice(_DETERMINERS[number])
    if determiner == "a" and (adjective or form)[0] in "aeiou":
        determiner = "an"
    pos = "PRON" if determiner == "her" else "DET"
    yield determiner, {"pos": pos, "class": "function"}
    if adjective:
        yield adjective, {"pos": "ADJ", "class": "content"}
    yield form, {"pos": "NOUN", "class": "content", "number": number, "supersense": f"noun.{sense}"}


def _written(pieces: list[Piece]) -> tuple[str, tuple[Word, ...]]:
    """The sentence, its first letter a capital, a full stop at its end; and its words with their labels."""
    text, words = "", list[Word]()
    for form, labels in pieces:
        text += " " if text else ""
        words.append(Word(len(text), len(text) + len(form), labels))
        text += form
    return text[0].upper() + text[1:] + ".", tuple(words)
