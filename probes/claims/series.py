"""Claims about training, judged from readings at several checkpoints: when something came up, and whether it stays.

**Emergence.** A subject is born at the first checkpoint at which its best layer has more than .05 bit (lower 95 % end), there
and at the next one. Birth is known only to lie after the checkpoint before: (previous, born]. "Came up within W" is
supported if that stretch lies in W, refuted (REFUTED-REVERSED) if it lies outside, INCONCLUSIVE if it straddles an edge of W.
"A before B" needs A's stretch to end before B's begins. STRONG if half and twice the threshold say the same, else WEAK.
Never born over a window that is past: REFUTED-EQUIVALENT if no checkpoint's interval reaches .05 bit, else INCONCLUSIVE.
Not born yet, and the window has not begun or is not over (an open end lasts as long as the run): INCONCLUSIVE.
Readable from the first checkpoint on: UNTESTABLE, for when it came up is not in the run. Of "A before B" this holds only
if both are; one that is there from the start came before one that is born later, or not at all so far.

**Stability**, over the window claimed: the change of depth from first to last checkpoint against ±δ (TOST; the ends count as
independent, which widens the interval of readings on the same sentences), a Mann–Kendall trend (Mann 1945,
doi:10.2307/1907187; exact up to 10 checkpoints without ties), and flickers: turns of direction among steps that are larger
than their own interval and than δ. Fade and grow are changes of the best layer's bits against ±.05 bit. A claim that names
no window is judged from where the subject first had a depth, if 3 checkpoints have one; before there was nothing to stay.

- *Stays*: STRONG equivalent, at 5 checkpoints or more, without trend (p ≥ .05) or flicker; WEAK equivalent without flicker;
  REFUTED-REVERSED moved by more than δ (and its interval off 0), or flickered.
- *Shifts, fades, grows*: STRONG the interval of the change is beyond the margin and there is a trend; WEAK it is off 0;
  REFUTED-EQUIVALENT inside ±margin; REFUTED-REVERSED fades for grows, grows for fades.
- *Flickers*: STRONG 3 turns or more; WEAK 1 or 2; REFUTED-EQUIVALENT inside ±δ without a turn.

Many checkpoints are one family of which the last is confirmatory: a claim gets one verdict from all of them, not one each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from probes.claims import outcomes as names
from probes.claims.grammar import Claim
from probes.claims.outcomes import ALPHA, ReadingVerdict, margin, said, units_needed
from probes.concepts.states import inversions
from probes.layers.evidence import Interval
from probes.layers.problem import Untestable

BORN_BITS = 0.05
FEWEST_READABLE = 3  # checkpoints with a depth, where the first ones had none
FEWEST_FOR_TREND = 5  # with 4 checkpoints no order of them has a two-sided p below .08
_TO_90 = NormalDist().inv_cdf(0.95) / NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Point:
    """A subject at a checkpoint: usable bits of its best layer, and its relative depth where it has one."""

    step: int
    bits: Interval
    depth: Interval | None = None


@dataclass(frozen=True)
class Series:
    """One subject over a run, in order of steps.

    Attributes:
        points: what was read so far.
        horizon: the last step that the run is planned to have; the run is unfinished while the last point is before it.
        sentences: what every point was read on.
    """

    subject: str
    points: tuple[Point, ...]
    horizon: int
    sentences: int = 0

    def check(self) -> None:
        """Raises Untestable: no points, steps out of order or beyond the horizon, or a value that is no number."""
        steps = [point.step for point in self.points]
        if len(steps) < 2 or any(b <= a for a, b in itertools.pairwise(steps)):
            raise Untestable(f"{self.subject}: {len(steps)} checkpoints in order. At least 2 are needed.")
        if steps[-1] > self.horizon:
            raise Untestable(
                f"{self.subject}: read at step {steps[-1]}, but the run was planned to end at {self.horizon}."
            )
        for point in self.points:
            for found in (point.bits, point.depth):
                if found and not found.lo <= found.value <= found.hi:  # also where one is NaN
                    raise Untestable(f"{self.subject}, step {point.step}: not a finite interval.")


@dataclass(frozen=True)
class Birth:
    """After `after` and not later than `by`; None of both: not born. `after` None: before the first checkpoint."""

    after: int | None
    by: int | None


def judge_series(
    claim: Claim,
    a: Series,
    b: Series | None,
    n_layers: int,
    p_holm: float | None = None,
    window: tuple[float, float] | None = None,
) -> ReadingVerdict:
    """What the run's checkpoints say of a claim of emergence or stability.

    Args:
        a, b: of the claim's subjects; b only where the claim names one.
        p_holm: kept for the record; these rules have no p-value to correct.
        window: the claim's window in steps, from `window` on all checkpoints of the run; None = from those of `a`.
    """
    try:
        a.check()
        if a.subject != claim.a or (b is None) != (claim.b is None) or (b and b.subject != claim.b):
            raise Untestable(f"the series are not of {claim.a!r}" + (f" and {claim.b!r}" if claim.b else ""))
        if claim.kind == "emergence" and b is not None:
            b.check()
            found = _robust(lambda bits: _before(born(a, bits), born(b, bits), a.subject, b.subject))
        elif claim.kind == "emergence":
            first, last = window or _own_window(claim, a)
            found = _robust(lambda bits: _within(a, bits, first, last))
        elif claim.kind == "stability":
            return replace(_stability(claim, a, margin(n_layers), window or _own_window(claim, a)), p_holm=p_holm)
        else:
            raise Untestable(f"{claim.kind} is not judged from a series")
    except Untestable as reason:
        return ReadingVerdict(names.UNTESTABLE, (str(reason),), None, p_holm)
    if claim.polarity == "negative":
        found = _denied(found)
    return replace(found, p_holm=p_holm)


def born(series: Series, bits: float = BORN_BITS) -> Birth:
    """First of two checkpoints in a row whose lower 95 % end is above `bits`."""
    above = [point.bits.lo > bits for point in series.points]
    for at in range(len(above) - 1):
        if above[at] and above[at + 1]:
            return Birth(series.points[at - 1].step if at else None, series.points[at].step)
    return Birth(None, None)


def window(claim: Claim, steps: Sequence[int], horizon: int) -> tuple[float, float]:
    """The claim's window in steps, both ends included; ±infinity where it names no end.

    Args:
        steps: of all checkpoints of the run, in order, of which a series may hold a few: "the last 3" are counted here.
        horizon: the last step that the run is planned to have; a share of training is a share of it.

    Raises:
        Untestable: there is no checkpoint.

    >>> from probes.claims.grammar import parse
    >>> window(parse("Function words have not moved over the last 3 checkpoints.")[0], [0, 10, 20, 30, 40], 100)
    (20, 40)
    """
    if not steps:
        raise Untestable("the run has no checkpoint. Keep some of them.")
    when = claim.when or {}
    unit, first, last = when.get("unit", "step"), when.get("first"), when.get("last")
    if unit == "checkpoint":
        count = len(steps) if first is None else max(2, int(first))  # since the last one: from it to the newest
        return steps[-min(count, len(steps))], steps[-1]
    scale = horizon if unit == "share" else 1
    return (-math.inf if first is None else first * scale), (math.inf if last is None else last * scale)


def _own_window(claim: Claim, series: Series) -> tuple[float, float]:
    return window(claim, [point.step for point in series.points], series.horizon)


def mann_kendall(values: Sequence[float]) -> tuple[int, float]:
    """S (rises less falls among all pairs) and its two-sided p under no trend; exact for ≤ 10 values without ties."""
    n = len(values)
    score = sum((b > a) - (b < a) for a, b in itertools.combinations(values, 2))
    if n < 2:
        return 0, 1.0
    ties = [values.count(value) for value in set(values)]
    if n <= 10 and max(ties) == 1:
        pairs = n * (n - 1) // 2
        beyond = sum(count for falls, count in enumerate(inversions(n)) if abs(pairs - 2 * falls) >= abs(score))
        return score, beyond / math.factorial(n)
    variance = (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18
    if score == 0 or variance <= 0:
        return score, 1.0
    return score, math.erfc((abs(score) - 1) / math.sqrt(2 * variance))


def flickers(depths: Sequence[Interval], delta: float) -> int:
    """Turns of direction among the steps from one checkpoint to the next that are more than noise and more than δ."""
    signs = []
    for one, two in itertools.pairwise(depths):
        change = _change(one, two)
        if (change.lo > 0 or change.hi < 0) and abs(change.value) > delta:
            signs.append(change.value > 0)
    return sum(before != after for before, after in itertools.pairwise(signs))


def _robust(judge_at: Callable[[float], ReadingVerdict]) -> ReadingVerdict:
    """The verdict at .05 bit; strong if half and twice as much say the same."""
    found = judge_at(BORN_BITS)
    if found.verdict != names.WEAK:
        return found
    try:
        others = [judge_at(BORN_BITS * factor).verdict for factor in (0.5, 2)]
    except Untestable:  # at half the threshold it was readable from the first checkpoint on
        return found
    return replace(found, verdict=names.STRONG) if others == [names.WEAK] * 2 else found


def _within(series: Series, bits: float, first: float, last: float) -> ReadingVerdict:
    birth = born(series, bits)
    if birth.by is None:
        seen = series.points[-1].step
        if first >= seen:
            return _found(names.INCONCLUSIVE, f"not there at step {seen}; the window has not begun")
        if last > seen and seen < series.horizon:
            end = min(last, series.horizon)
            return _found(names.INCONCLUSIVE, f"not there at step {seen}; the window is not over until step {end:.0f}")
        if all(point.bits.hi < bits for point in series.points):
            return _found(
                names.EQUIVALENT, f"below {bits:.3f} bit at all {len(series.points)} checkpoints to step {seen}"
            )
        return _found(names.INCONCLUSIVE, f"never surely above {bits:.3f} bit at two checkpoints in a row")
    if birth.after is None:
        raise Untestable(
            f"already readable at the first checkpoint (step {birth.by}): when it came up is not in the run"
        )
    told = f"came up after step {birth.after} and by step {birth.by} (more than {bits:.3f} bit, twice in a row)"
    if birth.after >= first and birth.by <= last:
        return _found(names.WEAK, told)
    if birth.by < first or birth.after >= last:
        return _found(names.REVERSED, told)
    return _found(names.INCONCLUSIVE, f"{told}; the window's edge lies between, checkpoints there would decide")


def _before(a: Birth, b: Birth, name_a: str, name_b: str) -> ReadingVerdict:
    if a.by is None and b.by is None:
        return _found(names.INCONCLUSIVE, "neither has come up")
    early = [name for name, birth in ((name_a, a), (name_b, b)) if birth.by is not None and birth.after is None]
    if len(early) == 2:
        raise Untestable(f"{' and '.join(early)}: already readable at the first checkpoint")
    told = "; ".join(
        f"{name} " + ("has not come up" if birth.by is None else f"came up by step {birth.by}")
        for name, birth in ((name_a, a), (name_b, b))
    )
    if b.by is None or (a.by is not None and a.by <= (b.after if b.after is not None else -math.inf)):
        return _found(names.WEAK, told)
    if a.by is None or b.by <= (a.after if a.after is not None else -math.inf):
        return _found(names.REVERSED, told)
    return _found(names.INCONCLUSIVE, f"{told}, between the same checkpoints; closer ones would decide")


def _stability(claim: Claim, series: Series, delta: float, within: tuple[float, float]) -> ReadingVerdict:
    first, last = within
    points = [point for point in series.points if first <= point.step <= last]
    relation = claim.relation or "steady"
    of_bits = relation in ("fade", "grow")
    left_out: list[Point] = []
    if claim.when is None and not of_bits:
        points, left_out = _from_first_depth(points)
    if len(points) < 2:
        raise Untestable(f"{len(points)} checkpoints lie in {(claim.when or {}).get('text', 'the run')}; 2 are needed")
    values = [point.bits if of_bits else point.depth for point in points]
    if any(value is None for value in values):
        raise Untestable("no depth at some checkpoints: there is too little gain to place")
    row = [value for value in values if value is not None]
    limit = BORN_BITS if of_bits else delta
    change = _change(row[0], row[-1])
    turns = 0 if of_bits else flickers(row, delta)
    score, p = mann_kendall([value.value for value in row])
    trend = len(row) >= FEWEST_FOR_TREND and p < ALPHA
    half = (change.hi - change.lo) / 2
    equivalent = abs(change.value) + half * _TO_90 < limit
    moved = (change.lo > 0 or change.hi < 0) and abs(change.value) > limit
    what = "bits" if of_bits else "depth"
    told = [
        f"{what} changed by {said(change.value, change.lo, change.hi)} over {len(row)} checkpoints "
        f"(steps {points[0].step}..{points[-1].step}); {turns} turns; trend S = {score:+d}, p = {p:.3f}"
    ]
    if left_out:
        told.append(
            f"{_checkpoints(len(left_out))} until step {left_out[-1].step} left out: the subject had no depth there yet"
        )
    if claim.polarity == "positive":
        verdict = names.INCONCLUSIVE
        if turns or moved:
            verdict = names.REVERSED
        elif equivalent:
            verdict = names.STRONG if len(row) >= FEWEST_FOR_TREND and not trend else names.WEAK
    elif relation == "flicker":
        verdict = names.STRONG if turns >= 3 else names.WEAK if turns else names.INCONCLUSIVE
        if not turns and equivalent:
            verdict = names.EQUIVALENT
    else:
        verdict = _moves(relation, change, limit, trend, equivalent and not turns)
    needed = None
    if verdict == names.INCONCLUSIVE:
        away = max(abs(change.value), limit - abs(change.value))
        needed = units_needed(max(1, series.sentences), half, away) if series.sentences else None
        told.append("target: the nearer of no change and the margin; n counts sentences a checkpoint")
    return _found(verdict, *told, needed=needed)


def _from_first_depth(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """The points from the first one with a depth on, and those before it."""
    start = next((at for at, point in enumerate(points) if point.depth is not None), len(points))
    rest = list(points[start:])
    if start and sum(point.depth is not None for point in rest) < FEWEST_READABLE:
        raise Untestable(
            f"no depth until step {points[start - 1].step}, too little gain to place, and {_checkpoints(len(rest))} since; "
            f"{FEWEST_READABLE} with a depth are needed"
        )
    return rest, list(points[:start])


def _checkpoints(count: int) -> str:
    return f"{count} checkpoint" + ("" if count == 1 else "s")


def _moves(relation: str, change: Interval, limit: float, trend: bool, still: bool) -> str:
    side = {"fade": -1, "grow": 1}.get(relation, 1 if change.value >= 0 else -1)
    low = min(side * change.lo, side * change.hi)
    high = max(side * change.lo, side * change.hi)
    if low > limit and trend:
        return names.STRONG
    if still:
        return names.EQUIVALENT
    if low > 0:
        return names.WEAK
    return names.REVERSED if high < 0 else names.INCONCLUSIVE


def _change(one: Interval, two: Interval) -> Interval:
    half = math.hypot((one.hi - one.lo) / 2, (two.hi - two.lo) / 2)
    value = two.value - one.value
    return Interval(value, value - half, value + half)


def _denied(found: ReadingVerdict) -> ReadingVerdict:
    mirrored = {
        names.STRONG: names.REVERSED, names.WEAK: names.REVERSED, names.REVERSED: names.WEAK, names.EQUIVALENT: names.WEAK,
    }  # fmt: skip
    return replace(found, verdict=mirrored.get(found.verdict, found.verdict), sign=-found.sign)


def _found(verdict: str, *reasons: str, needed: int | None = None) -> ReadingVerdict:
    sign = 1 if verdict in (names.STRONG, names.WEAK) else -1 if verdict in (names.REVERSED, names.EQUIVALENT) else 0
    return ReadingVerdict(verdict, reasons, needed, sign=sign)
