"""The process's random generators, as JSON: saved with a checkpoint, and kept out of reach of what only watches."""

import base64
import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_generators(seed: int) -> None:
    """Start Python's, NumPy's and torch's global generators (every device) from one number."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def generators_state() -> dict[str, Any]:
    """Every global generator's state, JSON-able."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [str(kind), _encode(np.asarray(keys).tobytes()), int(position), int(has_gauss), float(cached)],
        "torch": _encode(torch.get_rng_state().numpy().tobytes()),
        "cuda": [_encode(state.numpy().tobytes()) for state in _cuda_states()],
    }


def load_generators_state(state: dict[str, Any]) -> None:
    """Put back what `generators_state` gave. States of more graphics cards than there are now are left out."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.frombuffer(base64.b64decode(keys), dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_tensor(state["torch"]))
    for index, encoded in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(_tensor(encoded), index)


def kept_generators() -> Callable[[], None]:
    """What puts the global generators back to where they are now."""
    words, arrays, cpu, cuda = random.getstate(), np.random.get_state(), torch.get_rng_state(), _cuda_states()

    def put_back() -> None:
        random.setstate(words)
        np.random.set_state(arrays)
        torch.set_rng_state(cpu)
        for index, state in enumerate(cuda):
            torch.cuda.set_rng_state(state, index)

    return put_back


@contextmanager
def untouched_generators() -> Iterator[None]:
    """Whatever is drawn inside, the global generators go on afterwards as if nothing had been."""
    put_back = kept_generators()
    try:
        yield
    finally:
        put_back()


def derived_generator(seed: int, name: str, step: int) -> torch.Generator:
    """A CPU generator that depends on these three alone: what an attachment draws at a step is the same in every run."""
    digest = hashlib.sha256(f"{seed}/{name}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") % 2**63)


def _cuda_states() -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _tensor(encoded: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(encoded)), dtype=torch.uint8)
