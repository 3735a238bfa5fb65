"""A picker whose choice stands in the URL by its id, while people read words.

Streamlit's own binding writes the words: a link would then hold a topic, and break as soon as a count in it changes.
"""

from collections.abc import Callable, Sequence

import streamlit as st


def pick(label: str, options: Sequence[str], name: str, in_words: Callable[[str], str], width: int = 420) -> str:
    """One of the options, which must not be empty: what was picked, else what the URL names, else the first.

    Args:
        name: of the URL's parameter and of the widget.
        in_words: what the picker shows for an option; plain text, never Markdown.
    """
    if st.session_state.get(name) not in options:  # another run, kind or step may lack what was chosen before
        wanted = st.query_params.get(name)
        st.session_state[name] = wanted if wanted in options else options[0]
    chosen = st.selectbox(label, options, key=name, width=width, format_func=in_words)
    st.query_params[name] = chosen
    return chosen


def choose(label: str, options: Sequence[str], name: str, in_words: Callable[[str], str]) -> str:
    """As `pick`, for a few options that stand side by side; `in_words` must give words of ours, for they are Markdown."""
    if st.session_state.get(name) not in options:
        wanted = st.query_params.get(name)
        st.session_state[name] = wanted if wanted in options else options[0]
    chosen = st.segmented_control(label, options, key=name, required=True, format_func=in_words) or options[0]
    st.query_params[name] = chosen
    return chosen
