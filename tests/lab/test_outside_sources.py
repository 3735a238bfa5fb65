"""Wikipedia introductions, Parquet and Hugging Face data sets are read as any other source, or refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from lab import assets
from lab.config import BadConfig, load_config
from lab.errors import LabError
from lab.sections import Source
from lab.sources import BadSource, documents, fingerprint

TURNS = [{"role": "user", "content": "the dog?"}, {"role": "assistant", "content": "ran"}]


def _texts(source: Source) -> list[str]:
    return [document.text for document, _ in documents(source)]


def _parquet(path: Path, column: str, values: list[Any]) -> Path:
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({column: values, "other": list(range(len(values)))}), path)
    return path


def test_parquet_gives_its_column_in_order_and_skips_what_is_empty(tmp_path: Path) -> None:
    _parquet(tmp_path / "b.parquet", "text", ["three", None, "  "])
    _parquet(tmp_path / "a.parquet", "text", ["one", "two"])
    source = Source(name="table", kind="parquet", path=str(tmp_path))
    assert _texts(source) == ["one", "two", "three"]
    assert [share for _, share in documents(source)][1] == 0.5


def test_a_column_of_messages_is_a_conversation(tmp_path: Path) -> None:
    file = _parquet(tmp_path / "chat.parquet", "messages", [TURNS, []])
    (document, _), *rest = documents(Source(name="chat", kind="parquet", path=str(file), column="messages"))
    assert rest == []
    assert document.messages == (("user", "the dog?"), ("assistant", "ran"))
    assert document.text == "the dog?\nran"


def test_the_fingerprint_of_parquet_follows_bytes_and_column(tmp_path: Path) -> None:
    file = _parquet(tmp_path / "a.parquet", "text", ["one"])
    source = Source(name="table", kind="parquet", path=str(file))
    first = fingerprint(source)
    assert first == fingerprint(source)
    assert first != fingerprint(source.model_copy(update={"column": "other"}))
    _parquet(file, "text", ["two"])
    assert first != fingerprint(source)


def test_a_folder_of_jsonl_is_loaded_as_a_hugging_face_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in ("one", "two", "three")))
    source = Source(name="hub", kind="huggingface", path=str(folder), column="body")
    assert _texts(source) == ["one", "two", "three"]
    assert fingerprint(source) == fingerprint(source)
    with pytest.raises(BadSource, match=r"no column 'text'.*body"):
        _texts(source.model_copy(update={"column": "text"}))
    with pytest.raises(BadSource, match="split 'validation'"):
        _texts(source.model_copy(update={"split": "validation"}))


def test_bad_tables_are_refused_with_place_and_remedy(tmp_path: Path) -> None:
    numbers = _parquet(tmp_path / "numbers.parquet", "text", [1, 2])
    roles = _parquet(tmp_path / "roles.parquet", "text", [[{"role": "narrator", "content": "once"}]])
    empty = _parquet(tmp_path / "empty.parquet", "text", ["", None])
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    cases = {
        str(numbers): r"row 1.*neither text",
        str(roles): "'narrator'",
        str(empty): "holds no text",
        str(tmp_path / "torn.parquet"): "no Parquet file",
        str(tmp_path / "absent.parquet"): "Check path",
    }
    for path, words in cases.items():
        with pytest.raises(BadSource, match=words):
            _texts(Source(name="table", kind="parquet", path=path))


def test_wikipedia_introductions_are_chosen_by_topic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_CACHE", str(tmp_path))
    source = Source(name="wiki", kind="wiki")
    with pytest.raises(LabError, match="lab data get wiki"):
        _texts(source)
    folder = assets.asset("wiki").folder
    folder.mkdir(parents=True)
    topics = {"Stoicism": "Philosophy and religion", "Algebra": "Mathematics", "Being": "Philosophy and religion"}
    articles = {title: {"title": title, "extract": f"{title} is.", "topic": topic} for title, topic in topics.items()}
    (folder / "summaries_en-us.json").write_text(json.dumps(articles))
    (folder / "LICENSE").write_text("")
    (folder / "asset.json").write_text(json.dumps({"sha256": assets.asset("wiki").sha256}))
    assert _texts(source) == ["Algebra is.", "Being is.", "Stoicism is."]
    philosophy = Source(name="wiki", kind="wiki", topics=("Philosophy and religion",))
    assert _texts(philosophy) == ["Being is.", "Stoicism is."]
    assert fingerprint(philosophy) != fingerprint(source)
    with pytest.raises(BadSource, match=r"'Cooking'.*Mathematics"):
        _texts(Source(name="wiki", kind="wiki", topics=("Cooking",)))


@pytest.mark.parametrize("setting", ['column="body"', 'topics=["Arts"]', 'split="test"', 'subset="en"'])
def test_a_setting_that_its_kind_does_not_read_is_refused(setting: str) -> None:
    field = setting.split("=")[0]
    with pytest.raises(BadConfig, match=f"{field} = .*means nothing for kind 'text'"):
        load_config("tiny", None, [f'data.sources=[{{name="a", kind="text", path="a.txt", {setting}}}]'])
