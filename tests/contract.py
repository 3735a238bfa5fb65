"""The hook contract of HookedTransformer 3.9, as data: shapes to try, names that must fire, edits that must be felt.

Shared by the two environments that prove it: `tests/lab/test_model_hooks.py` checks the model against itself under
transformer-lens 4.x, `tests/tl39/` checks it against HookedTransformer 3.9.0. Nothing here imports HookedTransformer, so
nothing here can drift towards it: what a name or a shape should be is written out by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies
from jaxtyping import Float, Int
from torch import Tensor, nn

from lab.model import GPT, GPTConfig

CAUSAL = 1e-3  # an edit of one activation's own deviation moves some logit by at least this much
GRADIENT = 1e-5  # norm of a gradient's difference over its norm


@dataclass(frozen=True)
class Case:
    """One shape of model with one batch of tokens, both made from seeds."""

    n_layers: int = 2
    d_model: int = 32
    n_heads: int = 4
    n_key_value_heads: int | None = None
    n_ctx: int = 32
    d_vocab: int = 61
    d_mlp: int | None = 48
    rotary_base: float = 10000.0
    eps: float = 1e-5
    tied: bool = False
    random_gains: bool = True
    batch: int = 2
    pos: int | None = None  # tokens in the batch; n_ctx unless given
    seed: int = 0

    def __str__(self) -> str:
        """A short name for pytest: what this shape is chosen for."""
        kv = "mha" if self.n_key_value_heads is None else f"kv{self.n_key_value_heads}"
        flags = ("tied" if self.tied else "untied") + ("-gains" if self.random_gains else "-ones")
        return (
            f"{kv}-{flags}-d{self.d_model}h{self.n_heads}L{self.n_layers}-ctx{self.n_ctx}x{self.length}-b{self.batch}"
        )

    @property
    def length(self) -> int:
        return self.pos or self.n_ctx

    def model(self) -> GPT:
        """The model in eval mode, every weight large enough that every activation matters to some logit."""
        config = GPTConfig(
            n_layers=self.n_layers,
            d_model=self.d_model,
            n_heads=self.n_heads,
            n_ctx=self.n_ctx,
            d_vocab=self.d_vocab,
            n_key_value_heads=self.n_key_value_heads,
            d_mlp=self.d_mlp,
            rotary_base=self.rotary_base,
            eps=self.eps,
            tie_embeddings=self.tied,
        )
        model = GPT(config, seed=self.seed)
        randomise(model, self.seed, self.random_gains)
        return model.eval()

    def tokens(self, seed: int = 1) -> Int[Tensor, "batch pos"]:
        generator = torch.Generator().manual_seed(seed + 1000 * self.seed)
        return torch.randint(self.d_vocab, (self.batch, self.length), generator=generator)


def _cases() -> Iterator[Case]:
    for gains in (True, False):
        for kv in (None, 2):
            for tied in (True, False):
                yield Case(random_gains=gains, n_key_value_heads=kv, tied=tied)
    yield Case(n_ctx=8, batch=1)
    yield Case(n_ctx=8, batch=1, pos=1)  # one position of one sequence: a matrix times a vector, another kernel
    yield Case(
        n_ctx=64, batch=3, n_key_value_heads=1, tied=True
    )  # one key-value head: its weight is a view, not a copy
    yield Case(n_ctx=128, batch=4, n_key_value_heads=4)  # as many key-value heads as heads, under the grouped names
    yield Case(n_ctx=256, batch=2, d_model=64, n_heads=8, n_layers=3, d_mlp=None, d_vocab=257)
    yield Case(n_ctx=256, batch=4, d_model=48, n_heads=6, n_key_value_heads=3, pos=200, tied=True)
    yield Case(n_ctx=32, batch=1, n_heads=1, d_model=16, rotary_base=100000.0, eps=1e-6)
    yield Case(n_ctx=33, batch=3, d_model=24, n_heads=3, pos=17, n_layers=1, d_vocab=7)


CASES = tuple(_cases())
SMALL = Case(n_ctx=12, batch=2, n_key_value_heads=2)  # where one test visits every hook name
SPLIT = Case(n_ctx=12, batch=2)  # the same without grouped queries, which use_attn_in refuses


@strategies.composite
def any_case(draw: Callable[..., Any]) -> Case:
    """Shapes nobody thought of, small enough for many examples."""
    heads = draw(strategies.sampled_from((1, 2, 3, 4, 6)))
    d_head = 2 * draw(strategies.integers(1, 8))
    n_ctx = draw(strategies.integers(8, 256))
    return Case(
        n_layers=draw(strategies.integers(1, 3)),
        d_model=heads * d_head,
        n_heads=heads,
        n_key_value_heads=draw(strategies.sampled_from([None, *(g for g in range(1, heads + 1) if heads % g == 0)])),
        n_ctx=n_ctx,
        d_vocab=draw(strategies.integers(2, 130)),
        d_mlp=draw(strategies.integers(1, 100)),
        rotary_base=draw(strategies.sampled_from((100.0, 10000.0, 500000.0))),
        eps=draw(strategies.sampled_from((1e-6, 1e-5, 1e-3))),
        tied=draw(strategies.booleans()),
        random_gains=draw(strategies.booleans()),
        batch=draw(strategies.integers(1, 4)),
        pos=draw(strategies.integers(1, n_ctx)),
        seed=draw(strategies.integers(0, 2**16)),
    )


@torch.no_grad()
def randomise(model: nn.Module, seed: int, gains: bool) -> None:
    """Weights at HookedTransformer's own scale, .8/√d_model, and norm gains about one or exactly one.

    The library's initialisation is meant for training: with its small output matrices half of all edits would be
    invisible at 1e-3, and equal gains of one would hide a gain applied on the wrong side of a hook.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if name.endswith(".w"):
            weight.copy_(1.0 + 0.3 * noise if gains else torch.ones_like(weight))
        else:
            weight.copy_(noise * 0.8 / math.sqrt(model.cfg.d_model))  # type: ignore[union-attr, arg-type]


