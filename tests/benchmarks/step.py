"""What open hooks cost a training step, and what peers cost: process CPU time of alternating pairs.

    python -m tests.benchmarks.step                                        # against a plain GPT, batch 4 and 16
    python -m tests.benchmarks.step --against llama --d-model 512          # against transformers' LlamaForCausalLM
    python -m tests.benchmarks.step --against hooked --context 256 1024    # in the 3.9.0 environment

A step is forward, loss, backward, clip and a fused AdamW step. Each pair times both models on the same batch, in turns of
who goes first; reported is the median of the pairs' ratios (ours / theirs, below 1 is faster) with a bootstrap interval.
Both models start from the same weights, and nothing is timed before their losses agree. A row also has the arithmetic of our
step (products of matrices alone; a causal mask halves attention's) over its time, as a share of the fastest square product of
float32 matrices that the same process ran. JSON on stdout.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab.allocator import keep_freed_memory
from lab.model import GPT, GPTConfig
from tests.benchmarks.pairs import alternate, circumstances
from tests.benchmarks.plain_gpt import PlainGPT

Loss = Callable[[Tensor], Tensor]


class Contender:
    """A model with its optimizer, stepping on demand."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self.model, self.loss = model.train(), loss
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step(self, tokens: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(tokens).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def saved_bytes(self, tokens: Tensor) -> int:
        """Memory that one forward pass keeps for its backward pass, weights and buffers not counted, storages once."""
        own = {tensor.untyped_storage().data_ptr() for tensor in (*self.model.parameters(), *self.model.buffers())}
        kept: dict[int, Tensor] = {}  # holding the tensors, so that no storage is freed and its address used again

        def pack(tensor: Tensor) -> Tensor:
            pointer = tensor.untyped_storage().data_ptr()
            if pointer not in own:
                kept[pointer] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.loss(tokens)
        total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        del loss
        return total


def contenders(cfg: GPTConfig, against: str) -> tuple[Contender, Contender]:
    """Ours and theirs, holding the same weights."""
    ours = GPT(cfg, seed=0)
    theirs: Any
    if against == "plain":
        theirs = PlainGPT(cfg)
        theirs.copy_weights(ours)
        their_loss: Loss = theirs.loss
    elif against == "llama":
        theirs = llama(ours)
        their_loss = lambda tokens: theirs(input_ids=tokens, labels=tokens, use_cache=False).loss  # noqa: E731
    else:
        from tests.tl39.oracle import twin

        theirs = twin(ours)
        their_loss = lambda tokens: theirs(tokens, return_type="loss")  # noqa: E731
    return Contender(ours, lambda tokens: ours(tokens, return_type="loss")), Contender(theirs, their_loss)


def llama(ours: GPT) -> Any:
    """transformers' model of the same shape and weights, with scaled-dot-product attention, its default."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from lab.llama import llama_config, to_llama
    from lab.sections import ModelConfig

    shape = {name: getattr(ours.cfg, name) for name in ModelConfig.model_fields}
    model, d_mlp = ModelConfig(**shape), int(shape["d_mlp"])
    theirs = LlamaForCausalLM(LlamaConfig(**llama_config(model, d_mlp, bos=0, end=1, pad=2)))
    missing, surplus = theirs.load_state_dict(to_llama(ours.state_dict(), model), strict=False)
    if surplus or set(missing) - ({"lm_head.weight"} if model.tie_embeddings else set()):
        raise SystemExit(f"transformers' Llama lacks {missing} and does not know {surplus}")
    return theirs


def arithmetic(cfg: GPTConfig, batch: int) -> float:
    """Floating-point operations of a step's products: 6 for each weight of a matrix and token, and attention's own.

    The embedding is looked up, not multiplied; the last token of a sequence has no target, so the head does without it.
    """
    assert cfg.d_mlp is not None
    block = cfg.d_model * (2 * cfg.n_heads + 2 * cfg.n_kv) * cfg.d_head + 3 * cfg.d_model * cfg.d_mlp
    attention = cfg.n_ctx * cfg.d_model  # two products of half a square, per token and layer, over the 6 below
    layers = cfg.n_layers * (block + attention) * batch * cfg.n_ctx
    return 6.0 * (layers + cfg.d_model * cfg.d_vocab * batch * (cfg.n_ctx - 1))


def matmul_peak(repeats: int = 5) -> float:
    """The best rate of a square float32 product in this process, floating-point operations a CPU second."""
    best = 0.0
    for side in (512, 1024, 2048):
        left, right = torch.randn(side, side), torch.randn(side, side)
        out = left @ right
        for _ in range(repeats):
            start = time.process_time()
            torch.mm(left, right, out=out)
            best = max(best, 2 * side**3 / (time.process_time() - start))
    return best


def cycle_steps(contender: Contender, batches: list[Tensor], steps: int) -> Callable[[], None]:
    """Steps on the next batch at every call, so that both sides see the same batches in the same order."""
    rows = itertools.cycle(batches)

    def work() -> None:
        tokens = next(rows)
        for _ in range(steps):
            contender.step(tokens)

    return work


def compare(cfg: GPTConfig, against: str, batch: int, pairs: int, steps: int) -> dict[str, Any]:
    """Ratios of one shape."""
    ours, theirs = contenders(cfg, against)
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randint(cfg.d_vocab, (batch, cfg.n_ctx), generator=generator) for _ in range(pairs)]
    with torch.no_grad():
        losses = [float(contender.loss(batches[0])) for contender in (ours, theirs)]
    if abs(losses[0] - losses[1]) > 1e-5 * max(1.0, losses[1]):
        raise SystemExit(f"the two models are not the same function: losses {losses[0]} and {losses[1]}")
    memory = [contender.saved_bytes(batches[0]) for contender in (ours, theirs)]
    for contender in (ours, theirs):
        contender.step(batches[0])  # allocator, optimizer state and first-use costs
    mine, others = (cycle_steps(contender, batches, steps) for contender in (ours, theirs))
    timed = alternate(mine, others, pairs)
    rate, peak = steps * arithmetic(cfg, batch) / timed["ours_cpu_seconds_median"], matmul_peak()
    return {
        "against": against,
        "context": cfg.n_ctx,
        "batch": batch,
        "layers": cfg.n_layers,
        "d_model": cfg.d_model,
        "steps_per_pair": steps,
        **timed,
        "gigaflops": round(rate / 1e9, 1),
        "matmul_peak_gigaflops": round(peak / 1e9, 1),
        "share_of_peak": round(rate / peak, 4),
        "saved_bytes_ours": memory[0],
        "saved_bytes_theirs": memory[1],
        "saved_bytes_ratio": round(memory[0] / memory[1], 4),
    }


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", choices=("plain", "llama", "hooked"), default="plain")
    parser.add_argument("--context", type=int, nargs="+", default=[256])
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=None)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=1, help="steps per model and pair")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as a run does; both sides have it
    rows = []
    for context in options.context:
        for batch in options.batch:
            cfg = GPTConfig(
                n_layers=options.layers,
                d_model=options.d_model,
                n_heads=options.heads,
                n_ctx=context,
                d_vocab=options.vocabulary,
                n_key_value_heads=options.kv_heads,
            )
            rows.append(compare(cfg, options.against, batch, options.pairs, options.steps))
            print(f"{options.against} ctx {context} batch {batch}: {rows[-1]['ratio_median']}", file=sys.stderr)
    report = circumstances("tests.benchmarks.step", arguments, options.threads) | {"rows": rows}
    text = json.dumps(report, indent=2)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
