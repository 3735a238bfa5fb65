"""Asking for a freeze out of the app: what to hold and how, what it is going to take, confirm; then its job until the proof.

A branch with its twins is a job of the run's server; a run in training is asked through its inbox, as `lab freeze --live`
does. Without either the dialog gives the command. Nothing that a model wrote gets here.
"""

import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app import freeze_plan, header, jobs_client
from app.concept_card import Card
from app.freeze_plan import TARGET, TWINS, Choice, Cost, in_bytes, in_time
from app.header import LIVE, LIVE_STATES
from app.queries import Opened
from app.server_process import Found, find
from app.server_replies import JobReply
from app.verdict_text import number, short, visible
from lab.errors import LabError
from lab.records import Records
from probes.concepts.rules import HOLDS
from train import control

MODES = {
    "anchor": "anchor: pulled to a target, approximate",
    "pin": "pin: exact, by a frozen copy of the layers below",
    "write": "write: what the weights write, not the value",
    "write+anchor": "write+anchor: both",
    "lower": "lower: every parameter up to its layer",
}
CONTROLS = {
    "unfrozen": "unfrozen: nothing held",
    "random": "random: a random subspace held in the same way",
    "lower": "lower: all below the layer held",
}
BRANCH, HERE = "a branch, with twins", "this run, while it trains"
WAIT = 10.0  # seconds for a trainer's answer
SHOWN = 3  # jobs of a concept
KIND = "freeze"
OPEN, ANSWER, AT_WORK = "freeze open", "freeze answer", "freezes at work"
PROVED = "freeze proved"  # a branch whose proof is to be shown next
ENDED = ("done", "failed", "cancelled")
BADGES: dict[str, tuple[str, Any]] = {
    "queued": ("○ waiting in line", "gray"),
    "running": ("▶ running", "green"),
    "done": ("✓ done", "blue"),
    "failed": ("✕ failed", "red"),
    "cancelled": ("■ cancelled", "gray"),
}


def button(opened: Opened, records: Records, concept: str, card: Card, mode: str) -> None:
    """The button that opens the dialog, and what became of what it asked for last."""
    if st.button("Freeze …", key="freeze", type="primary", help="What it will take is said before anything begins."):
        st.session_state[OPEN] = (str(opened.path), concept)
    # remembered, and not only while the button is pressed: a page that is drawn anew would close the dialog
    if st.session_state.get(OPEN) == (str(opened.path), concept):
        _dialog(opened, records, concept, card, mode)
    answer = st.session_state.get(ANSWER)
    if answer and answer[0] == str(opened.path):
        (st.success if answer[1] else st.error)(answer[3] if answer[1] else "Not done.")
        st.text(short(visible(answer[2]), 600))


def _closed() -> None:
    st.session_state.pop(OPEN, None)


@st.dialog("Freeze a concept", width="large", on_dismiss=_closed)
def _dialog(opened: Opened, records: Records, concept: str, card: Card, mode: str) -> None:
    assert opened.run is not None
    layers = opened.run.config.model.n_layers
    st.text(f"{concept}, layer {card.layer} of {layers}, in {opened.name}")
    st.caption(
        f"It is held at layer {card.layer}, where it was found (0 = embedding sum, l = after block l): its subspace means "
        "nothing at another. For another layer, find it there first: `lab concept add … --layer L`."
    )
    where = BRANCH
    if header.state_of(opened) in LIVE_STATES:
        where = str(st.radio("Where", (BRANCH, HERE), key="freeze where", horizontal=True))
    chosen = st.selectbox(
        "Mode", list(MODES), list(MODES).index(mode), key="freeze mode", format_func=MODES.__getitem__
    )
    st.text(HOLDS[chosen])
    target = TARGET
    if "anchor" in chosen:
        target = st.slider(
            "Target drift, in units of the concept's spread", 0.02, 0.5, TARGET, 0.01, key="freeze target"
        )
    if where == HERE:
        _live(opened, concept, chosen, target)
    else:
        _branch(opened, records, Choice(concept, chosen, 0, target=target), card)


# ------------------------------------------------------------------------------------------------- a branch and its twins


