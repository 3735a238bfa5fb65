"""What a run takes of memory, said before it is begun: the peak of tensor bytes, item by item, and what would fit a budget.

Nothing is built or measured here. A step is followed instant by instant (the loss, its backward pass through the head and
through each block, the optimizer's update, the visits of attachments), and at each the tensors that are alive together are
added up, by what the code allocates there: `lab.blocks`, `lab.attention`, `lab.fused`, `lab.cross_entropy`, `train.muon`,
`train.freeze_modes`. The largest of these is the peak. No number here was fitted to a measurement.

Left out, as a few percent at most: scalars, token ids beyond the loss, scratch memory within an operation, and what probes
take on the CPU while they are fitted. A compiled step is predicted as an eager one; it takes no more.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from lab.config import RunConfig
from lab.cross_entropy import rows_at_once
from lab.shape import GPTConfig
from train.batteries import TOKENS as BATTERY_TOKENS
from train.generations import PROMPT_TOKENS, TEXTS
from train.muon import multiplies_bfloat16
from train.understanding import TOKENS

FLOAT = 4  # bytes: weights, gradients, moments, the residual stream and the loss are float32, whatever products run in
PROBE_TOKENS = 4096  # of one forward pass when probing, as in `probes.layers.collect`
LOOK_TOKENS = 1024  # of one forward pass of the understanding module, every activation spelt out
# Items, in the order in which they are told.
ITEMS = (
    "weights",
    "gradients",
    "optimizer states",
    "activations kept for backward",
    "a block at work",
    "loss and logits, in pieces",
    "optimizer at work",
    "frozen lower copies",
    "remedy and feedback",
    "attachment at work",
)
WEIGHTS, GRADIENTS, STATES, KEPT, BLOCK, LOSS, UPDATE, COPIES, EXTRA, VISIT = ITEMS


@dataclass(frozen=True)
class Instant:
    """What is alive at one time of a step, in bytes by item; items that are nothing are left out."""

    name: str
    items: Mapping[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.items.values())


@dataclass(frozen=True)
class Prediction:
    """The instants of a step and of the visits between steps; `peak` is the one at which most is alive."""

    instants: tuple[Instant, ...]

    @property
    def peak(self) -> Instant:
        return max(self.instants, key=lambda instant: instant.bytes)


def predict(
    config: RunConfig, device: str = "cpu", product_bytes: int = 4, anchored: Sequence[int] | None = None
) -> Prediction:
    """Peak of live tensor bytes on the training device.

    Args:
        device: "cpu", or that of a graphics card ("cuda", "mps").
        product_bytes: of the type that products run in under autocast: 2 for bfloat16, 4 for float32.
        anchored: layers of the concepts that an anchor or a pin holds. None: one at the last layer for each that the
            configuration freezes in such a mode, since which layer a concept lies at is not in the configuration.
    """
    step = _Step(config, device, product_bytes)
    if anchored is None:
        held = [one for one in config.freeze.concepts if "anchor" in one.mode or one.mode == "pin"]
        anchored = [step.layers] * len(held)
    always = {
        WEIGHTS: FLOAT * (step.parameters + step.buffers),
        STATES: step.states,
        COPIES: sum(step.copy(layer) for layer in anchored),
    }
    found = [*_passes(step, bool(anchored)), *_visits(step)]
    return Prediction(tuple(_instant(name, always | items) for name, items in found))


def product_bytes(config: RunConfig, device: str) -> int:
    """Bytes of what products run in on a device, `train.dtype=auto` taken to find bfloat16 on a graphics card."""
    narrow = config.train.dtype == "bfloat16" or (config.train.dtype == "auto" and device.startswith("cuda"))
    return 2 if narrow else 4


class _Step:
    """Sizes of one configuration. What methods give is in bytes; `rows` sequences are a micro-batch of `tokens` tokens."""

    def __init__(self, config: RunConfig, device: str, product_bytes: int) -> None:
        shape = GPTConfig.from_config(config.model)
        assert shape.d_mlp is not None
        self.config, self.device, self.products = config, device.split(":")[0], product_bytes
        self.layers, self.width, self.heads, self.mlp = shape.n_layers, shape.d_model, shape.n_heads, shape.d_mlp
        self.context, self.vocabulary, self.tied = shape.n_ctx, shape.d_vocab, shape.tie_embeddings
        self.readers = shape.n_kv * shape.d_head  # width of all keys, or of all values
        self.rows, self.tokens = config.train.batch, config.train.batch * shape.n_ctx
        self.again, self.accumulates = config.train.checkpoint_blocks, config.train.accumulation > 1
        # `lab.fused`: on a CPU in float32 a gate keeps two tensors; torch's own keeps silu(gate) as well.
        self.gate = 2 if self.device == "cpu" and product_bytes == FLOAT else 3
        self.joint = self.width * (self.width + 2 * self.readers)  # W_Q, W_K and W_V side by side
        self.matrices = self.joint + self.width**2 + 3 * self.width * self.mlp
        self.block = self.matrices + 2 * self.width
        self.head = self.vocabulary * self.width
        self.parameters = self.layers * self.block + self.width + self.head * (1 if self.tied else 2)
        self.buffers = self._buffers(self.layers)

    def _buffers(self, layers: int) -> int:
        """Biases that are zero, and the rotary tables."""
        biases = layers * (3 * self.width + 2 * self.readers + self.mlp) + self.vocabulary
        return biases + 2 * self.context * self.width // self.heads

    @cached_property
    def states(self) -> int:
        """AdamW keeps two moments, Muon one."""
        moments = 2 * self.parameters
        if self.config.optimizer.kind == "muon":
            moments -= self.layers * self.matrices
        return FLOAT * moments

    @property
    def stream(self) -> int:
        """The residual stream of a micro-batch, once."""
        return FLOAT * self.tokens * self.width

    def kept_by_block(self, tokens: int) -> int:
        """For backward, besides the stream that goes in (layers are named as in `lab.blocks`)."""
        width, readers = self.width, self.readers
        normalized = 2 * width if self.products == FLOAT else 3 * width  # the MLP's two readers each cast their own
        attention = (width + 2 * readers) + (width + readers) + width  # q, k, v as read; q and k turned; z
        products = normalized + attention + (self.gate + 1) * self.mlp
        wide = width + 2 + self.heads  # resid_mid; two norms' scales; log-sum-exp of every head
        cast = (
            self.joint if self.products == FLOAT else self.matrices
        )  # float32 weights are views, but for the joint one
        return tokens * (self.products * products + FLOAT * wide) + self.products * cast

    def kept(self, blocks: int) -> int:
        """By so many blocks: with checkpoint_blocks the stream before each alone."""
        return blocks * (self.stream + (0 if self.again else self.kept_by_block(self.tokens)))

    def passing(self, tokens: int, products: int) -> int:
        """At most alive within one block where nothing is kept: in its MLP, or while queries and keys are turned."""
        width, turned = self.width, self.width + self.readers
        mlp = FLOAT * 3 * width + products * (width + (self.gate + 1) * self.mlp)
        attention = FLOAT * (2 * width + 3 * turned) + products * (width + 2 * self.readers)
        return tokens * max(mlp, attention) + products * self.joint

    def going_back(self) -> int:
        """Alive in a block's backward pass besides what it kept: the stream's gradient, and what is dearest within."""
        width, mlp, made = self.width, self.mlp, (self.gate + 1) * self.mlp
        gate = 2 * mlp  # gradients of both factors, and of their product in the product's place
        readers = 2 * width + mlp - made  # of what the factors were read from, one by each; what the MLP made is gone
        wide = FLOAT // self.products * width  # resid_mid, gone by then as well
        attention = width + 2 * self.readers - made - wide  # of z, q, k and v; what the MLP read is gone
        return self.stream + self.products * self.tokens * max(gate, readers, attention)

    def pieces(self, tokens: int, wanted: bool) -> int:
        """Of the loss at work: `lab.cross_entropy`."""
        rows = min(tokens, rows_at_once(self.width, self.vocabulary, self.device))
        narrow = self.products != FLOAT
        piece = rows * self.vocabulary * (FLOAT + 2 * self.products if narrow else FLOAT)
        casts = self.products * (tokens * self.width + self.head) if narrow else 0
        ids = tokens * (8 + 8 + FLOAT)  # targets, places, counts
        found = FLOAT * tokens * self.width + piece + casts + ids  # the first is the normalized stream
        if wanted:
            found += rows * self.width * self.products + self.loss_gradients(tokens)
            found += self.head * self.products if narrow else 0
        return found

    def loss_gradients(self, tokens: int) -> int:
        """By the stream and by the unembedding, made with the loss."""
        return FLOAT * (tokens * self.width + self.head)

    def copy(self, layer: int) -> int:
        """A frozen lower copy."""
        return FLOAT * (layer * self.block + self.width + self.head + self._buffers(layer))

    def cache(self, rows: int, positions: int) -> int:
        """Keys and values."""
        return FLOAT * self.layers * 2 * rows * positions * self.readers

    def update(self) -> int:
        """Beside the states: nothing for fused AdamW; Muon takes all matrices of one shape together."""
        if self.config.optimizer.kind == "adamw":
            return 0
        narrow = 2 if self.device != "cpu" or multiplies_bfloat16(torch.device("cpu")) else FLOAT
        shapes: dict[tuple[int, int], int] = {}
        width, readers, mlp = self.width, self.readers, self.mlp
        of_block = [(width, width)] * 2 + [(width, readers)] * 2 + [(width, mlp)] * 2 + [(mlp, width)]
        for shape in of_block:  # in the order of `Attention` and `MLP`
            shapes[shape] = shapes.get(shape, 0) + self.layers
        found, before = 0, 0
        for (high, broad), number in shapes.items():
            size, gram = number * high * broad, number * min(high, broad) ** 2
            rounds = FLOAT * size + narrow * (2 * size + 2 * gram)  # as stacked; x, the next x; two products of x
            end = FLOAT * size + narrow * (size + gram) + (FLOAT * size if narrow != FLOAT else 0)
            found = max(found, before + max(rounds, end))
            before = FLOAT * size  # the updates of one shape are let go when those of the next are made
        return FLOAT * self.layers * self.matrices + found  # gradients with a look ahead, all of them


def _passes(step: _Step, anchored: bool) -> Iterable[tuple[str, dict[str, int]]]:
    """The instants of the last micro-batch's passes, and the update."""
    every = FLOAT * step.parameters
    before = every if step.accumulates else 0  # gradients of the micro-batches before
    extra = _extra(step)
    kept = {
        KEPT: step.kept(step.layers) + step.stream + FLOAT * step.tokens
    }  # ln_final keeps the stream, and its scale
    yield "loss", kept | {GRADIENTS: before, LOSS: step.pieces(step.tokens, wanted=True)}
    held = step.loss_gradients(step.tokens)
    if anchored:
        copy = step.passing(step.tokens, FLOAT) + step.stream
        yield "anchor", kept | {GRADIENTS: before, LOSS: held, BLOCK: copy}
    if extra:
        yield "remedy and feedback", kept | {GRADIENTS: before, LOSS: held, EXTRA: extra}
    yield (
        "backward through the head",
        kept | {GRADIENTS: before + FLOAT * step.head, LOSS: held, BLOCK: step.stream, EXTRA: extra},
    )
    for at in sorted({step.layers, 1}, reverse=True):
        done = FLOAT * (step.head + (step.layers - at) * step.block)
        waiting = FLOAT * step.head if step.tied and before else 0  # the head's, for the embedding's
        gradients = (before or done) + waiting + FLOAT * step.width * step.mlp
        working = step.going_back() + (step.kept_by_block(step.tokens) if step.again else 0)
        items = {KEPT: step.kept(at), GRADIENTS: gradients, BLOCK: working, EXTRA: extra}
        yield f"backward through block {at - 1}", items
    # Tied, there are the head's gradient, the embedding's and their sum; then it is added to that of micro-batches before.
    made = FLOAT * step.head * (2 * step.tied + step.accumulates)
    yield "backward through the embedding", {GRADIENTS: every + made, BLOCK: step.stream}
    yield "update", {GRADIENTS: every, UPDATE: step.update()}


