"""What a Concepts page shows, for tests: its figures by name, and all of its words."""

import json
from typing import Any

from streamlit.testing.v1 import AppTest

from tests.app.test_journal_view import blocks, plain
from tests.app.test_views import words


def charts(page: AppTest) -> dict[str, dict[str, Any]]:
    """Figures by what they show, told by their accessible name."""
    found = {}
    for element in page.get("plotly_chart"):
        words = element.proto.alt
        name = next(
            key for key in ("Histogram", "Bits", "States", "Drift", "Loss", "Accuracy") if words.startswith(key)
        )
        found[name] = json.loads(element.proto.spec)
    return found


def text(page: AppTest) -> str:
    return "\n".join([words(page), *map(plain, blocks(page))])
