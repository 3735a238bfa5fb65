"""The norm and the gate with backward passes of their own, against torch's; and memory that stays with the process."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from lab.fused import gated, rms_norm
from tests.contract import relative


@pytest.mark.parametrize("shape", [(2, 5, 16), (7, 33), (64,)])
@pytest.mark.parametrize("spread", [1e-4, 1.0, 1e3])  # 1e-4: eps is most of the mean square
def test_the_norm_and_its_gradients_are_torchs(shape: tuple[int, ...], spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(shape, generator=generator) * spread).requires_grad_()
    gain = torch.randn(shape[-1], generator=generator).requires_grad_()
    upstream = torch.randn(shape, generator=generator)
    found, expected = rms_norm(x, gain, 1e-5), F.rms_norm(x, (shape[-1],), gain, 1e-5)
    assert relative(found, expected) <= 1e-6
    ours, theirs = (torch.autograd.grad(y, (x, gain), upstream) for y in (found, expected))
    assert all(relative(one, other) <= 1e-5 for one, other in zip(ours, theirs, strict=True))


def test_the_norms_gradients_are_those_of_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.fused._ours", lambda x: True)
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    gain = torch.linspace(0.5, 2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, gain: rms_norm(x, gain, 1e-5), (x, gain))


def test_the_gate_and_its_gradients_are_torchs_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    gate, up, upstream = (torch.randn(4, 9, 24, generator=generator) * 3 for _ in range(3))
    gate.requires_grad_(), up.requires_grad_()
    found, expected = gated(gate, up), F.silu(gate) * up
    assert torch.equal(found, expected)
    ours, theirs = (torch.autograd.grad(y, (gate, up), upstream) for y in (found, expected))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    x = torch.randn(2, 8, requires_grad=True)
    (first,) = torch.autograd.grad(rms_norm(x, torch.ones(8), 1e-5).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()  # type: ignore[no-untyped-call]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_taken_again_without_page_faults() -> None:
    program = """
import resource, sys
import numpy
from lab.allocator import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit("not told")
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        rows = [numpy.ones(1 << 20) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", program, how], capture_output=True, check=True, text=True).stdout)
        for how in ("kept", "given back")
    )
    assert kept < given_back / 10
