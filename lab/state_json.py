"""The state of a run as JSON, exactly: what is decoded equals what was encoded, bit for bit and type for type.

JSON alone turns tuples into lists and knows no arrays, and a generator state that comes back as something else resumes
another run. Tensors, arrays, bytes and tuples are therefore tagged; anything that could not come back is refused. Unlike
pickle, decoding runs no code of the file's choosing.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any

from lab.errors import LabError

TAG = "__lab__"
_TENSORS = ("uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "bool")


class UnsavableState(LabError):
    """A state holds something that JSON would not give back as it was."""


def encode(state: Mapping[str, Any]) -> bytes:
    """`state` as JSON text.

    Raises:
        UnsavableState: naming the key, when a value is not made of None, bool, int, float, str, bytes, list, tuple, dict
            with string keys, numpy arrays or CPU-movable tensors.
    """
    return json.dumps(_encode(state, "state"), separators=(",", ":")).encode()


def decode(data: bytes) -> dict[str, Any]:
    """What `encode` was given. Raises ValueError when the text is not such a state."""
    state = _decode(json.loads(data))
    if not isinstance(state, dict):
        raise ValueError("a state is a JSON object")
    return state


def _encode(value: Any, key: str) -> Any:
    import numpy
    import torch

    if value is None or type(value) in (bool, int, str, float):
        return value
    if isinstance(value, Mapping):
        wrong = next((name for name in value if not isinstance(name, str) or name == TAG), None)
        if wrong is not None:
            raise UnsavableState(f"{key} has the key {wrong!r}, which JSON would not give back. Use another string.")
        return {name: _encode(item, f"{key}.{name}") for name, item in value.items()}
    if type(value) is list:
        return [_encode(item, f"{key}[{i}]") for i, item in enumerate(value)]
    if type(value) is tuple:
        return {TAG: "tuple", "items": [_encode(item, f"{key}[{i}]") for i, item in enumerate(value)]}
    if isinstance(value, bytes):
        return {TAG: "bytes", "base64": base64.b64encode(value).decode()}
    if isinstance(value, torch.Tensor) and str(value.dtype).removeprefix("torch.") in _TENSORS:
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return _array("tensor", str(value.dtype).removeprefix("torch."), list(value.shape), flat.numpy().tobytes())
    if isinstance(value, numpy.ndarray) and value.dtype.kind in "biuf":
        return _array("array", value.dtype.str, list(value.shape), value.tobytes())
    kind = type(value).__qualname__
    raise UnsavableState(
        f"{key} is a {kind}, which a checkpoint cannot give back as it was. Turn it into numbers, text, a tensor or an array."
    )


def _array(tag: str, dtype: str, shape: list[int], raw: bytes) -> dict[str, Any]:
    return {TAG: tag, "dtype": dtype, "shape": shape, "base64": base64.b64encode(raw).decode()}


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    tag = value.get(TAG)
    if tag is None:
        return {name: _decode(item) for name, item in value.items()}
    if tag == "tuple":
        return tuple(_decode(item) for item in value["items"])
    try:
        raw = base64.b64decode(value["base64"], validate=True)
    except binascii.Error as error:
        raise ValueError(f"broken base64: {error}") from error
    if tag == "bytes":
        return raw
    dtype, shape = value["dtype"], value["shape"]
    if tag == "tensor" and dtype in _TENSORS:
        import torch

        if not math.prod(shape):  # frombuffer refuses zero bytes
            return torch.empty(shape, dtype=getattr(torch, dtype))
        return torch.frombuffer(bytearray(raw), dtype=getattr(torch, dtype)).reshape(shape)
    if tag == "array":
        import numpy

        return numpy.frombuffer(raw, dtype=numpy.dtype(dtype)).reshape(shape).copy()
    raise ValueError(f"unknown tag {tag!r} of {dtype!r}")
