"""Asking a run's server what its layers hold of a text, and choosing which of that to look at. What was asked is kept.

A trace of a checkpoint never changes but for what is fitted and found beside it, so it is asked once a session.
"""

import json
import shlex
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app import figures, queries, server_client, text_readings
from app.queries import Opened
from app.server_client import Remote
from app.text_readings import Grid, Json
from app.verdict_text import short, visible
from app.views.linked import pick
from lab.checkpoint import CheckpointInfo

KEPT = 24  # traces a session; one of 256 positions and 31 layers takes 2 MB
NAME = "lab app"


def reach(opened: Opened) -> Remote | None:
    """The server that answers for the run now."""
    return server_client.reach(opened.path, NAME)


def no_server(opened: Opened, what: str) -> None:
    """Says that nobody answers, and how to begin."""
    st.info(f"No server answers for this run, so {what}. In a terminal:")
    name = shlex.quote(opened.name)
    st.code(
        f"lab serve {name}     # its weights, newest or any checkpoint; while it trains, too\n"
        f"lab up {name}        # server and app together",
        language="bash",
    )


def watch_server(opened: Opened, there: bool) -> None:
    """A server that came or went changes the page."""
    if (reach(opened) is not None) != there:
        st.rerun(scope="app")


def trace(opened: Opened, remote: Remote, info: CheckpointInfo, body: dict[str, Any], place: DeltaGenerator) -> Json:
    """The trace of a text at a checkpoint; from memory where it was asked before.

    Args:
        body: of the request, without the model. place: where waiting is said.

    Raises:
        NotAnswered
    """
    folders = (opened.path / "statistics" / "probe_set.json", opened.path / "concepts")  # what came since is read, too
    seen = [str(opened.path), info.weights_sha256, *map(queries.changed_at, folders)]
    key = json.dumps([seen, body], sort_keys=True)
    kept: OrderedDict[str, Json] = st.session_state.setdefault("traces", OrderedDict())
    if key not in kept:
        begun = time.monotonic()

        def waiting() -> None:
            seconds = time.monotonic() - begun
            first = " The first time at a checkpoint, its lens and probes are fitted." if seconds > 2 else ""
            place.text(f"The server reads it at step {info.step:,}: {seconds:.0f} s.{first}")

        kept[key] = remote.trace(body | {"model": f"{model_name(opened, remote)}@step-{info.step}"}, waiting)
        place.empty()
        while len(kept) > KEPT:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]


def model_name(opened: Opened, remote: Remote) -> str:
    """What the run is called by its server. Raises NotAnswered."""
    return str(remote.standing(opened.path)["runs"][0]["model"])


def choose(found: Json, kinds: Sequence[str]) -> tuple[Grid, tuple[str, str, str]]:
    """Which reading of a trace to look at: pickers whose choice stands in the URL.

    Args:
        kinds: of `text_readings.KINDS`, those to choose from; not empty, and all in the trace.

    Returns:
        The reading, and its kind, its probe or concept, and the class.
    """
    kind = pick("Show", kinds, "show", text_readings.KINDS.__getitem__, width=260)
    if kind == "lens":
        return text_readings.lens_grid(found), (kind, "", "")
    if kind == "next":
        return text_readings.next_grid(found), (kind, "", "")
    if kind == "probe":
        task = pick("Probe", figures.task_order(list(found["probes"])), "task", visible, width=260)
        label = pick("Class", found["probes"][task]["classes"], "class", visible, width=220)
        return text_readings.probe_grid(found, task, label), (kind, task, label)
    name = pick("Concept", text_readings.concepts(found), "concept", visible, width=260)
    label = pick("Of it", text_readings.concept_labels(found, name), "class", visible, width=220)
    return text_readings.concept_grid(found, name, label), (kind, name, label)


def same_reading(found: Json, chosen: tuple[str, str, str]) -> Grid | None:
    """The reading of another trace that was chosen in one; None where this one lacks it."""
    kind, name, label = chosen
    if kind not in text_readings.kinds(found):
        return None
    if kind in ("lens", "next"):
        return text_readings.lens_grid(found) if kind == "lens" else text_readings.next_grid(found)
    if kind == "probe":
        there = found["probes"].get(name)
        return text_readings.probe_grid(found, name, label) if there and label in there["classes"] else None
    there = name in text_readings.concepts(found) and label in text_readings.concept_labels(found, name)
    return text_readings.concept_grid(found, name, label) if there else None


def say_problems(found: Json) -> None:
    for words in text_readings.problems(found):
        st.text(f"Not read: {words}")


def refused(error: Exception) -> None:
    """A server that did not answer, in its own words."""
    st.error("The server did not answer this.")
    st.text(short(visible(str(error)), 600))


def keep(key: str, options: Sequence[str], otherwise: str) -> None:
    """Another run or text may lack what was chosen before; a widget would refuse it."""
    if key in st.session_state and st.session_state[key] not in options:
        st.session_state[key] = otherwise
