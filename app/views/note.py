"""A person's note: an entry of the journal with its author named, through the same path as `lab journal add`."""

import shlex

import streamlit as st

from app.asking import can_be_asked
from app.queries import Opened
from app.verdict_text import MODEL, claim_in_words
from lab.errors import LabError
from train import entries
from train.control import NotAcknowledged

LONGEST_AUTHOR = 80
PATIENCE = 5.0  # seconds for a trainer that is busy with a visit
UNTESTABLE = "No sentence of it makes a claim about the layers that can be tested; it stays a note."


def field(opened: Opened) -> None:
    """The form, and what became of the last note; words where nothing can be written."""
    with st.expander("Write a note"):
        if not can_be_asked(opened):
            st.text("This copy of the run is read-only; in one that is not, a note of yours is an entry too.")
            return
        with st.form("note", border=False, clear_on_submit=False):
            author = st.text_input("Your name", key="note author", max_chars=LONGEST_AUTHOR)
            text = st.text_area(
                "What you say about the model",
                key="note text",
                max_chars=entries.LONGEST,
                placeholder="Function words are settled at lower layers than content words.",
                help="Its claims are read at once and can be tested like the model's. It is about the newest checkpoint.",
            )
            if st.form_submit_button("Add to the journal"):
                _add(opened, author.strip(), text)
        st.caption("A sentence about what is settled, readable or used at which layers is tested by `lab verify`.")


def said(opened: Opened) -> None:
    """What was understood of the note that this tab added last; shown once."""
    added = st.session_state.pop("note added", None)
    if added is None or added[0] != str(opened.path):
        return
    _, number, claims = added
    st.success(f"Entry {number} is in the journal.")
    st.text("\n".join(claims) if claims else UNTESTABLE)
    if claims:
        st.code(f"lab verify {shlex.quote(opened.name)} --entry {number}", language="bash")


def _add(opened: Opened, author: str, text: str) -> None:
    assert opened.run is not None
    if author.lower() == MODEL:
        st.error("Not added: that name is the model's. Give yours.")
        return
    try:
        number, claims = entries.add_entry(opened.run, text, author, patience=PATIENCE)
    except NotAcknowledged as error:
        st.session_state["note done"] = True
        st.info("Sent, but not in the journal yet: the trainer adds it at its next step.")
        st.text(str(error))
        return
    except (LabError, OSError) as error:
        st.error("Not added; the text is still here.")
        st.text(str(error))
        return
    read = [f"{claim.status}: {claim_in_words(claim.to_json())}" for claim in claims]
    st.session_state["note added"] = (str(opened.path), number, read)
    st.session_state["note done"] = (
        True  # a widget's text cannot be changed after it was drawn: the next run empties it
    )
    st.query_params["entry"] = str(number)
    st.query_params.pop("claim", None)
    st.rerun(scope="app")


def forget() -> None:
    """Empty the field after its note was added; to be called before the form is drawn."""
    if st.session_state.pop("note done", False):
        st.session_state["note text"] = ""