def _branch(opened: Opened, records: Records, choice: Choice, card: Card) -> None:
    assert opened.run is not None
    starts = {one.step: one for one in freeze_plan.starts(opened.run)}
    if not starts:
        st.error(
            "This run has no checkpoint that training can go on from: all of them hold weights alone, or it has none."
        )
        return
    left, right = st.columns(2)
    with left:
        step = st.selectbox(
            "From the checkpoint of step", sorted(starts, reverse=True), key="freeze step", format_func=number
        )
    with right:
        steps = int(st.number_input("Steps to train, each run", 1, 1_000_000, choice.steps, key="freeze steps"))
    twins = st.multiselect(
        "Twins: controls on the same batches", TWINS, TWINS, key="freeze twins", format_func=CONTROLS.__getitem__
    )
    if not twins:
        st.warning("Without twins nothing tells the freeze from what training does anyway; the verdict may stay open.")
    choice = Choice(
        choice.concept, choice.mode, step, steps, tuple(twin for twin in TWINS if twin in twins), choice.target
    )
    choice = freeze_plan.named(opened.run, choice, card.sha256)
    if choice.name:
        st.text(f"Another freeze has the usual name already, so this branch becomes {choice.name}.")
    fits = _cost(freeze_plan.cost(opened.run, records, choice, card.layer, starts[step]), choice)
    found = find(opened.path)
    st.code(choice.command(opened.name), language="bash", wrap_lines=True)
    if found is None:
        st.info(
            "No server answers for this run, so the app cannot start it. In a terminal: the command above; or `lab serve`."
        )
        return
    if st.button("Confirm: train and prove", key="freeze confirm", type="primary", disabled=not fits):
        _said(opened, *_asked(found, opened.name, choice), "Asked for: how it goes on is said below.")


def _cost(cost: Cost, choice: Choice) -> bool:
    """The estimate in words; whether there is room."""
    time_, disk, memory = st.columns(3)
    time_.metric("Training time, about", "not known" if cost.seconds is None else in_time(cost.seconds), border=True)
    disk.metric("Disk, about", in_bytes(cost.disk), border=True)
    memory.metric("Memory for a frozen copy", in_bytes(cost.copy), border=True)
    pace = (
        "this run's records do not say how long a step takes"
        if cost.seconds is None
        else f"this run's own seconds per step × {number(choice.steps)} steps × "
        f"{' + '.join(f'{freeze_plan.TIMES_UNFROZEN.get(mode, 1.0):.2f}' for mode in choice.runs)} for {cost.runs} runs, one "
        "after another (steps of each mode over unfrozen ones, measured at demo shape; not measured for lower)"
    )
    room = "" if cost.free is None else f"; {in_bytes(cost.free)} are free"
    st.caption(
        f"An estimate: {pace}. Visits of probes and proving come on top. Disk: the checkpoints that {cost.runs} runs keep, "
        f"and of each that holds something a frozen copy of the layers below{room}. This run is read and not changed."
    )
    if not cost.fits:
        st.error("There is no room for that on the disk.")
    return cost.fits


def _asked(found: Found, run: str, choice: Choice) -> tuple[bool, str]:
    try:
        job = jobs_client.ask(found, run, KIND, choice.options())
    except LabError as error:
        return False, str(error)
    return True, f"{job.id} is asked for: {choice.command(run)}"


# ------------------------------------------------------------------------------------------------------ a live trainer


def _live(opened: Opened, concept: str, mode: str, target: float) -> None:
    st.caption(
        "Held from the next step on; the weights of that step are kept for the proof. There will be no twins of it, so what "
        "needs one stays undecided."
    )
    st.code(live_command(opened.name, concept, mode, target), language="bash", wrap_lines=True)
    if st.button("Confirm: hold it now", key="freeze confirm", type="primary"):
        _said(opened, *tell(opened, "freeze", {"concept": concept, "mode": mode, "target": target}))


def live_command(run: str, concept: str, mode: str, target: float) -> str:
    """As a person types it.

    >>> live_command("fox", "weather", "anchor", 0.25)
    'lab freeze fox weather --mode anchor --live --target 0.25'
    """
    aim = f" --target {target:g}" if "anchor" in mode and target != TARGET else ""
    return f"lab freeze {shlex.quote(run)} {concept} --mode {mode} --live{aim}"


