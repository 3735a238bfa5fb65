"""Shimmer as the app can tell it without torch: bits and states of every track, from records and statistics files.

Rows of live visits and the files of `lab shimmer` hold the bits. Turning and churn need the probes' sums, which only
`lab shimmer` reads. Numbers are those of `train.shimmer.shimmer`, in the shape of its `to_dict`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from lab.checkpoint_format import name_of
from lab.concepts import names, read_card
from lab.errors import LabError
from lab.records import Records, Regime
from lab.run import Run
from probes.concepts.change_points import change_points
from probes.concepts.states import WINDOW, Z95, life

SHIMMER, CONCEPT, PROBE_SET = "shimmer", "concept.", "probe_set.json"
ENOUGH_DOCUMENTS = 50  # with fewer, sentences are what is drawn, as the instrument has it
LARGEST_PROBE_SET = 64_000_000  # bytes; 400 sentences make 0.5 MB
Json = dict[str, Any]
Track = tuple[str, int]


@dataclass(frozen=True)
class Bits:
    """One track at one step: usable bits per word, their standard error, words."""

    value: float
    se: float
    n: int


@dataclass(frozen=True)
class Gains:
    """What one checkpoint gave for one tracked name, sentence by sentence.

    Attributes:
        protocol: sha256 of what the numbers depend on besides the weights: probe set, folds, seed.
        subspace: sha256 of a concept; None for a label.
        gain: [layer, sentence] bits saved; words: [sentence] labelled words.
        unit: [sentence] the number of what is independent: its document, or itself where documents are few.
    """

    protocol: str
    subspace: str | None
    layers: tuple[int, ...]
    gain: np.ndarray[Any, Any]
    words: np.ndarray[Any, Any]
    unit: np.ndarray[Any, Any]


def gains(run: Run, records: Records, step: int, name: str) -> Gains | None:
    """Of the statistics file of a step; None where there is none of this history, or it does not have that name."""
    unit, path = _units(run), run.statistics / f"{name_of(step)}.safetensors"
    try:
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {})["about"])
            card = about["cards"][name]
            if unit is None or int(about["step"]) != step or not _history(records)(int(about["segment"]), step):
                return None
            if name.startswith(CONCEPT) and card.get("concept") != _present(run).get(name):
                return None  # removed, or found anew, since
            gain, words = file.get_tensor(f"{name}/gain"), file.get_tensor(f"{name}/words")
            layers = tuple(int(layer) for layer in card["layers"])
            if gain.shape != (len(layers), len(unit)) or words.shape != unit.shape:
                return None
            return Gains(str(about["protocol"]), card.get("concept"), layers, gain, words, unit)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError, IndexError):
        return None


def followed(run: Run, records: Records) -> Json:
    """Every track of the newest history and protocol: steps, tracks with points, births, deaths and change points."""
    protocol, found = _of_records(records)
    files, reasons = _of_files(run, records, protocol)
    for track, row in files.items():
        found[track] = {**found.get(track, {}), **row}
    tracks = [_track(name, layer, row) for (name, layer), row in sorted(found.items()) if row]
    steps = sorted({step for row in found.values() for step in row})
    return {"steps": steps, "window": WINDOW, "tracks": tracks, "untestable": reasons}


def _track(name: str, layer: int, row: Mapping[int, Bits]) -> Json:
    steps = sorted(row)
    bits, se = [row[step].value for step in steps], [row[step].se for step in steps]
    lived = life(steps, bits, se)
    absent = {"cosine": None, "turning": None, "excess_churn": None}
    points = [
        {"step": step, "bits": _plain(value), "se": _plain(error), "state": state, **absent}
        for step, value, error, state in zip(steps, bits, se, lived.states, strict=True)
    ]
    return {
        "name": name,
        "layer": layer,
        "n": row[steps[-1]].n,
        "state": lived.states[-1],
        "points": points,
        "births": [steps[i] for i in lived.births],
        "deaths": [steps[i] for i in lived.deaths],
        "flips": [],
        "change_points": [asdict(one) for one in change_points(steps, bits)],
    }


def _of_records(records: Records) -> tuple[str | None, dict[Track, dict[int, Bits]]]:
    """Rows of live visits under the newest protocol, and that protocol's hash (None: no row)."""
    rows = records.readings(reading=SHIMMER)
    found: dict[Track, dict[int, Bits]] = {}
    if not rows:
        return None, found
    newest = rows[-1].regime  # another protocol is another series
    for row in rows:
        if row.regime == newest:
            bits = Bits(row.value, (row.hi - row.lo) / (2 * Z95), row.n)
            found.setdefault((row.task, row.layer), {})[row.step] = bits
    protocols = [regime.protocol for regime in records.rows(Regime, id=newest)]
    bare = {key: value for key, value in protocols[0].items() if key != "every"} if protocols else {}
    return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest(), found


