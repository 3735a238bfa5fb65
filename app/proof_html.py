"""A proof as one HTML file that needs nothing else."""

from collections.abc import Mapping
from typing import Any

from app import proof_figures
from app.proof_text import NOTE, facts, headline, rows, subject
from app.verdict_html import document, escaped, facts_block, figure_block

TABLE = ' style="border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.85rem"'
CELL = ' style="border-bottom:1px solid #8A8F98;padding:.2rem .6rem;text-align:left"'


def report(proof: Mapping[str, Any]) -> str:
    """Verdict, table, figures and facts; byte for byte the same for the same proof."""
    header, *body = rows(proof)
    head = "".join(f"<th{CELL}>{escaped(cell)}</th>" for cell in header)
    lines = "".join("<tr>" + "".join(f"<td{CELL}>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in body)
    table = f'<div style="overflow-x:auto"><table{TABLE}><tr>{head}</tr>{lines}</table></div>'
    figures = {
        "drift": proof_figures.drift(proof),
        "cost": proof_figures.cost(proof),
        "leak": proof_figures.leak(proof),
    }
    drawn = [figure_block(figure, name) for name, figure in figures.items() if figure is not None]
    first = f"<h2>{escaped(headline(proof))}</h2><p>{escaped(subject(proof))}</p>{table}<p>{escaped(NOTE)}</p>"
    sections = [first + facts_block(facts(proof)), *drawn]
    return document(f"Proof of a freeze: {proof['branch']}", sections)
