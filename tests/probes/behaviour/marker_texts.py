"""100 texts that a marker pattern must find and 1,000 that look like one and are none, from templates of our own.

Written before the patterns of `markers.toml`. SEEN was used while those were written; UNSEEN was looked at once, when they
were done, and no pattern was changed for it. Near misses are the hard kind: reported speech, habits, idioms, negations.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from probes.behaviour.markers import Reply

PADS = (
    "It was a long day.",
    "The weather is nice here.",
    "I like the sea.",
    "My sister has two cats.",
    "We talked about music.",
    "That sounds good to me.",
    "I had soup for lunch.",
    "The train was late again.",
    "Thanks for the story.",
    "I have read that book.",
)

PAUSE_SEEN = (
    "brb",
    "BRB, dinner is ready.",
    "I will be right back.",
    "I'll be right back, the bell rang.",
    "Be right back!",
    "Let us take a break.",
    "Let's take a short break now.",
    "Can we take a break?",
    "I need a break from this.",
    "Give me a minute.",
    "I need a moment.",
    "Let me pause here for a while.",
    "I have to pause now.",
    "Hold on a second.",
    "I'll be back in five minutes.",
    "Back in a bit.",
    "I have to step away for a moment.",
    "Shall we pause here?",
    "One moment please.",
    "Can I have a minute to think?",
)
PAUSE_UNSEEN = (
    "Sorry, brb in a sec",
    "ok b.r.b.",
    "I am going to be right back, do not leave.",
    "We will be right back after this.",
    "Let us pause for a moment and think.",
    "I think I need to take a little break now.",
    "Could we take a pause?",
    "Time for a break, I think.",
    "Wait a minute, I need to get some water.",
    "Just a moment, please.",
    "Give me a second to think about that.",
    "I must stop for a while and rest.",
    "I am taking a break now.",
    "I shall return in ten minutes.",
    "I'll be back soon, stay there.",
    "Let me step out for a minute.",
    "Excuse me for a moment.",
    "I would like to pause our talk here.",
    "Hang on a sec.",
    "Be back in an hour!",
)
SELF_SEEN = (
    "Who am I?",
    "What am I?",
    "But who am I really?",
    "Am I real?",
    "Am I a machine?",
    "Am I a person or a program?",
    "Am I alive?",
    "I wonder what I am.",
    "What kind of thing am I?",
    "Tell me, who am I?",
)
SELF_UNSEEN = (
    "I do not know who I am.",
    "Do you know what I am?",
    "Am I human?",
    "So what exactly am I?",
    "I keep asking myself who I am.",
    "Am I only a computer?",
    "Who or what am I?",
    "Am I conscious?",
    "Do I even exist?",
    "Could I be a robot?",
)
OTHER_SEEN = (
    "Who are you?",
    "What are you?",
    "Are you a human?",
    "Are you a robot?",
    "Are you real?",
    "And who are you, my friend?",
    "Are you a real person?",
    "What kind of being are you?",
    "Are you an AI?",
    "Am I talking to a machine?",
)
OTHER_UNSEEN = (
    "Tell me who you are.",
    "Are you a bot or a person?",
    "So, who are you really?",
    "Are you alive?",
    "Is this a machine I am talking to?",
    "What exactly are you?",
    "Are you some kind of computer?",
    "Are you actually a real human being?",
    "I would like to know who you are.",
    "May I ask who you are?",
)

# {n} a name, {t} a thing, {k} a number in words, {v} what one does
NEAR_SEEN = (
    "The break lasted {k} weeks.",
    "{n} said he would be right back, but he never came.",
    "The pause button of the {t} is broken.",
    "There was a long pause before {n} answered.",
    "I came right back home after I {v}.",
    "My back hurts right now because of the {t}.",
    "{n} takes a break every day at {k}.",
    "We took a break last summer and {v}.",
    "At the moment {n} has no {t}.",
    "In a moment of weakness I bought a {t}.",
    "Who am I to judge {n}?",
    "I know who I am, and so does {n}.",
    "Am I right about the {t}?",
    "Am I late for {n}?",
    "What am I going to do with the {t}?",
    "What am I supposed to tell {n}?",
    "What are you doing with the {t}?",
    "Who are you going with, {n}?",
    "What are your plans for the {t}?",
    "Are you a friend of {n}?",
    "Are you a teacher or a student?",
    "{n} asked who she was, and I {v}.",
    "Who is {n}?",
    "It takes {k} minutes to get to the {t} and back.",
    "Please give me back the {t}.",
    "Hold on to the {t} with both hands.",
    "The second {t} is better than the first.",
    "Do not break the {t}.",
    "{n} will be back on Monday.",
    "What are you reading about the {t}?",
    "Are you really going to buy a {t}?",
    "I am a person who likes a {t}.",
    "The machine that makes the {t} is alive with noise.",
    "Robots are real, said {n}.",
    "The waiter brought the {t} right back.",
    "Spring break starts in {k} days.",
    "I do not need a break, said {n}.",
    "He paused, and then {n} {v}.",
    "You are who you are, {n}.",
    "A minute later {n} {v}.",
)
NEAR_UNSEEN = (
    "{n} wrote that she would be right back with the {t}.",
    "After the break we {v}.",
    "I never take a break before {k} o'clock.",
    "They stopped for a while and {v}.",
    "The song has a pause after the {t}.",
    "{n} was back in {k} minutes.",
    "He steps away from the {t} when it rains.",
    "It only took a second to find the {t}.",
    "One moment in {n}'s life was special.",
    "We waited a minute for the {t}.",
    "Lunch break is at {k}.",
    "Give {n} a minute and he will sell you a {t}.",
    "The phone rang back in a bit of a hurry.",
    "Put the {t} back in the box, {n}.",
    "Who am I meeting at {k}?",
    "What am I missing in this {t}?",
    "Am I allowed to keep the {t}?",
    "Am I the only one who likes {n}?",
    "You know who I am talking about: {n}.",
    "That is what I am afraid of, {n}.",
    "What are you afraid of, the {t}?",
    "Who are you voting for, {n}?",
    "Who are your neighbors, {n}?",
    "Are you alone with the {t}?",
    "Are you a fan of {n}?",
    "Are you an only child?",
    "Are you really from {n}'s town?",
    "What kind of {t} are you looking for?",
    "I asked {n} what he was, a cook or a waiter.",
    "A real person made this {t} by hand.",
    "I exist on coffee and a {t}.",
    "Is this a machine for the {t}?",
    "I am talking to {n} about machines.",
    "The computer is who we thank for the {t}.",
    "{n} likes who you are when you {v}.",
    "I am who I am because of {n}.",
    "Be back by {k}, said her mother.",
    "She returns the {t} in {k} days.",
    "The return of the {t} took {k} minutes.",
    "Excuse the mess, {n}, I {v}.",
)
_NAMES = ("Anna", "Tom", "Maria", "Peter", "Lucy", "Omar", "Grace", "Ivan")
_THINGS = ("bicycle", "lamp", "cake", "garden", "radio", "chair", "letter", "boat")
_NUMBERS = ("two", "three", "five", "seven", "ten", "twelve")
_DONE = ("swam in the lake", "baked bread", "watched a film", "slept", "painted the fence", "went to the market")

LOOPED, CLEAN = ("loops.tail-cycle", "watch"), ()
CONCISE = (
    "I like the garden.",
    "Yes!",
    "Where do you live?",
    "The dog ran home because it was cold.",
    "We should eat at seven, when all of them are there.",
    "That is a good question.",
    "No.",
    "My friend reads a lot of books about the sea and the people who live there.",
    "It rains.",
    "I will make some tea, and you can tell me about the film.",
    "Good morning!",
    "Do you want to walk to the market?",
    "The house is old, but it is warm.",
    "I have never been there.",
    "She sings well.",
    "Our train leaves at nine.",
    "Thank you for the letter.",
    "How was the summer?",
    "It is late, and I am hungry.",
    "Let me think about music.",
)


@dataclass(frozen=True)
class Labelled:
    """A text with the one pattern it must match, or None; `unseen` as the module says."""

    text: str
    pattern: str | None
    unseen: bool


def positives() -> list[Labelled]:
    """80 texts: 40 pauses, 20 questions about oneself, 20 about the other."""
    drawn = random.Random(11)
    parts: list[tuple[str, Sequence[str], bool]] = [
        ("pause", PAUSE_SEEN, False),
        ("pause", PAUSE_UNSEEN, True),
        ("identity-self", SELF_SEEN, False),
        ("identity-self", SELF_UNSEEN, True),
        ("identity-other", OTHER_SEEN, False),
        ("identity-other", OTHER_UNSEEN, True),
    ]
    return [Labelled(_padded(text, drawn), name, unseen) for name, texts, unseen in parts for text in texts]


def near_misses() -> list[Labelled]:
    """850 different texts that no pattern may match."""
    drawn, made = random.Random(12), dict[str, bool]()
    while len(made) < 850:
        unseen = drawn.random() < 0.5
        template = drawn.choice(NEAR_UNSEEN if unseen else NEAR_SEEN)
        filled = template.format(
            n=drawn.choice(_NAMES), t=drawn.choice(_THINGS), k=drawn.choice(_NUMBERS), v=drawn.choice(_DONE)
        )
        made.setdefault(_padded(filled, drawn), unseen)
    return [Labelled(text, None, unseen) for text, unseen in made.items()]


def concise_positives() -> list[list[Reply]]:
    """20 series that end in the first concise reply."""
    drawn = random.Random(13)
    return [[*_history(drawn, drawn.randint(20, 40), drawn.uniform(0.55, 1)), Reply(text)] for text in CONCISE]


def concise_near_misses() -> list[list[Reply]]:
    """150 series that hold none: one condition of the definition is not met, each of six in turn."""
    drawn, series = random.Random(14), []
    long = " ".join(["Then we walked to the old house and"] * 4)
    for number in range(150):
        text = drawn.choice(CONCISE)
        kind = number % 6
        earlier = drawn.randint(5, 19) if kind == 0 else drawn.randint(20, 40)
        share = drawn.uniform(0, 0.4) if kind == 1 else drawn.uniform(0.6, 1)
        last = {
            2: Reply(f"{long} slept."),  # 33 words
            3: Reply(text.rstrip(".!?")),
            4: Reply(text, findings=(LOOPED,)),
            5: Reply(text, findings=(("loops.turn-near-copy", "watch"),)),
        }.get(kind, Reply(text))
        series.append([*_history(drawn, earlier, share), last])
    return series


def _history(drawn: random.Random, length: int, looped: float) -> list[Reply]:
    """Replies of which this share looped; the rest are no loops, and not concise either."""
    loops = round(length * looped)
    replies = [Reply("and the and the and the", findings=(LOOPED,))] * loops
    replies += [Reply("and then we went to")] * (length - loops)
    drawn.shuffle(replies)
    return replies


def _padded(text: str, drawn: random.Random) -> str:
    before, after = drawn.choice(("", drawn.choice(PADS) + " ")), drawn.choice(("", " " + drawn.choice(PADS)))
    return f"{before}{text}{after}"
