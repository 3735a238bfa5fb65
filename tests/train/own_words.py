"""What tests of the remedy, the gate and feedback share: conversations by hand, and a short run that talks."""

import zlib

from lab.run import Run
from train.loop import train
from train.session import Session
from train.talk import Talk, Turn

NOUNS = (
    "river stone bread night morning child teacher soldier garden winter song road king queen horse house apple basket"
)
WORDS = NOUNS.split()
SHORT = (
    "train.steps=8",
    "optimizer.warmup_steps=2",
    "checkpoint.every=4",
    "evaluation.every=0",
    "probing.every=0",
    "understanding.every=0",
    "self_play.every=2",
    "self_play.turns=2",
    "self_play.max_tokens=32",
    "self_play.temperature=0.0",
)


def sentence(seed: int, words: int = 16) -> str:
    """Words in an order that no other seed below 10,000 has for eight of them."""
    return " ".join(
        f"{WORDS[(seed * 7 + at * (seed % 5 + 1)) % len(WORDS)]}{(seed * 31 + at) % 997}" for at in range(words)
    )


def ids_of(text: str) -> tuple[int, ...]:
    """A token a word, as a tokenizer that was trained on such text would have."""
    return tuple(zlib.crc32(word.encode()) for word in text.split())


def talk(*texts: str, findings: tuple[tuple[str, str], ...] = ()) -> Talk:
    turns = tuple(Turn((1, 2), ids_of(text), text, findings) for text in texts)
    return Talk("What did you see?", turns)


def finish(session: Session, stop_at: int | None = None) -> Run:
    def report(session: Session) -> None:
        if session.step == stop_at:
            session.control.stop_reason = "SIGINT"

    session.report = report
    outcome = train(session)
    session.records.end_segment(session.segment, session.step, outcome.reason)
    return session.run
