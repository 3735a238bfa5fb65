"""What users of HookedTransformer call on a model besides running it: stacked weights, circuits, directions, tokens.

A mixin, so that `model` reads as the arithmetic alone. Nothing here runs a forward pass or changes a weight.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.errors import LabError


class NoTokenizer(LabError):
    """Text was given to a model that has no tokenizer."""


class HookedSurface:
    cfg: Any
    blocks: Any
    embed: Any
    unembed: Any
    tokenizer: Any

    # --- stacked weights -------------------------------------------------------------------------------------------

    def _stack(self, part: str, name: str) -> Tensor:
        return torch.stack([getattr(getattr(block, part), name) for block in self.blocks])

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        weight: Tensor = self.embed.W_E
        return weight

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        weight: Tensor = self.unembed.W_U
        return weight

    @property
    def b_U(self) -> Float[Tensor, "d_vocab"]:
        bias: Tensor = self.unembed.b_U
        return bias

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        return self._stack("attn", "W_Q")

    @property
    def W_K(self) -> Float[Tensor, "layer head d_model d_head"]:
        return self._stack("attn", "W_K")

    @property
    def W_V(self) -> Float[Tensor, "layer head d_model d_head"]:
        return self._stack("attn", "W_V")

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        return self._stack("attn", "W_O")

    @property
    def b_Q(self) -> Float[Tensor, "layer head d_head"]:
        return self._stack("attn", "b_Q")

    @property
    def b_K(self) -> Float[Tensor, "layer head d_head"]:
        return self._stack("attn", "b_K")

    @property
    def b_V(self) -> Float[Tensor, "layer head d_head"]:
        return self._stack("attn", "b_V")

    @property
    def b_O(self) -> Float[Tensor, "layer d_model"]:
        return self._stack("attn", "b_O")

    @property
    def W_in(self) -> Float[Tensor, "layer d_model d_mlp"]:
        return self._stack("mlp", "W_in")

    @property
    def W_gate(self) -> Float[Tensor, "layer d_model d_mlp"]:
        return self._stack("mlp", "W_gate")

    @property
    def W_out(self) -> Float[Tensor, "layer d_mlp d_model"]:
        return self._stack("mlp", "W_out")

    @property
    def b_in(self) -> Float[Tensor, "layer d_mlp"]:
        return self._stack("mlp", "b_in")

    @property
    def b_out(self) -> Float[Tensor, "layer d_model"]:
        return self._stack("mlp", "b_out")

    @property
    def QK(self) -> Any:
        """The query-key circuit of every head, a FactoredMatrix [layer, head, d_model, d_model] (destination, source)."""
        from transformer_lens import FactoredMatrix

        return FactoredMatrix(self.W_Q, self.W_K.transpose(-2, -1))

    @property
    def OV(self) -> Any:
        """The output-value circuit of every head, a FactoredMatrix [layer, head, d_model, d_model]."""
        from transformer_lens import FactoredMatrix

        return FactoredMatrix(self.W_V, self.W_O)

    def all_composition_scores(self, mode: str) -> Float[Tensor, "layer head layer head"]:
        """How much each later head's query, key or value input reads what an earlier head wrote, 0 for other pairs.

        Frobenius norm of the product over the norms of its factors (A Mathematical Framework for Transformer Circuits).

        Raises:
            ValueError: the mode is not "Q", "K" or "V".
        """
        from transformer_lens.utilities import composition_scores

        if mode not in ("Q", "K", "V"):
            raise ValueError(f'mode = {mode!r}: use "Q", "K" or "V".')
        right = {"Q": self.QK, "K": self.QK.T, "V": self.OV}[mode]
        scores: Tensor = composition_scores(self.OV, right, broadcast_dims=True)
        layer = torch.arange(self.cfg.n_layers, device=scores.device)
        return torch.where((layer[:, None] < layer)[:, None, :, None], scores, torch.zeros_like(scores))

    # --- directions ------------------------------------------------------------------------------------------------

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, "d_model"]:
        """What biases alone have written to the stream before `layer` (after its attention, with mlp_input): zero here."""
        total = torch.zeros(self.cfg.d_model, device=self.W_E.device)
        for index in range(layer + 1 if mlp_input else layer):
            total = total + self.blocks[index].attn.b_O
            if include_mlp_biases and index < layer:
                total = total + self.blocks[index].mlp.b_out
        return total

    def all_head_labels(self) -> list[str]:
        """L0H0, L0H1, … in the order in which heads are stacked."""
        return [f"L{layer}H{head}" for layer in range(self.cfg.n_layers) for head in range(self.cfg.n_heads)]

    def tokens_to_residual_directions(self, tokens: Any) -> Float[Tensor, "... d_model"]:
        """The direction of the final residual stream that raises each token's logit: its column of W_U.

        Args:
            tokens: ids of any shape, one id (also as a tensor of one), or text that is a single token.
        """
        if isinstance(tokens, str):
            tokens = self.to_single_token(tokens)
        ids = torch.as_tensor(tokens, device=self.W_U.device)
        ids = ids.reshape(()) if ids.numel() == 1 else ids  # one token is one direction, whatever its axes
        directions: Tensor = self.W_U.T[ids]
        return directions

    # --- text ------------------------------------------------------------------------------------------------------

    def _needs_tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise NoTokenizer(
                "this model has no tokenizer, so it cannot read text. Pass tokens, or set model.tokenizer."
            )
        return self.tokenizer

    def to_tokens(
        self, input: str | list[str], prepend_bos: bool | None = None, padding_side: str | None = None, **_: Any
    ) -> Int[Tensor, "batch pos"]:
        """Token ids of a text or several, padded on the right unless told otherwise, after <|bos|> unless told not to."""
        tokenizer = self._needs_tokenizer()
        bos = self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos
        rows = [([tokenizer.bos] if bos else []) + tokenizer.encode(text) for text in _as_list(input)]
        width = max(map(len, rows))
        padded = [
            [tokenizer.pad] * (width - len(row)) + row
            if padding_side == "left"
            else row + [tokenizer.pad] * (width - len(row))
            for row in rows
        ]
        return torch.tensor(padded, dtype=torch.long, device=self.W_E.device)

    def padding_mask(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """1 where a token is real, 0 where it is padding."""
        mask: Tensor = (tokens != self._needs_tokenizer().pad).long()
        return mask

    def to_string(self, tokens: Any) -> str | list[str]:
        """The text of ids of shape [pos] (a string) or [batch, pos] (a list of strings)."""
        ids = torch.as_tensor(tokens)
        tokenizer = self._needs_tokenizer()
        return (
            [tokenizer.decode(row) for row in ids.tolist()]
            if ids.ndim == 2
            else tokenizer.decode(ids.reshape(-1).tolist())
        )

    def to_str_tokens(self, input: Any, prepend_bos: bool | None = None) -> list[str]:
        """Each token of a text (or of ids of shape [pos] or [1, pos]) as a string of its own."""
        tokenizer = self._needs_tokenizer()
        ids = self.to_tokens(input, prepend_bos)[0] if isinstance(input, str) else torch.as_tensor(input).reshape(-1)
        return [tokenizer.decode([index]) for index in ids.tolist()]

    def to_single_token(self, string: str) -> int:
        """The id of a text that is one token.

        Raises:
            ValueError: it is several tokens.
        """
        ids = self._needs_tokenizer().encode(string)
        if len(ids) != 1:
            raise ValueError(f"{string!r} is {len(ids)} tokens, not one.")
        return int(ids[0])

    def to_single_str_token(self, token: int) -> str:
        """The text of one id."""
        text: str = self._needs_tokenizer().decode([token])
        return text

    # --- opt-in hook points ----------------------------------------------------------------------------------------

    def set_use_attn_result(self, value: bool) -> None:
        """Fire `attn.hook_result`, [batch, pos, head, d_model]: large."""
        self.cfg.use_attn_result = value

    def set_use_attn_in(self, value: bool) -> None:
        """Fire `hook_attn_in`, the attention input of every head, [batch, pos, head, d_model].

        Raises:
            ValueError: with grouped-query attention, where one key head serves several query heads.
        """
        if value and self.cfg.n_key_value_heads not in (None, self.cfg.n_heads):
            raise ValueError("hook_attn_in has one input a query head, but key heads are shared. Use split_qkv_input.")
        self.cfg.use_attn_in = value

    def set_use_split_qkv_input(self, value: bool) -> None:
        """Fire `hook_q_input`, `hook_k_input`, `hook_v_input`, [batch, pos, head, d_model]."""
        self.cfg.use_split_qkv_input = value

    def set_use_hook_mlp_in(self, value: bool) -> None:
        """Fire `hook_mlp_in`, a copy of the stream that the MLP reads, [batch, pos, d_model]."""
        self.cfg.use_hook_mlp_in = value

    def set_use_hook_tokens(self, value: bool) -> None:
        """Fire `hook_tokens`, [batch, pos]."""
        self.cfg.use_hook_tokens = value


def _as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
