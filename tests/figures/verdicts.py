"""The seed sentence's verdict on real models, as README shows it: `lab verify`, a picture of its figures, a table.

Pictures are drawn by Chromium from the same Plotly figures that the app shows.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from app import verdict_figures
from app.verdict_html import document, figure_block
from app.verdict_text import interval, number
from tests.benchmarks.pairs import circumstances

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SEED = "Function words at lower layers, semantic concepts at higher layers."
CHROMIUM = Path("/usr/bin/chromium")
MODELS = {
    "laptop": "a `laptop` run (6 layers × 256, trained by this lab on its default corpus)",
    "smollm2": "SmolLM2-135M-Instruct (30 layers × 576)",
}
READINGS = ("decide", "decode.next", "decode.current", "use")
TITLES = {
    "differences": "Depth of semantic concepts less depth of function words",
    "decide": "decide: what is still open of the next-token prediction",
    "decode.next": "decode.next: bits about the next word",
    "decode.current": "decode.current: bits about the word itself, given layer 0",
    "use": "use: what erasing costs, beyond random subspaces",
}


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Judge the sentence on a run of this name; import SmolLM2 where that is what is asked for."""
    environment = os.environ | {"LAB_RUNS": str(folder)}
    lab = [sys.executable, "-m", "app.cli"]
    if name == "smollm2" and not (folder / name).exists():
        subprocess.run([*lab, "import", "smollm2", "--name", name], cwd=ROOT, env=environment, check=True)
    command = ["verify", name, "--text", SEED, "--author", "log", "--json"]
    begin = time.monotonic()
    done = subprocess.run([*lab, *command], cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE)
    seconds = time.monotonic() - begin
    [verdict] = json.loads(done.stdout)
    picture(verdict, HERE / f"verdict_{name}.png")
    found = circumstances("lab", command, os.cpu_count() or 1)
    return found | {"rows": [{"minutes": round(seconds / 60, 1), "verdict": verdict}]}


def picture(verdict: dict[str, Any], file: Path) -> None:
    """Differences of all readings, and the curves of each, in one picture."""
    from playwright.sync_api import sync_playwright

    figures = [("differences", verdict_figures.differences(verdict))]
    figures += [
        (name, verdict_figures.profiles(verdict["readings"][name], verdict["n_layers"]))
        for name in READINGS
        if name in verdict["readings"]
    ]
    drawn = ""
    for name, figure in figures:
        if figure is not None:
            figure.update_layout(template="plotly_white")
            drawn += f"<div><b>{TITLES[name]}</b>{figure_block(figure, name)}</div>"
    page = document("", [f'<div style="display:grid;grid-template-columns:1fr 1fr;gap:8px">{drawn}</div>'])
    html = file.with_suffix(".html")
    html.write_text(page, encoding="utf8")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            tab.goto(html.as_uri())
            tab.wait_for_timeout(3000)
            tab.screenshot(path=str(file), full_page=True)
            browser.close()
    finally:
        html.unlink()


def render(name: str, row: dict[str, Any]) -> str:
    """One model's verdict for README: the sentence, a row a reading, and what was and was not decided."""
    verdict = row["verdict"]
    corpus = verdict["corpus"]
    lines = [
        f"**{verdict['verdict']}** (causal: {verdict['causal']}) on {MODELS[name]}. {verdict['wording']}",
        "",
        "| reading | verdict | Δ depth, B − A | depth A, B | words a side | why |",
        "|---|---|---|---|---|---|",
    ]
    for key in READINGS:
        found = verdict["readings"].get(key)
        if found is None:
            continue
        delta = interval(found["delta"]) if found["delta"] else "–"
        depths = ", ".join(number(s["depth"]["value"]) if s and s["depth"] else "–" for s in (found["a"], found["b"]))
        why = "; ".join(found["reasons"]).replace("|", "\\|")
        lines.append(f"| {key} | {found['verdict']} | {delta} | {depths} | {found['a']['words']:,} | {why} |")
    settings = verdict["readings"].get("use", {}).get("settings", {})
    erased = ""
    if "layers" in settings:
        erased = f"erased at {len(settings['layers'])} layers, {settings['sentences']} sentences, "
        erased += f"{settings['subspaces']} random subspaces; "
    lines += [
        "",
        f"{corpus['sentences']:,} sentences of {corpus['documents']} documents ({corpus['source']}; "
        f"{corpus['removed_as_in_training']} more were left out because training text holds them); {erased}"
        f"echo: {verdict['echo']['text']} Preference: {verdict['preference']['text']} {row['minutes']} minutes.",
        "",
        f"![Differences and curves](tests/figures/verdict_{name}.png)",
    ]
    return "\n".join(lines)