# --- what must fire ----------------------------------------------------------------------------------------------------

OPTIONS = ("use_attn_result", "use_attn_in", "use_split_qkv_input", "use_hook_mlp_in")
OPT_IN = {
    "use_attn_result": ("attn.hook_result",),
    "use_attn_in": ("hook_attn_in",),
    "use_split_qkv_input": ("hook_q_input", "hook_k_input", "hook_v_input"),
    "use_hook_mlp_in": ("hook_mlp_in",),
}


def set_options(model: Any, *options: str) -> None:
    """Turn opt-in hooks on by the setters that HookedTransformer has."""
    for option in options:
        getattr(model, f"set_{option}")(True)


def expected_hooks(case: Case, *options: str) -> dict[str, tuple[int, ...]]:
    """Every name that one forward pass must fire, with its shape, in no order."""
    b, p, h, d = case.batch, case.length, case.n_heads, case.d_model
    k, g = d // h, case.n_key_value_heads or h
    m = GPTConfig(**_shape(case)).d_mlp
    assert m is not None
    shapes: dict[str, tuple[int, ...]] = {"hook_embed": (b, p, d)}
    # Split inputs are normalised per head; the norm's points fire for queries, keys and values, and the values' stay.
    inputs = (g,) if "use_split_qkv_input" in options else (h,) if "use_attn_in" in options else ()
    for layer in range(case.n_layers):
        block: dict[str, tuple[int, ...]] = {
            "hook_resid_pre": (b, p, d),
            "ln1.hook_scale": (b, p, *inputs, 1),
            "ln1.hook_normalized": (b, p, *inputs, d),
            "attn.hook_q": (b, p, h, k),
            "attn.hook_k": (b, p, g, k),
            "attn.hook_v": (b, p, g, k),
            "attn.hook_rot_q": (b, p, h, k),
            "attn.hook_rot_k": (b, p, g, k),
            "attn.hook_attn_scores": (b, h, p, p),
            "attn.hook_pattern": (b, h, p, p),
            "attn.hook_z": (b, p, h, k),
            "hook_attn_out": (b, p, d),
            "hook_resid_mid": (b, p, d),
            "ln2.hook_scale": (b, p, 1),
            "ln2.hook_normalized": (b, p, d),
            "mlp.hook_pre": (b, p, m),
            "mlp.hook_pre_linear": (b, p, m),
            "mlp.hook_post": (b, p, m),
            "hook_mlp_out": (b, p, d),
            "hook_resid_post": (b, p, d),
        }
        if "use_attn_result" in options:
            block["attn.hook_result"] = (b, p, h, d)
        if "use_attn_in" in options:
            block["hook_attn_in"] = (b, p, h, d)
        if "use_split_qkv_input" in options:
            block |= {"hook_q_input": (b, p, h, d), "hook_k_input": (b, p, g, d), "hook_v_input": (b, p, g, d)}
        if "use_hook_mlp_in" in options:
            block["hook_mlp_in"] = (b, p, d)
        shapes |= {f"blocks.{layer}.{name}": shape for name, shape in block.items()}
    shapes |= {"ln_final.hook_scale": (b, p, 1), "ln_final.hook_normalized": (b, p, d)}
    shapes |= {"unembed.hook_in": (b, p, d), "unembed.hook_out": (b, p, case.d_vocab)}
    return shapes


