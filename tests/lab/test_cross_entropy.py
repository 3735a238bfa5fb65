"""The loss without the logits: the same number and the same gradients, a fraction of the memory, and never past a hook."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.cross_entropy import IGNORED, rows_at_once, summed_cross_entropy
from lab.model import GPT, GPTConfig
from tests.contract import Case, relative
from tests.live_bytes import LiveBytes

ROWS, WIDTH, VOCABULARY = 300, 24, 5000  # three pieces, the last of 44 rows
HEAD = "unembed.hook_out"


def made(seed: int = 0) -> tuple[Tensor, nn.Parameter, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    resid = torch.randn(ROWS, WIDTH, generator=generator).requires_grad_()
    weight = nn.Parameter(torch.randn(WIDTH, VOCABULARY, generator=generator))
    targets = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    return resid, weight, targets


def plain(resid: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(resid, weight.T).float(), targets, ignore_index=IGNORED, reduction="sum")


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("transposed", [False, True])
def test_value_and_gradients_are_those_of_the_plain_way(share: float, transposed: bool) -> None:
    resid, weight, targets = made()
    targets[torch.rand(ROWS, generator=torch.Generator().manual_seed(1)) < share] = IGNORED
    matrix = nn.Parameter(weight.detach().T.contiguous()).T if transposed else weight  # as tied embeddings are stored
    assert 2 * rows_at_once(WIDTH, VOCABULARY, "cpu") < ROWS
    expected, found = plain(resid, matrix, targets), summed_cross_entropy(resid, matrix, targets)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    pairs = zip(*(torch.autograd.grad(loss * 0.3, (resid, matrix)) for loss in (found, expected)), strict=True)
    for ours, theirs in pairs:
        assert ours.stride() == theirs.stride() or not transposed
        assert relative(ours, theirs) <= 1e-5 if bool(theirs.any()) else not bool(ours.any())


def test_under_bfloat16_the_value_is_the_same_and_the_gradients_as_near_to_exact_ones() -> None:
    resid, weight, targets = made()
    exact = torch.autograd.grad(plain(resid, weight, targets), (resid, weight))
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = plain(resid, weight, targets), summed_cross_entropy(resid, weight, targets)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    theirs, ours = (torch.autograd.grad(loss, (resid, weight)) for loss in (expected, found))
    for one, other, true in zip(ours, theirs, exact, strict=True):
        assert one.dtype == torch.float32
        assert relative(one, true) <= 1.1 * relative(other, true)


def test_only_what_asks_for_a_gradient_gets_one_and_a_second_pass_gives_it_again() -> None:
    resid, weight, targets = made()
    summed_cross_entropy(resid.detach(), weight, targets).backward()  # type: ignore[no-untyped-call]
    assert resid.grad is None and weight.grad is not None
    loss = summed_cross_entropy(resid, weight.detach(), targets)
    first = torch.autograd.grad(loss, resid, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(loss, resid)[0], first)


def test_a_stream_that_is_not_finite_gives_a_loss_that_is_not_finite() -> None:
    resid, weight, targets = made()
    with torch.no_grad():
        resid[3, 0] = math.nan
    assert math.isnan(float(summed_cross_entropy(resid, weight, targets)))


def test_a_target_of_hopeless_odds_costs_what_it_costs() -> None:
    resid, weight = torch.tensor([[1000.0]]), torch.tensor([[1.0, 0.0, 0.5]])
    assert float(summed_cross_entropy(resid, weight, torch.tensor([1]))) == 1000.0


def test_no_more_than_a_piece_of_the_logits_is_ever_alive() -> None:
    model = GPT(GPTConfig(n_layers=1, d_model=16, n_heads=2, n_ctx=256, d_vocab=8192))
    tokens = torch.randint(8192, (4, 256))
    piece, whole = rows_at_once(16, 8192, "cpu") * 8192 * 4, 4 * 256 * 8192 * 4
    assert whole == 8 * piece

    def peak(loss_of: Any) -> int:
        model.zero_grad(set_to_none=True)
        with LiveBytes() as live:
            loss_of().backward()
        return live.peak

    by_pieces = peak(lambda: model(tokens, return_type="loss"))
    spelled_out = peak(lambda: model(tokens, return_type="both").loss)
    weights = 2 * model.W_U.nbytes  # of the head: its gradient, and that times the loss's
    assert piece <= by_pieces < piece + weights + whole // 8
    assert spelled_out > 2 * whole


# --- in the model --------------------------------------------------------------------------------------------------------

CASE = Case(n_layers=1, n_ctx=12, batch=3, n_key_value_heads=2, tied=True)
TOKENS = CASE.tokens()


def test_every_way_to_ask_for_the_loss_gives_the_same_one() -> None:
    model = CASE.model()
    padding = torch.ones_like(TOKENS)
    padding[0, :4] = padding[1, 9:] = 0
    for mask in (None, padding):
        both = model(TOKENS, return_type="both", attention_mask=mask)
        alone = model(TOKENS, return_type="loss", attention_mask=mask)
        assert float(alone) == pytest.approx(float(both.loss), rel=1e-6)
        assert float(model.loss_fn(both.logits, TOKENS, mask)) == pytest.approx(float(alone), rel=1e-6)
    with model.unfused():
        assert float(model(TOKENS, return_type="loss")) == pytest.approx(float(model(TOKENS, return_type="loss")))


def test_given_targets_the_loss_is_the_sum_over_those_that_count_whichever_way_it_is_made() -> None:
    model = CASE.model()
    targets = TOKENS.flip(1).clone()
    targets[:, ::3] = IGNORED
    each = model(TOKENS, targets=targets, return_type="loss", loss_per_token=True)
    assert each.shape == TOKENS.shape and not each[:, ::3].any()
    found = [
        model(TOKENS, targets=targets, return_type="loss"),
        model(TOKENS, targets=targets, return_type="both").loss,
    ]
    with model.hooks([("ln_final.hook_normalized", lambda x, hook: x)]):
        found.append(model(TOKENS, targets=targets, return_type="loss"))
    assert [float(loss) for loss in found] == pytest.approx([float(each.sum())] * 3, rel=1e-6)


@pytest.mark.parametrize("name", [HEAD, "unembed.hook_in", "ln_final.hook_scale", "ln_final.hook_normalized"])
def test_a_hook_on_the_head_is_felt_by_a_loss_alone(name: str) -> None:
    model = CASE.model()
    seen: list[Tensor] = []

    def edit(x: Tensor, hook: Any) -> Tensor:
        seen.append(x)
        return torch.ones_like(x) if name == HEAD else x * 2

    clean = model(TOKENS, return_type="loss")
    loss = model.run_with_hooks(TOKENS, return_type="loss", fwd_hooks=[(name, edit)])
    assert len(seen) == 1 and abs(float(loss) - float(clean)) > 1e-3
    if name == HEAD:
        assert float(loss) == pytest.approx(math.log(CASE.d_vocab), rel=1e-6)


def test_a_backward_hook_on_the_head_sees_the_gradient_of_the_logits() -> None:
    model, seen = CASE.model(), []
    with model.hooks(bwd_hooks=[(HEAD, lambda gradient, hook: seen.append(gradient.shape))]):
        model(TOKENS, return_type="loss").backward()
    assert seen == [(*TOKENS.shape, CASE.d_vocab)]


def test_in_a_compiled_graph_it_is_one_node_with_the_same_gradients() -> None:
    torch._dynamo.reset()
    resid, weight, targets = made()
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph

    compiled: Any = torch.compile(summed_cross_entropy, backend="aot_eager", fullgraph=True)
    found, expected = compiled(resid, weight, targets), summed_cross_entropy(resid, weight, targets)
    assert float(found) == float(expected)
    for ours, theirs in zip(*(torch.autograd.grad(x, (resid, weight)) for x in (found, expected)), strict=True):
        assert torch.equal(ours, theirs)
    torch.compile(summed_cross_entropy, backend=backend, fullgraph=True)(resid.detach(), weight.detach(), targets)
    assert sum(len(graph.graph.nodes) for graph in graphs) < 20
