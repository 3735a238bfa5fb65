"""A text as a strip of tokens, each as dark and as deeply underlined as its reading is high. HTML for the app; inert.

Tokens come from a model or a stranger and pass `escaped`; blanks are shown as marks (`text_readings.token`).
"""

from collections.abc import Sequence

from app.verdict_html import escaped

BREAK = "↵"
SHEET = """
.bw-strip { display: flex; flex-wrap: wrap; gap: 3px 2px; margin: .3rem 0 .5rem; line-height: 1.5; font-size: .88rem;
  padding: 3px; max-height: 16rem; overflow: auto; unicode-bidi: isolate; }
.bw-strip span { padding: 0 .22em 5px; border-radius: 3px; white-space: pre; max-width: 100%; overflow: hidden;
  text-overflow: ellipsis; }
.bw-strip .bw-here { outline: 2px solid #CC79A7; outline-offset: 1px; }
.bw-strip .bw-none { border: 1px dashed rgba(138,143,152,.6); }
.bw-strip i { flex-basis: 100%; height: 0; }
.bw-scale { display: inline-flex; align-items: center; gap: .4rem; font-size: .78rem; opacity: .85; }
.bw-scale b { width: 7rem; height: .7rem; border-radius: 3px; display: inline-block;
  background: linear-gradient(90deg, rgba(0,114,178,.06), rgba(0,114,178,.66)); }
"""


def strip(labels: Sequence[str], values: Sequence[float | None], highest: float, here: int | None = None) -> str:
    """The tokens in order; hovering one tells its position and value.

    Args:
        values: beside the labels; None draws a token without a reading.
        highest: the value that is drawn darkest.
        here: the position that is framed.
    """
    parts = []
    for at, (label, value) in enumerate(zip(labels, values, strict=True)):
        names = ["bw-here"] * (at == here) + ["bw-none"] * (value is None)
        share = 0.0 if value is None else max(0.0, min(1.0, value / highest))
        style = f"background:rgba(0,114,178,{0.06 + 0.6 * share:.2f});box-shadow:inset 0 -{round(5 * share)}px #0072B2"
        title = f"position {at}: {label}, {'no value' if value is None else f'{value:.3f}'}"
        parts.append(
            f'<span class="{" ".join(names)}" style="{"" if value is None else style}" title="{escaped(title)}">'
            f"{escaped(label)}</span>" + ("<i></i>" if label.endswith(BREAK) else "")
        )
    return f'<div class="bw-strip">{"".join(parts)}</div>'


def scale(unit: str, highest: float) -> str:
    """What light and dark mean."""
    return f'<div class="bw-scale">{escaped(unit)}: 0 <b></b> {highest:.3g}</div>'
