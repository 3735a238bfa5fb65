"""Series of bits with a planted life, and noise of the size that real readings have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 5500, 500))  # 20 checkpoints, as a run keeps them
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """Of a reading of x bits: its standard error is √(floor² + slope · x).

    Fitted to 119 readings of two labels of one `laptop` run (class.next, 5,075 words: .0065 at .10 bits, .0093 at .19;
    supersense.next, 478 words: .033 at .16, .056 at .65), the floor to the same labels shuffled.

    Attributes:
        own: share of a checkpoint's error that is its own, as a standard deviation; the rest is shared by all, as the words
            are the same. In that run it was at most .36 at nine of ten checkpoints (.52 of class.current).
        high: what a concept that is there is planted at; of the label that the noise is of.
        rise: planted bits of a trend, from and to, as that label rose at the top layer.
    """

    floor: float
    slope: float
    own: float
    high: float
    rise: tuple[float, float]

    def se(self, bits: Values) -> Values:
        return np.sqrt(self.floor**2 + self.slope * np.maximum(bits, 0))


MANY = Noise(0.0007, 0.00042, own=1.0, high=0.2, rise=(0.1, 0.5))  # 5,000 words; no error shared: harsher than real
FEW = Noise(0.004, 0.0068, own=0.36, high=0.4, rise=(0.15, 0.65))  # 500 words


def truth(state: str, noise: Noise) -> Values:
    where = np.arange(len(STEPS), dtype=float)
    if state == "STABLE":
        return np.full(len(STEPS), noise.high)
    if state == "FLICKER":  # four checkpoints there, three not
        return np.where(where % 7 < 4, noise.high, 0.0)
    if state == "DEAD":  # comes, stays, goes
        return noise.high * np.interp(where, [0, 4, 8, 12, 15, 19], [0, 0, 1, 1, 0, 0])
    line = np.linspace(*noise.rise, len(STEPS))
    return line if state == "GROWING" else line[::-1].copy()


def drawn(state: str, noise: Noise, seed: int) -> tuple[list[float], list[float]]:
    """Bits and standard errors at every step."""
    planted = truth(state, noise)
    generator = np.random.default_rng([seed, len(state)])
    shared, own = generator.standard_normal(), generator.standard_normal(len(planted))
    bits = planted + noise.se(planted) * ((1 - noise.own**2) ** 0.5 * shared + noise.own * own)
    return bits.tolist(), noise.se(bits).tolist()
