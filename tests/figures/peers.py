"""Rows of README's table about peers: training steps, harvesting, generating, probes, and the race for the lowest loss."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]
Rows = Callable[[str], Sequence[Json]]
PEERS = {
    "step_demo": "a plain PyTorch GPT without hooks",
    "step_plain": "a plain PyTorch GPT without hooks",
    "step_llama": "transformers' `LlamaForCausalLM`",
    "step_llama_256": "transformers' `LlamaForCausalLM`",
    "step_hooked_256": "HookedTransformer 3.9.0",
    "step_hooked_1024": "HookedTransformer 3.9.0",
}
CONTENDERS = {
    "lab-adamw": "ours with AdamW",
    "lab-muon": "ours with Muon",
    "plain": "a plain PyTorch GPT with AdamW",
    "plain-our-weights": "a plain PyTorch GPT with AdamW from our initial weights",
}


def render(rows: Rows) -> list[str]:
    """Lines of the table.

    Args:
        rows: what a figure's file holds by the figure's name; nothing for one that is not there.
    """
    return [*_steps(rows), *_harvest(rows), *_others(rows)]


def ratio(row: Json) -> str:
    low, high = row["ratio_interval"]
    return f"{row['ratio_median']:.2f}× [{low:.2f}, {high:.2f}]"


def _steps(rows: Rows) -> list[str]:
    lines = []
    for name, peer in PEERS.items():
        for row in rows(name):
            shape = f"{row['layers']} layers × {row['d_model']}, context {row['context']}, batch {row['batch']}"
            saved = f"; memory kept for backward {row['saved_bytes_ratio']:.2f}×" if "hooked" in name else ""
            lines.append(f"| training step / {peer}, CPU time, {shape} | {ratio(row)}{saved} | {row['pairs']} pairs |")
            if row["d_model"] == 512 and "share_of_peak" in row:
                title = f"arithmetic of that step of ours / the fastest float32 product of matrices, d_model {row['d_model']}"
                rates = f"{row['gigaflops']:.0f} of {row['matmul_peak_gigaflops']:.0f} GFLOP/s"
                lines.append(f"| {title} | {row['share_of_peak']:.0%}: {rates} | {row['pairs']} steps |")
    return lines


def _harvest(rows: Rows) -> list[str]:
    lines = []
    for row in rows("harvest"):
        kept = "all 6 layers" if len(row["layers"]) > 1 else f"layer {row['layers'][0]} of 6"
        title = f"`lab collect`, {kept} / HookedTransformer's `run_with_cache`, same names, CPU time"
        lines.append(f"| {title} | {ratio(row)} | {row['pairs']} pairs |")
        if "peak_ratio" in row and len(row["layers"]) > 1:
            ours, theirs = (row[f"{side}_peak_bytes"] / 1e6 for side in ("ours", "theirs"))
            title = "the same, all 6 layers: peak of live tensor bytes / a whole `run_with_cache` of the same tokens"
            lines.append(
                f"| {title} | {row['peak_ratio']:.2f}×: {ours:.0f} of {theirs:.0f} MB | {row['windows_at_peak']} windows |"
            )
    return lines


def _others(rows: Rows) -> list[str]:
    lines = []
    for row in rows("generation"):
        title = "generating with SmolLM2-135M / transformers' `generate`, CPU time"
        lines.append(f"| {title} | {ratio(row)} | {row['pairs']} pairs |")
    for row in rows("probes"):
        title = f"probes of all layers × folds × penalties, {row['estimator']} / scikit-learn `{row['peer']}`, CPU time"
        lines.append(f"| {title} | {ratio(row)}, {row['times_faster']:.1f} times faster | {row['pairs']} pairs |")
    return lines


def race(found: Json) -> list[str]:
    """Lines about who ends lowest after the same time; none without a race."""
    if not found:
        return []
    contenders = found["contenders"]
    seeds, settings = next(iter(contenders.values()))["n"], found["settings"]
    minutes, threads = settings["minutes"], settings["threads"]
    budget = f"{minutes:g} minutes on {threads} threads"
    if settings["clock"] == "cpu":
        budget = f"{minutes * threads:g} minutes of CPU time"
    budget += f", `{settings['preset']}` shape"
    lines = []
    for name, one in contenders.items():
        edge = ", the outermost" if one["best_at_edge"] else ""
        title = f"held-out loss after {budget}, {CONTENDERS[name]}, best of four rates {one['rate']:g}{edge}"
        lines.append(f"| {title} | {_mean(one)} nats per token, {one['steps_median']:,} steps | {one['n']} seeds |")
    if "lower_by" in found:
        title = f"{CONTENDERS[found['ours']]} ends lower than a plain GPT with AdamW, each at its best rate, by"
        lines.append(f"| {title} | {_mean(found['lower_by'])} nats per token | {seeds} seeds |")
    return lines


def _mean(one: Json) -> str:
    if "mean" not in one:
        return ", ".join(f"{value:.3f}" for value in one["values"]) or "–"
    low, high = one["interval"]
    return f"{one['mean']:.3f} [{low:.3f}, {high:.3f}]"
