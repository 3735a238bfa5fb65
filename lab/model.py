"""A GPT with its hooks open: HookedTransformer's contract, fused arithmetic wherever nobody listens.

Hook names, shapes, parameters and calls are those of HookedTransformer 3.9 for an RMSNorm, rotary, gated-MLP decoder; that
class left transformer-lens in 4.0, the two this file stands on (`HookedRootModule`, `HookPoint`) stay. Every block has two
ways through the same numbers: a fused one (a single QKV product, scaled-dot-product attention, `F.rms_norm`) and an unfused
one that spells out every activation. A block takes the unfused way as soon as one of the points inside it has a listener, so
a hook is never a silent no-op. Listening at the residual stream (`hook_resid_*`, `hook_attn_out`, `hook_mlp_out`) keeps the
fused way and changes no bit of the result.

Differences from HookedTransformer, all deliberate: `ln1` runs and fires once a block (there three times), biases are zero
buffers that do not train, matrices start from another initialisation (`GPT.initialise`), a KV cache keeps rotated keys.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import ActivationCache, HookedRootModule
from transformer_lens.hook_points import HookPoint

from lab.attention import KeyValueCache, Padding, Rotary
from lab.blocks import Block, Embed, HookNotEnabled, RMSNorm, Unembed, hooked, listened
from lab.compiled import Compiled, HookOnCompiled, guard_hooks
from lab.cross_entropy import IGNORED, summed_cross_entropy
from lab.errors import LabError
from lab.shape import GPTConfig
from lab.surface import HookedSurface

__all__ = ["GPT", "BiasesNotZero", "GPTConfig", "HookNotEnabled", "HookOnCompiled", "KeyValueCache", "Output"]


class BiasesNotZero(LabError):
    """Weights with biases were loaded; they would count on one way through the model and not on the other."""


class Output(NamedTuple):
    logits: Float[Tensor, "batch pos d_vocab"]
    loss: Float[Tensor, ""] | Float[Tensor, "batch pos-1"]


class GPT(HookedSurface, HookedRootModule):
    """A decoder whose every activation can be read and edited by the name HookedTransformer gives it.

    >>> model = GPT(GPTConfig(n_layers=6, d_model=256, n_heads=8, n_ctx=256, d_vocab=4096))
    >>> logits = model(tokens)                                    # [batch, pos, d_vocab]
    >>> logits, cache = model.run_with_cache(tokens, names_filter="blocks.3.hook_resid_post", stop_at_layer=4)

    Args:
        cfg: the shape.
        seed: of the initial weights, drawn from a generator of their own.
        tokenizer: anything with `encode` and `decode`; only calls with text need it.
    """

    def __init__(self, cfg: GPTConfig, seed: int = 0, tokenizer: Any = None) -> None:
        super().__init__()
        self.cfg = cfg
        self.tokenizer = tokenizer
        self.embed = Embed(cfg)
        self.hook_embed = HookPoint()  # [batch, pos, d_model]
        self.hook_tokens = HookPoint()  # [batch, pos]; cfg.use_hook_tokens
        self.rotary = Rotary(cfg)
        self.blocks = nn.ModuleList(Block(cfg, self.rotary, index) for index in range(cfg.n_layers))
        self.ln_final = RMSNorm(cfg)
        self.unembed = Unembed(cfg, self.embed)
        self._head = (*self.ln_final.modules(), *self.unembed.modules())
        self._force_unfused = False
        self.initialise(seed)
        self.setup()  # names the hook points
        self.to(cfg.device)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Normal weights: embedding .5, unembedding .02, readers of the stream 1/√fan-in, writers that over √(2·layers).

        An embedding of .5 keeps the token the largest part of the stream at first. At `demo` shape, 100 steps, rate 6e-3,
        that gave a validation loss of 5.38 nats; .02 (rate 3e-3) 6.19; .5 with writers at zero 5.34, but then an untrained
        twin would mix no context and be no control. HookedTransformer draws everything at .8/√d_model.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if name.endswith(".w"):
                weight.fill_(1.0)
                continue
            fan_in = weight.shape[0] if name.endswith("W_out") else self.cfg.d_model
            deviation = {"embed.W_E": 0.5, "unembed.W_U": 0.02}.get(name, fan_in**-0.5)
            if name.endswith(("W_O", "W_out")):
                deviation /= (2 * self.cfg.n_layers) ** 0.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * deviation)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As in torch. Biases must be zero: they do not train, and the fused way leaves them out.

        Raises:
            BiasesNotZero: naming the first one that is not.
        """
        for name, value in state_dict.items():
            if name.rsplit(".", 1)[-1].lstrip("_").startswith("b_") and bool(torch.as_tensor(value).any()):
                raise BiasesNotZero(
                    f"{name} is not zero, but a model of this shape has no biases. Fold or drop them first."
                )
        return super().load_state_dict(state_dict, strict, assign)

    def forward(
        self,
        input: str | list[str] | Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_model"],
        return_type: str | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        start_at_layer: int | None = None,
        tokens: Int[Tensor, "batch pos"] | None = None,
        attention_mask: Int[Tensor, "batch pos"] | None = None,
        stop_at_layer: int | None = None,
        past_kv_cache: KeyValueCache | None = None,
        targets: Int[Tensor, "batch pos"] | None = None,
    ) -> Any:
        """Logits, loss, both, or the residual stream, called as HookedTransformer is.

        Args:
            input: token ids, text (needs a tokenizer), or with `start_at_layer` the residual stream before that block.
            return_type: "logits", "loss" (next-token cross-entropy in nats, shifted inside), "both", or None.
            loss_per_token: the loss as [batch, pos-1] instead of its mean.
            start_at_layer: first block to run, inclusive; negative counts from the end.
            tokens: the targets, when `input` is the residual stream and a loss is wanted.
            attention_mask: 1 for real tokens, 0 for padding on either side.
            stop_at_layer: first block not to run; returns the residual stream there.
            past_kv_cache: continue after its positions; it is filled in place.
            targets: what each position is to predict, -100 where it does not count. The loss is then the *sum* over those
                that count, not shifted: a training step divides by the targets of all its micro-batches.

        A loss alone never makes the logits of the whole batch (`lab.cross_entropy`), unless the head is listened to.

        Raises:
            ValueError: an unknown return_type, more positions than n_ctx, or a loss without targets.
        """
        if return_type not in ("logits", "loss", "both", None):
            raise ValueError(f'return_type = {return_type!r}: use "logits", "loss", "both" or None.')
        if torch.compiler.is_compiling():
            guard_hooks(self)  # a hook added or removed later makes torch compile anew
        if isinstance(input, str | list):
            tokens = self.to_tokens(input, prepend_bos=prepend_bos, padding_side=padding_side)
            attention_mask = self.padding_mask(tokens) if isinstance(input, list) else attention_mask
            input = tokens
        resid: Tensor
        if start_at_layer is None:
            tokens = input[None] if input.ndim == 1 else input
            if self.cfg.use_hook_tokens:
                tokens = self.hook_tokens(tokens)
            elif hooked(self.hook_tokens):
                self.check_hooks_to_add(self.hook_tokens, "hook_tokens")
            resid = self.hook_embed(self.embed(tokens))
        else:
            resid = input
        start = past_kv_cache.length if past_kv_cache else 0
        if start + resid.shape[1] > self.cfg.n_ctx:
            raise ValueError(
                f"{start + resid.shape[1]} positions, but the model has n_ctx = {self.cfg.n_ctx}. Shorten the input."
            )
        padding = None
        if attention_mask is not None:
            if past_kv_cache is not None:
                raise ValueError("attention_mask does not go together with past_kv_cache. Run batches of equal length.")
            padding = Padding(attention_mask.bool(), (attention_mask.long().cumsum(1) - 1).clamp(min=0))
        for block in list(self.blocks)[start_at_layer:stop_at_layer]:
            resid = block(resid, past_kv_cache, padding)
        if past_kv_cache is not None:
            past_kv_cache.length += resid.shape[1]
        if stop_at_layer is not None:
            return resid
        fused = not (self._force_unfused or listened(*self._head))
        resid = self.ln_final(resid, fused)
        if return_type is None:
            return None
        if return_type == "loss" and fused and not loss_per_token:
            return self._loss_by_pieces(resid, tokens, attention_mask, targets)
        logits = self.unembed(resid, fused)
        if return_type == "logits":
            return logits
        if targets is not None:
            loss = _cross_entropy(logits, targets, "none" if loss_per_token else "sum")
        else:
            loss = self.loss_fn(logits, _given(tokens), attention_mask, per_token=loss_per_token)
        return loss if return_type == "loss" else Output(logits, loss)

    def _loss_by_pieces(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        tokens: Int[Tensor, "batch pos"] | None,
        attention_mask: Int[Tensor, "batch pos"] | None,
        targets: Int[Tensor, "batch pos"] | None,
    ) -> Float[Tensor, ""]:
        """What `unembed` and a plain cross-entropy would give, without the logits."""
        if targets is not None:
            return summed_cross_entropy(resid.flatten(0, 1), self.unembed.W_U, targets.flatten())
        wanted = _given(tokens)[:, 1:]
        number: int | Tensor = wanted.numel()
        if attention_mask is not None:
            counts = (attention_mask[:, :-1] * attention_mask[:, 1:]).bool()
            wanted, number = wanted.masked_fill(~counts, IGNORED), counts.sum()
        return summed_cross_entropy(resid[:, :-1].flatten(0, 1), self.unembed.W_U, wanted.flatten()) / number

    def compiled(self, **options: Any) -> Compiled:
        """A compiled twin of calling this model, on the same weights, for training; the model itself stays eager.

        A hook never passes unnoticed in it: while anything is listened to it raises `HookOnCompiled`, whenever the hook
        was added, and works again once the hook is gone. `torch.compile(model)` by hand compiles anew for each set of
        hooks instead, so that they fire, up to torch's recompile limit (8); beyond it, torch runs the model eagerly, or
        raises under fullgraph.

        >>> step = model.compiled(mode="max-autotune")
        >>> step(tokens, return_type="loss").backward()

        Args:
            options: for torch.compile (backend, mode, dynamic, fullgraph: the model has no graph breaks).
        """
        return Compiled(self, **options)

    def loss_fn(
        self,
        logits: Float[Tensor, "batch pos d_vocab"],
        tokens: Int[Tensor, "batch pos"],
        attention_mask: Int[Tensor, "batch pos"] | None = None,
        per_token: bool = False,
    ) -> Float[Tensor, ""] | Float[Tensor, "batch pos-1"]:
        """Cross-entropy of each next token in nats; pairs with padding on either side do not count."""
        loss = _cross_entropy(logits[:, :-1], tokens[:, 1:], "none")
        if attention_mask is None:
            return loss if per_token else loss.mean()
        counts = (attention_mask[:, :-1] * attention_mask[:, 1:]).bool()
        loss = loss.masked_fill(~counts, 0.0)
        return loss if per_token else loss.sum() / counts.sum()

    def run_with_cache(
        self, *args: Any, return_cache_object: bool = True, remove_batch_dim: bool = False, **kwargs: Any
    ) -> tuple[Any, Any]:
        """The model's output and an `ActivationCache` (or a plain dict) of what fired; see HookedRootModule for the rest."""
        output, cache = super().run_with_cache(*args, remove_batch_dim=remove_batch_dim, **kwargs)
        return output, ActivationCache(
            cache, self, has_batch_dim=not remove_batch_dim
        ) if return_cache_object else cache

    def get_caching_hooks(self, names_filter: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As in HookedRootModule, of what can fire with the options set; a name that cannot is refused."""
        return super().get_caching_hooks(self._firing(names_filter), *args, **kwargs)

    def add_caching_hooks(self, names_filter: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As in HookedRootModule, of what can fire with the options set; a name that cannot is refused."""
        return super().add_caching_hooks(self._firing(names_filter), *args, **kwargs)

    def _firing(self, names_filter: Any) -> Any:
        """The filter without points that are off; a name that was given outright stays, to be refused."""
        if names_filter is None or callable(names_filter):
            deaf = self.deaf_points()
            return [n for n in self.hook_dict if n not in deaf and (names_filter is None or names_filter(n))]
        return names_filter

    def _enable_hook(self, name: Any, hook: Callable[..., Any], dir: Any) -> None:
        if callable(name):  # a predicate means "of those that fire": "every hook" must not demand every option
            chosen = self._firing(name)
            super()._enable_hook(lambda candidate: candidate in chosen, hook, dir)
        else:
            super()._enable_hook(name, hook, dir)

    def _enable_hook_with_name(self, name: str, hook: Callable[..., Any], dir: Any) -> None:
        self.check_hooks_to_add(self.mod_dict.get(name), name, hook)
        super()._enable_hook_with_name(name, hook, dir)

    def check_hooks_to_add(self, hook_point: Any, hook_point_name: str, *args: Any, **kwargs: Any) -> None:
        """Refuses a hook on a point that would not fire; TransformerLens asks before it adds one.

        Raises:
            HookNotEnabled: naming the option to set.
        """
        option = self.deaf_points().get(hook_point_name)
        if option:
            raise HookNotEnabled(
                f"{hook_point_name} does not fire unless the model is set to: model.set_{option}(True)."
            )

    def deaf_points(self) -> dict[str, str]:
        """Names of the opt-in points that do not fire as the model is set, each with the option that wakes it."""
        deaf = {} if self.cfg.use_hook_tokens else {"hook_tokens": "use_hook_tokens"}
        for block in self.blocks:
            for option, points in block.opt_in().items():
                if not getattr(self.cfg, option):
                    deaf |= {point.name: option for point in points}
        return deaf

    @contextmanager
    def unfused(self) -> Iterator["GPT"]:
        """Within, every block spells out all its activations, hooked or not; the same numbers up to float noise."""
        before = self._force_unfused
        self._set_unfused(True)
        try:
            yield self
        finally:
            self._set_unfused(before)

    def _set_unfused(self, value: bool) -> None:
        self._force_unfused = value
        for block in self.blocks:
            block.force_unfused = value

    def checkpoint_blocks(self, value: bool) -> None:
        """Whether blocks keep nothing of a training pass but the stream before them, and are run again in the backward pass.

        A third more arithmetic for a fraction of the memory (arXiv:1604.06174). Weights, gradients and what a hook sees stay
        the same: a block that is listened to inside keeps its activations, and no hook fires twice.
        """
        for block in self.blocks:
            block.checkpointed = value


def _given(tokens: Tensor | None) -> Tensor:
    if tokens is None:
        raise ValueError("a loss needs its targets: pass tokens= beside the residual stream.")
    return tokens


def _cross_entropy(
    logits: Float[Tensor, "batch pos d_vocab"], targets: Int[Tensor, "batch pos"], reduction: str
) -> Float[Tensor, "*batch_pos"]:
    """In float32, 0 where a target is -100; [batch, pos], or one number where it is summed."""
    loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction=reduction)
    return loss.view(targets.shape) if reduction == "none" else loss