def _extra(step: _Step) -> int:
    """What terms of the loss with a forward pass of their own keep for backward, at the most."""
    config, rows = step.config, 0
    if config.remedy.every:
        rows += config.remedy.texts
    if config.feedback.every:
        rows += math.ceil(config.feedback.share / (1 - config.feedback.share) * step.rows)
    tokens = rows * step.context
    inside = 0 if step.again else step.kept_by_block(tokens)
    logits = 2 * FLOAT * tokens * step.vocabulary  # and their gradient
    return step.layers * (FLOAT * tokens * step.width + inside) + logits if rows else 0


def _visits(step: _Step) -> Iterable[tuple[str, dict[str, int]]]:
    """The attachments that the configuration switches on, each at its dearest; gradients are gone by then."""
    config, width, vocabulary = step.config, step.width, step.vocabulary
    stream = FLOAT * width
    if config.evaluation.every:
        working = max(step.passing(step.tokens, step.products), step.pieces(step.tokens, wanted=False) + step.stream)
        yield "evaluation", {VISIT: working}
    if config.probing.every or config.shimmer.every:
        tokens = max(PROBE_TOKENS, step.context)
        layers = step.layers + 1 if config.probing.layers == "all" else len({0, *config.probing.layers})
        yield "probing", {VISIT: layers * tokens * stream + step.passing(tokens, FLOAT)}
    if config.understanding.every:
        positions = max(LOOK_TOKENS, step.context)
        scores = FLOAT * 4 * positions * step.heads * step.context  # raw, masked, as a pattern, and that without NaN
        look = scores + positions * (FLOAT * (6 * width + 5 * step.mlp) + 3 * FLOAT * vocabulary)
        reference = FLOAT * (step.parameters + step.buffers)
        answered = BATTERY_TOKENS if config.understanding.batteries_every else TOKENS
        positions = min(step.context, PROMPT_TOKENS + answered)
        texts = step.cache(TEXTS, positions) + TEXTS * FLOAT * vocabulary * (
            PROMPT_TOKENS + 1
        )  # a prompt's logits are made whole
        yield "understanding", {VISIT: max(look, reference + texts)}
    one = step.cache(1, step.context) + 2 * FLOAT * step.context * vocabulary  # the prompt's logits are made whole
    for name, every in (
        ("self-play", config.self_play.every),
        ("check-in", config.check_ins.every),
        ("journal", config.journal.every),
    ):
        if every:
            yield name, {VISIT: one}


def _instant(name: str, items: Mapping[str, int]) -> Instant:
    return Instant(name, {item: items[item] for item in ITEMS if items.get(item)})
