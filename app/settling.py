"""Keep what was imported out of the garbage collector's way: most of what an open tab costs is Streamlit's collections.

Streamlit collects all generations after every refresh of a live part. With half a million objects of imported modules that
took 160 of the 180 ms of a refresh, so 13 % of a core for one tab; frozen, they are not looked at again.
"""

import gc
import sys

import streamlit as st

_settled = 0  # modules that were loaded when it was done last


def settle() -> None:
    """After a page was drawn: freeze what lives, once more whenever a page has brought in new modules.

    Only in the app's own process: in another one (a test, a notebook) what lives is not ours.
    """
    global _settled
    if st.runtime.exists() and len(sys.modules) > _settled:
        _settled = len(sys.modules)
        gc.collect()  # garbage that is frozen would never be freed
        gc.freeze()
