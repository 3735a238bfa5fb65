"""One check-in: what was asked, every answer beside the one before it and the reference's, changes and findings marked."""

from typing import Any

import streamlit as st

from app import behaviour, transcript_html
from app.behaviour import Json, Said, Talk
from app.behaviour_text import at_step, changes_in_words, compared, protocol, tally
from app.queries import Opened
from app.verdict_html import facts_block
from app.verdict_text import Facts, short, visible
from app.views import linked
from lab.records import Records

WHICH = ("This check-in", "The last one", "The reference")
LEGEND = "Green, underlined: words that the last one had not. Struck through: words that are gone."


def show(opened: Opened, records: Records, talk: Talk, data: Json) -> None:
    """Draw the facts of a check-in, the picker of a question and the answers to it."""
    assert opened.run is not None
    said = behaviour.samples(data.get("samples"))
    st.subheader(f"Check-in at step {talk.step:,}")
    if not said:
        st.text("This check-in holds no answers that can be shown.")
        return
    last, reference = _dict(data.get("last")), _dict(data.get("reference"))
    earlier = last.get("episode")
    before = behaviour.samples(behaviour.episode(records, earlier).get("samples")) if type(earlier) is int else []
    theirs = [] if "reason" in reference else behaviour.reference_samples(opened.run.statistics, data.get("setting"))
    with st.expander("In numbers, and how it was asked", expanded=True):
        left, right = st.columns([3, 2], gap="large")
        rates = [*compared(talk, talk.reference, "answers"), ("Other words", changes_in_words(last, before, said))]
        left.html(facts_block(rates))
        right.html(facts_block(_asked(data, reference)))
    prompts = list(dict.fromkeys(one.prompt_id for one in said))
    asked = {one.prompt_id: one.prompt for one in said}

    def in_words(prompt: str) -> str:
        return f"{short(visible(asked[prompt]), 90)} · {tally(prompt, said, before)}"

    prompt = linked.pick("Question", prompts, "prompt", in_words, width=640)
    _side_by_side(
        [one for one in said if one.prompt_id == prompt],
        before,
        theirs,
        [None, last.get("step"), reference.get("step")],
    )


def _asked(data: Json, reference: Json) -> Facts:
    facts = protocol(data)
    system = data.get("system")
    facts.append(("System prompt", short(system, 500) if isinstance(system, str) else "none"))
    if isinstance(reference.get("reason"), str):
        facts.append(("Reference", short(reference["reason"], 300)))
    return facts


def _side_by_side(here: list[Said], before: list[Said], theirs: list[Said], steps: list[Any]) -> None:
    """Answers of this check-in, of the last one and of the reference, sample by sample."""
    was, far = ({(one.prompt_id, one.number): one for one in found} for found in (before, theirs))
    rows = [(one, was.get((one.prompt_id, one.number)), far.get((one.prompt_id, one.number))) for one in here]
    shown = [at for at in range(len(WHICH)) if any(row[at] for row in rows)]
    legend = f'<span class="bw-dim">{LEGEND}</span>' if 1 in shown else ""
    st.html(f'<div class="bw-head">{transcript_html.MODEL_BADGE}{legend}</div>')
    for at, column in zip(shown, st.columns(len(shown), gap="small"), strict=True):
        column.markdown(f"**{WHICH[at]}{at_step(steps[at])}**")
    for row in rows:
        now, old, _ = row
        gone, come = transcript_html.changes(old.text, now.text) if old else ([], [])
        changed = {0: (come, "ins"), 1: (gone, "del")}
        for at, column in zip(shown, st.columns(len(shown), gap="small", border=True), strict=True):
            found, (ranges, tag) = row[at], changed.get(at, ([], "ins"))
            same = ", the same words" if at == 1 and old and old.text == now.text else ""
            with column:
                st.caption(f"sample {now.number + 1}{same}")
                if found is None:
                    st.text("not asked")
                else:
                    block = transcript_html.text_block(found.text, found.marks, ranges, tag)
                    st.html(block + transcript_html.found_block(found.marks))


def _dict(found: Any) -> Json:
    return found if isinstance(found, dict) else {}
