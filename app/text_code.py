"""The code that makes a text's numbers again in a notebook, from the run's folder alone. No server, no app.

What it computes is held by a test to what the server answers.
"""

from pathlib import Path

from app.text_readings import STRENGTH

HEAD = """import torch

{imports}

run = load({name!r}, root={root!r})
model, tokenizer = run.model(step={step}), run.tokenizer()
ids = [tokenizer.bos, *tokenizer.encode({text!r})]
with torch.no_grad():
    logits, cache = model.run_with_cache(torch.tensor([ids]))
stream = torch.stack([cache[name][0] for name in residual_names(model)])  # [layer, pos, d_model], layer 0 = embedding
layer, pos = {layer}, {pos}
"""
FIT = "fitted = fit(run, model, tokenizer)  # lens and probes, on the run's probe set\n"
LENS = """
with torch.no_grad():
    shares = Head.of(model).logits({lens}.read(layer, stream[layer, pos : pos + 1])).softmax(-1)[0]
top = [(tokenizer.decode([id]), float(shares[id])) for id in shares.topk({top_k}).indices.tolist()]
{next}top
"""
NEXT = "p_next = float(shares[ids[pos + 1]]) if pos + 1 < len(ids) else None  # of the token that does come next\n"
PROBE = """
probe = fitted.probes[{task!r}]
reading = probe.read(stream)[..., probe.classes.index({label!r})]  # [layer, pos], a probability
reading[layer, pos]
"""
CONCEPT = """
concept = Concept.load(run, {name!r})
place = concept.coordinates(stream)
{reading}
reading[layer, pos]
"""
OF_STRENGTH = "reading = place.norm(dim=-1)  # [layer, pos]"
OF_CLASS = (
    "scores = place @ concept.weight.T + concept.bias\n"
    "reading = torch.softmax(scores, dim=-1)[..., concept.classes.index({label!r})]  # [layer, pos], a probability"
)
ATTENTION = """
pattern = cache["blocks.{block}.attn.hook_pattern"][0, {head}]  # [query, key]
pattern[pos]
"""
IMPORTS = {
    "fit": "from app.server_fits import fit",
    "load": "from lab import load",
    "Concept": "from lab.concepts import Concept",
    "residual_names": "from probes.layers.collect import residual_names",
    "LOGIT_LENS": "from probes.layers.lens import LOGIT_LENS, Head",
    "Head": "from probes.layers.lens import Head",
}


def python(
    run: Path,
    step: int,
    text: str,
    layer: int,
    pos: int,
    ridge: bool,
    reading: tuple[str, str, str],
    top_k: int = 5,
    head: tuple[int, int] | None = None,
) -> str:
    """Code that ends with the chosen cell, `reading` or `top` before it, and `pattern` where a head is chosen.

    Args:
        ridge: whether the lens that was shown is the fitted one.
        reading: what is shown: ("lens" or "next", "", ""), ("probe", task, class), ("concept", name, class or strength).
        head: block and head whose attention is shown.
    """
    kind, name, label = reading
    parts, wanted = [], ["load", "residual_names"]
    if kind in ("lens", "next"):
        parts.append(LENS.format(lens="fitted.lens" if ridge else "LOGIT_LENS", top_k=top_k, next=NEXT))
        wanted += ["fit", "Head"] if ridge else ["LOGIT_LENS"]
    elif kind == "probe":
        parts.append(PROBE.format(task=name, label=label))
        wanted.append("fit")
    else:
        how = OF_STRENGTH if label == STRENGTH else OF_CLASS.format(label=label)
        parts.append(CONCEPT.format(name=name, reading=how))
        wanted.append("Concept")
    if "fit" in wanted:
        parts.insert(0, FIT)
    if head is not None:
        parts.append(ATTENTION.format(block=head[0], head=head[1]))
    imports = "\n".join(line for key, line in IMPORTS.items() if key in wanted)
    start = HEAD.format(
        imports=imports, name=run.name, root=str(run.parent), step=step, text=text, layer=layer, pos=pos
    )
    return start + "".join(parts)
