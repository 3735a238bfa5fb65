"""Windows of equal length over a packed sequence of tokens, and the order in which a run visits them."""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int


@dataclass(frozen=True)
class Stream:
    """One side of a source as one packed sequence, whatever parts it lies in."""

    tokens: tuple[np.ndarray, ...]
    masks: tuple[np.ndarray | None, ...]  # None: every token of that part counts
    starts: tuple[int, ...]
    length: int

    def read(
        self, starts: Int[np.ndarray, "row"], count: int
    ) -> tuple[Int[np.ndarray, "row count"], Bool[np.ndarray, "row count"]]:
        """Tokens [start, start + count) per row, and which of them may count as targets."""
        tokens = np.empty((len(starts), count), dtype=np.int64)
        mask = np.ones((len(starts), count), dtype=bool)
        parts = np.searchsorted(self.starts, starts, side="right") - 1
        for row, (start, part) in enumerate(zip(starts.tolist(), parts.tolist(), strict=True)):
            filled = 0
            while filled < count:
                inside = start + filled - self.starts[part]
                piece = self.tokens[part][inside : inside + count - filled]
                tokens[row, filled : filled + len(piece)] = piece
                masked = self.masks[part]
                if masked is not None:
                    mask[row, filled : filled + len(piece)] = masked[inside : inside + len(piece)]
                filled += len(piece)
                part += 1
        return tokens, mask


class Cursor:
    """Where a run stands in one source: the epoch, and how many of its shuffled windows are gone."""

    def __init__(self, stream: Stream, n_ctx: int, seed: int, name: str) -> None:
        self.stream, self.n_ctx = stream, n_ctx
        self._entropy = [seed, *np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4").tolist()]
        self.go_to(epoch=0, position=0)

    def go_to(self, epoch: int, position: int) -> None:
        """Make the order of an epoch; it depends on seed, source and epoch alone, so no state has to hold it."""
        self.epoch, self.position = epoch, position
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([*self._entropy, epoch])))
        spare = max(1, min(self.n_ctx, self.stream.length - self.n_ctx))
        self._offset = int(generator.integers(spare))  # the cuts between windows differ from epoch to epoch
        self._order = generator.permutation(max(0, (self.stream.length - self._offset - 1) // self.n_ctx))

    @property
    def windows(self) -> int:
        """Windows in the present epoch; every one is visited once."""
        return len(self._order)

    def take(self, count: int) -> Int[np.ndarray, "count"]:
        """Starts of the next windows, into the next epochs if need be."""
        taken: list[np.ndarray] = []
        while count > 0:
            if self.position == len(self._order):
                self.go_to(self.epoch + 1, 0)
            some = self._order[self.position : self.position + count]
            self.position += len(some)
            count -= len(some)
            taken.append(self._offset + some * self.n_ctx)
        return np.concatenate(taken)
