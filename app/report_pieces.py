"""Small blocks of HTML that a report is put together from. Words pass `escaped`; figures are drawn on white."""

from collections.abc import Sequence
from typing import Any

from app.verdict_html import escaped, figure_block


def drawn(figure: Any, name: str) -> str:
    return figure_block(figure.update_layout(template="plotly_white"), name)


def paragraph(text: str) -> str:
    return f'<p class="bw-dim">{escaped(text)}</p>'


def side_by_side(*blocks: str, style: str = "bw-two") -> str:
    return f'<div class="{style}">{"".join(f"<div>{block}</div>" for block in blocks)}</div>'


def log_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls; its cells are HTML, escaped already."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="bw-log"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
