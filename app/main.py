"""The app: navigation, the header that all pages share, and the page that the URL names.

Run by Streamlit (`lab app`, or `app.launch`), never imported for its effects. It reads run folders and loads no torch.
Pages lie in views/, never in a folder named pages/: Streamlit would then run a deep link without this script.
"""

from pathlib import Path

import streamlit as st

from app import header
from app.views import behaviour, benchmarks, concepts, conversations, home, journal, layers, training, understanding

ICON = Path(__file__).with_name("icon.png")  # a material icon would make the browser ask a font server for it


def main() -> None:
    st.set_page_config(page_title="Brightwoven Lab", page_icon=str(ICON), layout="wide")
    layers_page = st.Page(lambda: layers.page(top), title="Layers", url_path="layers")
    page = st.navigation(
        [
            st.Page(lambda: home.page(top), title="Home", url_path="home", default=True),
            st.Page(lambda: training.page(top), title="Training", url_path="training"),
            layers_page,
            st.Page(lambda: understanding.page(top), title="Understanding", url_path="understanding"),
            st.Page(lambda: concepts.page(top), title="Concepts", url_path="concepts"),
            st.Page(lambda: conversations.page(top), title="Conversations", url_path="conversations"),
            st.Page(lambda: behaviour.page(top), title="Behaviour", url_path="behaviour"),
            st.Page(lambda: benchmarks.page(top), title="Benchmarks", url_path="benchmarks"),
            st.Page(lambda: journal.page(top, layers_page), title="Journal", url_path="journal"),
        ],
        position="top",
    )
    top = header.show()
    page.run()


if __name__ == "__main__":
    main()