def parameter_shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """Names and shapes of everything that trains, as in HookedTransformer's state dict (a tied W_U is W_E's)."""
    d, h, v = case.d_model, case.n_heads, case.d_vocab
    k, g = d // h, case.n_key_value_heads or h
    m = GPTConfig(**_shape(case)).d_mlp
    assert m is not None
    grouped = "" if case.n_key_value_heads is None else "_"
    shapes: dict[str, tuple[int, ...]] = {"embed.W_E": (v, d), "ln_final.w": (d,)}
    if not case.tied:
        shapes["unembed.W_U"] = (d, v)
    for layer in range(case.n_layers):
        shapes |= {
            f"blocks.{layer}.{name}": shape
            for name, shape in {
                "ln1.w": (d,),
                "ln2.w": (d,),
                "attn.W_Q": (h, d, k),
                f"attn.{grouped}W_K": (g, d, k),
                f"attn.{grouped}W_V": (g, d, k),
                "attn.W_O": (h, k, d),
                "mlp.W_in": (d, m),
                "mlp.W_gate": (d, m),
                "mlp.W_out": (m, d),
            }.items()
        }
    return shapes


def bias_shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """The biases HookedTransformer always has; ours are zeros in the state dict that never train."""
    d, h = case.d_model, case.n_heads
    k, g = d // h, case.n_key_value_heads or h
    m = GPTConfig(**_shape(case)).d_mlp
    assert m is not None
    grouped = "" if case.n_key_value_heads is None else "_"
    shapes: dict[str, tuple[int, ...]] = {"unembed.b_U": (case.d_vocab,)}
    for layer in range(case.n_layers):
        shapes |= {
            f"blocks.{layer}.{name}": shape
            for name, shape in {
                "attn.b_Q": (h, k),
                f"attn.{grouped}b_K": (g, k),
                f"attn.{grouped}b_V": (g, k),
                "attn.b_O": (d,),
                "mlp.b_in": (m,),
                "mlp.b_out": (d,),
            }.items()
        }
    return shapes


def _shape(case: Case) -> dict[str, Any]:
    return {
        name: getattr(case, name)
        for name in ("n_layers", "d_model", "n_heads", "n_ctx", "d_vocab", "n_key_value_heads", "d_mlp")
    }


def names_and_options() -> list[tuple[str, tuple[str, ...]]]:
    """Every hook name of a two-layer model with the options that wake it; what is on by default first."""
    default = [(name, ()) for name in expected_hooks(SMALL)]
    woken = [
        (f"blocks.{layer}.{name}", (option,))
        for option, names in OPT_IN.items()
        for name in names
        for layer in range(SMALL.n_layers)
    ]
    return default + woken


def case_for(options: tuple[str, ...]) -> Case:
    """Grouped queries wherever the options allow them."""
    return SPLIT if "use_attn_in" in options else SMALL


# --- edits -------------------------------------------------------------------------------------------------------------


def noise(x: Tensor, seed: int = 7) -> Tensor:
    """Seeded normal noise of the activation's own deviation, zero where it is masked with -inf.

    An activation that does not vary at all (one normed position) gets noise of a tenth of its size instead.
    """
    seen = finite(x)
    deviation = float(seen.std()) if seen.numel() > 1 else 0.0
    deviation = deviation or 0.1 * float(seen.abs().mean())
    drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
    return torch.where(torch.isfinite(x), deviation * drawn, torch.zeros_like(drawn)).detach()


