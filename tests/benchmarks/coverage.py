"""How often depth intervals hold a planted truth: the worlds of tests/probes/test_planted_truth.py, counted.

    python -m tests.benchmarks.coverage            # 1,000 worlds of each design, about 12 minutes of CPU

JSON on stdout. Gates: bias below .05 layer, coverage 93 to 97 %, differences between equals found in 3 to 7 %.
"""

import argparse
import json
import sys
from typing import Any

import torch

from tests.benchmarks.pairs import circumstances
from tests.probes.test_planted_truth import APART, SAME, measure


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=1000)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for sentences, onsets, method in ((400, SAME, "fixed"), (150, SAME, "refit")):
        found = measure(options.worlds, sentences, onsets, method)
        rows.append(
            {
                "worlds": options.worlds,
                "sentences": sentences,
                "method": method,
                "bias_layers": {name: round(value, 4) for name, value in found.bias.items()},
                "coverage": {name: round(value, 4) for name, value in found.coverage.items()},
                "rejected": found.rejected,
            }
        )
    power = measure(150, 400, APART, "fixed")
    figures = {"rows": rows, "power_at_a_fifth": {"worlds": 150, "supported": power.supported}}
    print(json.dumps(circumstances("tests.benchmarks.coverage", arguments, 1) | figures, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
