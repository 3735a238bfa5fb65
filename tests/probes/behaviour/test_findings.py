from dataclasses import fields
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import inspect

from lab import tables
from lab.tokenizer import Tokenizer
from probes.behaviour.findings import Rule, Span, as_characters, merged

RULE = Rule("loops", "loops.test", "3", "watch", "a rule")


def test_a_row_has_the_columns_of_the_table_and_its_severities() -> None:
    row = RULE.finding("seen", 1.5, (1.0, float("inf")), [Span(0, 4, "token")], {"rates": [float("nan"), 2]}).to_row()
    columns = {column.key for column in inspect(tables.Finding).columns}
    assert set(row) == columns - {"id", "segment", "step"}
    assert row["severity"] in tables.SEVERITIES and (row["lo"], row["hi"]) == (1.0, None)
    assert row["evidence"] == {"rates": [None, 2], "spans": [{"start": 0, "end": 4, "unit": "token"}]}
    assert {field.name for field in fields(Span)} == {"start", "end", "unit"}


@given(st.text(alphabet="aé漢🦊 "), st.data())
def test_a_span_of_tokens_takes_in_every_character_it_touches(text: str, data: st.DataObject) -> None:
    pieces = [bytes([byte]) for byte in text.encode()]  # the worst tokenizer: one byte a token
    end = data.draw(st.integers(0, len(pieces)))
    start = data.draw(st.integers(0, end))
    place = as_characters(Span(start, end, "token"), pieces)
    touched = [index for index, at in enumerate(byte_ranges(text)) if at[0] < end and at[1] > start]
    if start < end:
        assert list(range(place.start, place.end)) == touched


def byte_ranges(text: str) -> list[tuple[int, int]]:
    stops = [len(text[:index].encode()) for index in range(len(text) + 1)]
    return list(pairwise(stops))


def test_spans_of_generated_tokens_agree_with_the_tokenizers_offsets(tokenizer: Tokenizer) -> None:
    text = "The fox 🦊 said: naïve, naïve, 漢字."
    ids, offsets = tokenizer.encode_with_offsets(text)
    pieces = [tokenizer.decode_bytes([token]) for token in ids]
    for start in range(len(ids)):
        place = as_characters(Span(start, start + 1, "token"), pieces)
        assert (place.start, place.end) == offsets[start]


def test_touching_spans_become_one() -> None:
    spans = [Span(5, 9, "token"), Span(0, 4, "token"), Span(4, 5, "token"), Span(12, 13, "token")]
    assert merged(spans) == (Span(0, 9, "token"), Span(12, 13, "token"))
