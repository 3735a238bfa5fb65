"""`lab plan`: what a run would take of memory, item by item, and what fits. `register` adds the verb. Nothing is trained."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli_parts import BadRequest
from app.options import JsonOption, SetOption

if TYPE_CHECKING:
    from train.budget import Fit

DEVICES = ("cpu", "cuda", "mps")


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(plan)


def plan(
    preset: Annotated[str | None, typer.Option(help="tiny, demo, laptop or 8gb.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file over the preset; a run's config.toml, say.")] = None,
    set_: SetOption = None,
    memory: Annotated[str, typer.Option(help="What there is: 8GB, 7.5GiB, 512MB.")] = "8GB",
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or mps (default: cuda for the preset 8gb, else as in training here).")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Layer of the concepts that freeze.concepts holds (default: the last).", min=0)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Predict a run's peak of memory, item by item; whether it fits, and the largest micro-batch and context that do."""
    from lab.config import load_config
    from train.budget import fits, size_in_bytes

    budget = size_in_bytes(memory)
    if device is not None and device not in DEVICES:
        raise BadRequest(f"--device {device!r} is none. Use {', '.join(DEVICES)}.")
    resolved = load_config(preset, config, set_ or [])
    if layer is not None and layer > resolved.model.n_layers:
        raise BadRequest(f"--layer {layer}: the model has layers 0..{resolved.model.n_layers}.")
    held = [one for one in resolved.freeze.concepts if "anchor" in one.mode or one.mode == "pin"]
    place = device or _device(resolved)
    fit = fits(resolved, budget, place, None if layer is None else [layer] * len(held))
    found = to_dict(fit, resolved, place)
    typer.echo(json.dumps(found, indent=1) if as_json else to_text(found))


def to_dict(fit: "Fit", config: Any, device: str) -> dict[str, Any]:
    """Bytes throughout; `items` are those of the peak."""
    from train.memory import product_bytes

    peak = fit.prediction.peak
    return {
        "preset": config.preset,
        "device": device,
        "products": "bfloat16" if product_bytes(config, device) == 2 else "float32",
        "peak_at": peak.name,
        "items": dict(peak.items),
        "peak": peak.bytes,
        "reserve": fit.reserve,
        "needed": fit.needed,
        "budget": fit.budget,
        "fits": fit.fits,
        "configured": {
            "batch": config.train.batch,
            "accumulation": config.train.accumulation,
            "context": config.model.n_ctx,
            "checkpoint_blocks": config.train.checkpoint_blocks,
        },
        "largest": {
            "batch": fit.batch,
            "accumulation": fit.accumulation,
            "checkpoint_blocks": fit.checkpoint_blocks,
            "context": fit.context,
            "context_of_one": fit.context_of_one,
        },
        "flags": list(fit.flags),
        "instants": {instant.name: instant.bytes for instant in fit.prediction.instants},
    }


def to_text(found: dict[str, Any]) -> str:
    """A Markdown table of the peak, and beneath it what fits."""
    rows = [(item, size) for item, size in found["items"].items()]
    rows += [("**peak of tensors**", found["peak"]), ("held back (process, fragments)", found["reserve"])]
    rows += [("**needed**", found["needed"])]
    width = max(len(name) for name, _ in rows)
    configured, best = found["configured"], found["largest"]
    lines = [
        f"{found['preset']} on {found['device']}, products in {found['products']}: "
        f"{configured['batch']} sequences of {configured['context']} tokens at a time, {configured['accumulation']} times "
        f"a step; predicted, at its peak ({found['peak_at']}):",
        "",
        f"| {'item'.ljust(width)} | {'MB':>8} |",
        f"|{'-' * (width + 2)}|{'-' * 9}:|",
        *(f"| {name.ljust(width)} | {size / 1e6:>8,.1f} |" for name, size in rows),
        "",
        f"{'It fits' if found['fits'] else 'It does not fit'} {_gb(found['budget'])}.",
    ]
    if best["batch"]:
        blocks = ", with train.checkpoint_blocks=true" if best["checkpoint_blocks"] else ""
        times = f"{best['batch']} sequences at a time, {best['accumulation']} times a step{blocks}"
        lines.append(f"Largest micro-batch that does, as many sequences a step: {times}.")
    else:
        lines.append("Not even one sequence at a time does: take a smaller model or a shorter context.")
    lines.append(
        f"Largest context that does: {best['context']:,} tokens with the configured micro-batch, "
        f"{best['context_of_one']:,} with one sequence at a time."
    )
    if found["flags"]:
        lines.append("To use it: " + " ".join(found["flags"]))
    return "\n".join(lines)


def _device(config: Any) -> str:
    """Where it would be trained: `8gb` is made for a graphics card, whatever this machine has."""
    if config.train.device != "auto":
        return str(config.train.device).split(":")[0]
    if config.preset == "8gb":
        return "cuda"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _gb(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"
