"""Words out of a run as headings and captions. Streamlit's own are Markdown, which can fetch a picture that a stranger named.

What needs no look of its own is drawn with `st.text`.
"""

import streamlit as st

from app.verdict_html import escaped

LARGE = "font-size:1.75rem;font-weight:600;line-height:1.2;padding:.75rem 0 1rem;margin:0;overflow-wrap:anywhere"
SMALL = "font-size:.875rem;opacity:.75;overflow-wrap:anywhere"


def heading(words: str) -> None:
    """As `st.subheader`."""
    st.html(f'<h3 style="{LARGE}">{escaped(words)}</h3>')


def strong(words: str) -> None:
    """A line as `st.markdown` draws one between two asterisks."""
    st.html(f"<strong>{escaped(words)}</strong>")


def caption(words: str) -> None:
    """As `st.caption`."""
    st.html(f'<div style="{SMALL}">{escaped(words)}</div>')