def _of_files(run: Run, records: Records, protocol: str | None) -> tuple[dict[Track, dict[int, Bits]], dict[str, str]]:
    """What the statistics files hold, and why the newest of them lacks what it lacks. A file that is none is left out."""
    found: dict[Track, dict[int, Bits]] = {}
    reasons: dict[str, str] = {}
    unit = _units(run)
    if unit is None:
        return found, reasons
    belongs, present = _history(records), _present(run)
    for path in sorted(run.statistics.glob("step-*.safetensors"), reverse=True):
        try:
            with safe_open(path, framework="np") as file:
                about = json.loads((file.metadata() or {})["about"])
                step = int(about["step"])
                protocol = protocol or str(about["protocol"])
                if about["protocol"] != protocol or not belongs(int(about["segment"]), step):
                    continue
                reasons = reasons or {str(name): str(why) for name, why in about["untestable"].items()}
                for name, card in about["cards"].items():
                    if name.startswith(CONCEPT) and card.get("concept") != present.get(name):
                        continue  # removed, or found anew, since
                    gain, words = file.get_tensor(f"{name}/gain"), file.get_tensor(f"{name}/words")
                    for layer, one in zip(card["layers"], bits(gain, words, unit), strict=True):
                        found.setdefault((name, int(layer)), {})[step] = one
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError, IndexError):
            continue
    return found, reasons


def bits(gain: np.ndarray[Any, Any], words: np.ndarray[Any, Any], unit: np.ndarray[Any, Any]) -> list[Bits]:
    """Per layer: the ratio and its closed-form standard error (Cochran 1977, ch. 6), as `snapshot.standard_error`."""
    units = int(unit.max()) + 1
    size = np.bincount(unit, weights=words, minlength=units)
    used, n = int((size > 0).sum()), int(words.sum())
    found = []
    for one in gain.astype(np.float64):
        total = np.bincount(unit, weights=one, minlength=units)
        spread = float(((total - total.sum() / n * size) ** 2).sum())
        found.append(Bits(float(one.sum()) / n, math.sqrt(spread * used / max(1, used - 1)) / n, n))
    return found


def _units(run: Run) -> np.ndarray[Any, Any] | None:
    """What is independent, a number a sentence of the run's probe set; None where there is no set to go by."""
    file = run.statistics / PROBE_SET
    try:
        if file.stat().st_size > LARGEST_PROBE_SET:
            return None
        documents = np.array([str(each) for each in json.loads(file.read_text(encoding="utf8"))["documents"]])
        number = np.unique(documents, return_inverse=True)[1]
        return number if int(number.max()) + 1 >= ENOUGH_DOCUMENTS else np.arange(len(documents))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _history(records: Records) -> Callable[[int, int], bool]:
    pieces = {segment: (first, last) for segment, first, last in records.lineage()}

    def belongs(segment: int, step: int) -> bool:
        first, last = pieces.get(segment, (0, None) if not pieces else (1, 0))
        return first <= step and (last is None or step <= last)

    return belongs


def _present(run: Run) -> dict[str, str | None]:
    found = {}
    for name in names(run):
        try:
            found[CONCEPT + name] = read_card(run, name).get("sha256")
        except LabError:
            continue
    return found


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
