"""The app: navigation, the header that all pages share, and the page that the URL names.

Run by Streamlit (`lab app`, or `app.launch`), never imported for its effects. It reads run folders and loads no torch.
Pages lie in views/, never in a folder named pages/: Streamlit would then run a deep link without this script.
"""

from pathlib import Path

import streamlit as st

from app import header, settling
from app.views import (
    behaviour,
    benchmarks,
    chat,
    concepts,
    conversations,
    home,
    journal,
    layers,
    review,
    runs,
    text,
    training,
    understanding,
)

ICON = Path(__file__).with_name("icon.png")  # a material icon would make the browser ask a font server for it


def main() -> None:
    st.set_page_config(page_title="Brightwoven Lab", page_icon=str(ICON), layout="wide")
    # in the order of the three questions: what is claimed and does it hold, what do the layers hold, how does it train
    journal_page = st.Page(lambda: journal.page(top, layers_page), title="Journal", url_path="journal")
    layers_page = st.Page(lambda: layers.page(top), title="Layers", url_path="layers")
    understanding_page = st.Page(lambda: understanding.page(top), title="Understanding", url_path="understanding")
    page = st.navigation(
        [
            st.Page(
                lambda: home.page(top, journal_page, understanding_page), title="Home", url_path="home", default=True
            ),
            journal_page,
            layers_page,
            st.Page(lambda: text.page(top), title="Text", url_path="text"),
            st.Page(lambda: concepts.page(top), title="Concepts", url_path="concepts"),
            st.Page(lambda: training.page(top), title="Training", url_path="training"),
            understanding_page,
            st.Page(lambda: chat.page(top), title="Chat", url_path="chat"),
            st.Page(lambda: conversations.page(top), title="Conversations", url_path="conversations"),
            st.Page(lambda: behaviour.page(top), title="Behaviour", url_path="behaviour"),
            st.Page(lambda: benchmarks.page(top), title="Benchmarks", url_path="benchmarks"),
            st.Page(lambda: review.page(top), title="Review", url_path="review"),
            st.Page(lambda: runs.page(top), title="Runs", url_path="runs"),
        ],
        position="top",
    )
    try:
        top = header.show()
        page.run()
        header.say_where()
    finally:  # a page that ends early raises
        settling.settle()


if __name__ == "__main__":
    main()