def add_noise(tensor: Tensor, hook: Any) -> Tensor:
    """A hook that returns a new tensor."""
    return tensor + noise(tensor)


def add_noise_in_place(tensor: Tensor, hook: Any) -> None:
    """A hook that edits what it was given and returns nothing."""
    tensor.add_(noise(tensor))


def zero_a_slice_in_place(tensor: Tensor, hook: Any) -> Tensor:
    """The idiom of TransformerLens' tutorials: write into a slice (the last position, or head), return the tensor."""
    tensor[:, -1] = 0.0
    return tensor


EDITS: dict[str, Callable[[Tensor, Any], Tensor | None]] = {
    "returned": add_noise,
    "in place": add_noise_in_place,
    "slice": zero_a_slice_in_place,
}


@contextmanager
def shadowed(point: nn.Module, edit: Callable[[Tensor, Any], Tensor | None]) -> Iterator[None]:
    """Replace `forward` in the instance's own dictionary, as nnsight ≥ 0.8 does to every module it traces."""
    original = point.forward

    def forward(x: Tensor) -> Tensor:
        edited = edit(original(x), point)
        return x if edited is None else edited

    point.__dict__["forward"] = forward
    try:
        yield
    finally:
        del point.__dict__["forward"]


# --- bounds ------------------------------------------------------------------------------------------------------------


def bound(logits: Tensor) -> float:
    """DESIGN's bound on a difference of logits: 1e-5 × max(1, max |logit|)."""
    return 1e-5 * max(1.0, float(logits.detach().abs().max()))


def difference(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference; equal infinities count as equal, and a shape or a NaN never does."""
    if a.shape != b.shape:
        return math.inf
    if a.numel() == 0:
        return 0.0
    a, b = a.detach(), b.detach()
    gap = torch.where(a == b, torch.zeros_like(a), (a - b).abs())
    return math.inf if bool(torch.isnan(gap).any()) else float(gap.max())


def relative(a: Tensor, b: Tensor) -> float:
    """‖a - b‖ / ‖b‖, and zero when both vanish."""
    gap, size = float((a - b).double().norm()), float(b.double().norm())
    return gap / size if size else (0.0 if gap == 0.0 else math.inf)


def disagreements(a: Mapping[str, Tensor], b: Mapping[str, Tensor], tolerance: float = 0.0) -> dict[str, str]:
    """What differs between two caches, by name: empty when they agree in names, shapes and values."""
    found = {name: "only in the first" for name in a if name not in b}
    found |= {name: "only in the second" for name in b if name not in a}
    for name in a:
        if name in b:
            left, right = a[name], b[name]
            if left.shape != right.shape:
                found[name] = f"shapes {tuple(left.shape)} and {tuple(right.shape)}"
            elif left.dtype != right.dtype:
                found[name] = f"dtypes {left.dtype} and {right.dtype}"
            elif difference(left, right) > tolerance * max(1.0, float(finite(right).abs().max())):
                found[name] = f"differ by {difference(left, right):.2e}"
    return found


def finite(x: Tensor) -> Tensor:
    """The finite entries, flat, or a single zero when there are none."""
    found = x.detach()[torch.isfinite(x)]
    return found if found.numel() else torch.zeros(1)


def attached(model: Any) -> dict[str, Any]:
    """Hook points that still carry something, by any of the ways torch and TransformerLens know."""
    left = {}
    for name, point in model.hook_dict.items():
        kinds = (
            "_forward_hooks",
            "_forward_pre_hooks",
            "_backward_hooks",
            "_backward_pre_hooks",
            "fwd_hooks",
            "bwd_hooks",
        )
        carried = [kind for kind in kinds if getattr(point, kind)]
        if carried or "forward" in point.__dict__:
            left[name] = carried
    return left


def gradients(model: Any, tokens: Tensor, **kwargs: Any) -> dict[str, Tensor]:
    """Gradient of the mean loss in every weight, under HookedTransformer's names; the model is left without any."""
    model.zero_grad()
    model(tokens, return_type="loss", **kwargs).backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


def weights(model: Any) -> dict[str, Float[Tensor, "..."]]:
    """A copy of everything that trains."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}
