"""Our generation against transformers' `generate` on the same weights: process CPU time, alternating pairs, greedy.

    python -m tests.benchmarks.generation --run smol           # a run made by `lab import smollm2 --name smol`

The weights are exported as a Llama folder and loaded by transformers; nothing is timed before both gave the same tokens.
JSON on stdout.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

from lab import load
from lab.exports import export
from lab.generate import Sampling, sample_tokens
from tests.benchmarks.pairs import alternate, circumstances


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="latest")
    parser.add_argument("--prompt", default="The capital of France is")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=15)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    from transformers import AutoModelForCausalLM

    run = load(options.run)
    model, tokenizer = run.model(), run.tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        path = export(run, "hf", None, Path(folder) / "hf")
        peer = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    ids = tokenizer.encode(options.prompt)
    prompt = torch.tensor([ids])

    def ours() -> list[int]:
        return list(sample_tokens(model, ids, Sampling(max_tokens=options.tokens, temperature=0)))

    def theirs() -> list[int]:
        with torch.no_grad():
            answer = peer.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=options.tokens,
                min_new_tokens=options.tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        tokens: list[int] = answer[0, len(ids) :].tolist()
        return tokens

    if ours() != theirs():
        raise SystemExit("the two generate different tokens, so their times do not compare")
    result = alternate(ours, theirs, options.pairs)
    speed = round(1 / result["ratio_median"], 3)
    row = {"run": run.name, "tokens": options.tokens, "tokens_per_second_ratio": speed} | result
    print(json.dumps(circumstances("tests.benchmarks.generation", arguments, 1) | {"rows": [row]}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