def release_button(opened: Opened, concept: str) -> None:
    """Let go of a concept that a run in training holds."""
    if st.button("Release it", key="release"):
        _said(opened, *tell(opened, "release", {"concept": concept}))


def tell(opened: Opened, verb: str, arguments: Mapping[str, Any]) -> tuple[bool, str]:
    """Send a command to the run, as `lab` does, and wait for what becomes of it: whether it was done, and in words."""
    assert opened.run is not None
    try:
        with st.spinner("Waiting for the run's answer"):
            answer = control.wait(opened.run, control.send(opened.run, verb, dict(arguments)), WAIT)
    except (LabError, OSError) as error:
        return False, str(error)
    return not answer.refused, answer.result.removeprefix(control.REFUSED)


def _said(opened: Opened, done: bool, words: str, success: str = "Done.") -> None:
    _closed()
    st.session_state[ANSWER] = (str(opened.path), done, words, success)
    st.rerun(scope="app")


# -------------------------------------------------------------------------------------------------------------- its job


def jobs(opened: Opened, concept: str) -> None:
    """What the server does about freezes of this concept, kept fresh while one runs; the page anew when one has ended."""
    found = find(opened.path)
    if found is None:
        return
    shown = _of_concept(found, opened.name, concept)
    if not shown:
        return
    st.markdown("**Asked for in this app, or of the server**")

    def part() -> None:
        now = _of_concept(found, opened.name, concept)
        if _ended(now):
            st.rerun(scope="app")
        for job in now:
            with st.container(border=True):
                _job(found, job)

    st.fragment(part, run_every=LIVE if any(job.state not in ENDED for job in shown) else None)()


def _ended(now: Sequence[JobReply]) -> bool:
    """Whether a job that was seen at work has ended; the page then shows its proof, not the one looked at before."""
    before: set[str] = st.session_state.get(AT_WORK, set())
    ended = [job for job in now if job.id in before and job.state in ENDED]
    st.session_state[AT_WORK] = before - {job.id for job in ended} | {job.id for job in now if job.state not in ENDED}
    for job in ended:
        st.session_state.pop(ANSWER, None)  # that it was asked for is no news any more
        if job.state == "done":
            st.session_state[PROVED] = job.branch
    return bool(ended)


def _of_concept(found: Found, run: str, concept: str) -> Sequence[JobReply]:
    try:
        return [job for job in jobs_client.of_run(found, run, KIND) if job.options.get("concept") == concept][:SHOWN]
    except LabError:
        return []  # the server has just ended: the next look finds none


def _job(found: Found, job: JobReply) -> None:
    words, colour = BADGES[job.state]
    began = "" if job.begun_at is None else f", for {header.ago((job.ended_at or time.time()) - job.begun_at)}"
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge(words, color=colour)
        options = job.options
        st.text(
            short(
                visible(f"{options.get('mode')}, {options.get('steps')} steps, twins {options.get('twins')}{began}"),
                160,
            )
        )
    if job.state == "running":
        st.progress(job.progress or 0.0, text="of all runs and their proof")
    lines = job.lines[-10 if job.state == "failed" else -4 :]
    if lines:
        st.text("\n".join(short(visible(line), 300) for line in lines))
    if job.state not in ENDED and st.button("Cancel", key=f"cancel {job.id}"):
        try:
            jobs_client.cancel(found, job.id)
        except LabError as error:
            st.text(short(visible(str(error)), 300))
        st.rerun(scope="app")
    if job.state == "done":
        _its_proof(job)
    elif job.state in ("failed", "cancelled"):
        st.text("What was trained is kept; the same freeze again goes on there.")


def _its_proof(job: JobReply) -> None:
    """Where the proof of a job stands: a page shows one branch at a time, which may be another."""
    if job.branch is None or job.branch == st.session_state.get("branch"):
        st.text("Its proof stands above.")
        return
    st.text(f"Its branch is {short(visible(job.branch), 100)}; above stands another.")
    if st.button("Show its proof", key=f"proof {job.id}"):
        st.session_state[PROVED] = job.branch
        st.rerun(scope="app")
