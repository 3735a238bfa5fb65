"""Rates and settings of a conversation in words, every rate with its interval and its denominator. Pure functions."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.behaviour import RATE_NAMES, Json, Said, Talk
from app.verdict_text import Facts, short
from probes.behaviour.rates import Rate, difference, wilson

SETTINGS = {"layout": "Layout", "temperature": "Temperature", "top_p": "Top p", "topics": "Topics, version"}


def in_words(rate: Rate) -> str:
    """A rate with its interval and its denominator.

    >>> from probes.behaviour.rates import wilson
    >>> in_words(wilson(3, 24))
    '12.5 % (95 % 4.3 to 31.0), 3 of 24'
    """
    return (
        f"{100 * rate.value:.1f} % (95 % {100 * rate.lo:.1f} to {100 * rate.hi:.1f}), {rate.count:,} of {rate.checks:,}"
    )


def compared(talk: Talk, reference: tuple[int, Mapping[str, Rate]] | None, unit: str) -> Facts:
    """Each rate of a conversation, and how far it is from the reference's."""
    facts: Facts = []
    for name, rate in talk.rates.items():
        facts.append((RATE_NAMES[name].capitalize(), f"{in_words(rate)} {unit}"))
        if reference and name in reference[1]:
            there = reference[1][name]
            apart = difference(there, rate)
            signed = f"{100 * apart.value:+.1f} points (95 % {100 * apart.lo:+.1f} to {100 * apart.hi:+.1f})"
            facts.append((f"… at step {reference[0]:,}", f"{in_words(there)}; this one {signed}"))
    return facts


def protocol(data: Json) -> Facts:
    facts: Facts = []
    for key, label in SETTINGS.items():
        if isinstance(data.get(key), str | int | float):
            facts.append((label, short(str(data[key]), 60)))
    battery = data.get("battery")
    if isinstance(battery, dict) and isinstance(battery.get("version"), str):
        facts.append(("Battery", f"version {short(battery['version'], 40)}"))
    return facts


def changes_in_words(last: Json, before: Sequence[Said], now: Sequence[Said]) -> str:
    """How many answers have other words than at the last check-in, counted from the texts themselves."""
    old = {(one.prompt_id, one.number): one.text for one in before}
    pairs = [one.text != old[key] for one in now if (key := (one.prompt_id, one.number)) in old]
    if not pairs:
        return "no earlier check-in in the same setting"
    return f"{in_words(wilson(sum(pairs), len(pairs)))} answers, against the last one{at_step(last.get('step'))}"


def tally(prompt: str, now: Sequence[Said], before: Sequence[Said]) -> str:
    """How many answers to one question have other words than before, and how many have findings."""
    here = [one for one in now if one.prompt_id == prompt]
    old = {one.number: one.text for one in before if one.prompt_id == prompt}
    changed = sum(old[one.number] != one.text for one in here if one.number in old)
    found = sum(bool(one.marks) for one in here)
    return (
        f"{changed} of {len(here)} changed, {found} with findings" if old else f"{found} of {len(here)} with findings"
    )


def at_step(step: Any) -> str:
    """A step to stand behind a comma; nothing for what is no step."""
    return f", step {step:,}" if type(step) is int else ""
