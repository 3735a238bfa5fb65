"""Texts that begin alike, run through the model together: every beginning once, and hardly any padding.

Texts are laid out as prefix trees, one tree a row: a node is a token after all tokens above it, so that options of one item
share its question, and options that begin with the same word share that too. A node attends to itself and to what stands
above it, at the position of its depth; what comes out for it is what the model makes of its path alone, up to float noise.
The pass is the fused one of `lab.blocks` under that mask. Where somebody listens, each text goes through the model by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.blocks import Block, listened
from lab.model import GPT

_SLOWER = (
    2  # attention under a mask does half as many operations a second as the matrices do (one thread, 40 to 400 nodes)
)

Ids = tuple[int, ...]


@dataclass
class Tree:
    """Texts as a prefix tree.

    Attributes:
        tokens, depths, parents: by node; the parent of a first token is -1.
        paths: the nodes of every text.
    """

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    paths: dict[Ids, list[int]] = field(default_factory=dict)

    def add(self, text: Ids, before: Ids = (), shared: int = 0) -> None:
        """A text of which the first `shared` tokens are those of the text `before`, which the tree has."""
        path = self.paths[before][:shared] if shared else []
        for depth in range(shared, len(text)):
            self.parents.append(path[-1] if path else -1)
            path.append(len(self.tokens))
            self.tokens.append(text[depth])
            self.depths.append(depth)
        self.paths[text] = path


def planted(model: GPT, texts: Iterable[Ids]) -> list[Tree]:
    """Trees of distinct texts: in lexicographic order, one joins the tree before it while what it shares is worth its cost.

    A shared token saves its products with all weights of a block. A wider row costs attention: the new nodes are compared
    with all old ones and these with them, seen or not.
    """
    weights = sum(weight.numel() for weight in model.blocks[0].parameters())
    compared = 4 * model.cfg.n_heads * model.cfg.d_head * _SLOWER
    trees: list[Tree] = []
    before: Ids = ()
    for text in sorted(texts):
        shared = _common(before, text)
        if not shared or shared * weights <= compared * (len(text) - shared) * len(trees[-1].tokens):
            trees.append(Tree())
            shared = 0
        trees[-1].add(text, before, shared)
        before = text
    return trees


def apart(texts: Iterable[Ids]) -> list[Tree]:
    """A tree for every text."""
    trees = []
    for text in texts:
        trees.append(Tree())
        trees[-1].add(text)
    return trees


def _common(one: Ids, two: Ids) -> int:
    """How many tokens two texts begin with alike."""
    return next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def batches(trees: Sequence[Tree], batch_tokens: int) -> Iterator[list[Tree]]:
    """Trees of similar size together, padded to `batch_tokens` at most, unless one alone is larger."""
    batch: list[Tree] = []
    for tree in sorted(trees, key=lambda tree: len(tree.tokens)):
        if batch and len(tree.tokens) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch


class Pass:
    """Runs trees through the blocks of a model; the joint weights of attention are laid out once, not for each batch.

    Attributes:
        heard: somebody listens (pins of a freeze do, too), so each text has to come in a tree of its own.
    """

    def __init__(self, model: GPT) -> None:
        self.heard = listened(*model.modules())
        self._model = model
        self._joint = [] if self.heard else [_joint_weight(block) for block in self._blocks]

    @property
    def _blocks(self) -> list[Block]:
        return list(self._model.blocks)

    def __call__(self, trees: Sequence[Tree]) -> Float[Tensor, "tree node d_model"]:
        """The residual stream after the last block at every node; rows are padded on the right with what means nothing."""
        model, device = self._model, self._model.W_E.device
        width = max(len(tree.tokens) for tree in trees)
        tokens = torch.tensor([tree.tokens + [0] * (width - len(tree.tokens)) for tree in trees], device=device)
        if self.heard:  # a text a tree, for which causal attention is all the mask it needs
            found: Tensor = model(tokens, stop_at_layer=model.cfg.n_layers)
            return found
        depths = torch.tensor([tree.depths + [0] * (width - len(tree.depths)) for tree in trees], device=device)
        mask = _above(trees, width).to(device)[:, None]
        stream: Tensor = model.embed(tokens)
        for block, weight in zip(self._blocks, self._joint, strict=True):
            stream = stream + self._attend(block, weight, block.ln1(stream, True), depths, mask)
            stream = stream + block.mlp(block.ln2(stream, True), True)
        return stream

    def _attend(
        self,
        block: Block,
        weight: Float[Tensor, "heads_d_head d_model"],
        x: Float[Tensor, "tree node d_model"],
        depths: Int[Tensor, "tree node"],
        mask: Bool[Tensor, "tree 1 node node"],
    ) -> Float[Tensor, "tree node d_model"]:
        cfg = self._model.cfg
        qkv = rearrange(F.linear(x, weight), "tree node (head k) -> tree node head k", k=cfg.d_head)
        turning, v = torch.split(qkv, [cfg.n_heads + cfg.n_kv, cfg.n_kv], dim=2)
        q, k = torch.split(self._model.rotary(turning, 0, depths), [cfg.n_heads, cfg.n_kv], dim=2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=cfg.n_kv < cfg.n_heads)
        return F.linear(z.transpose(1, 2).flatten(2), block.attn.W_O.flatten(0, 1).T)


def _joint_weight(block: Block) -> Float[Tensor, "heads_d_head d_model"]:
    W_K, _, W_V, _ = block.attn.unexpanded
    return rearrange(torch.cat((block.attn.W_Q, W_K, W_V)), "head d_model k -> (head k) d_model").contiguous()


def _above(trees: Sequence[Tree], width: int) -> Bool[Tensor, "tree node node"]:
    """True where a node may look: at itself and those above it; padding at itself, as a softmax over nothing is NaN."""
    seen = np.zeros((len(trees), width, width), dtype=bool)
    seen[:, np.arange(width), np.arange(width)] = True
    for rows, tree in zip(seen, trees, strict=True):
        for node, parent in enumerate(tree.parents):
            if parent >= 0:
                rows[node] |= rows[parent]
    return torch.from_numpy(seen)
