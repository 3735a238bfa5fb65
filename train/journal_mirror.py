"""The journal as Markdown files, for people with a file browser: one per entry, the records stay the truth.

What the model wrote is shown, never obeyed: inside a code fence longer than any run of backticks in it, with control and
formatting characters (escape sequences, bidirectional overrides) as dots: no link, image, tag or terminal code works.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from lab.durable import replace_file
from lab.records import Entry

_JOINERS = "\u200c\u200d"  # join letters in several scripts; they hide nothing


def write_mirror(folder: Path, number: int, entry: Entry) -> Path:
    """Write `journal/step-<step>-<kind>-<number>.md`."""
    folder.mkdir(exist_ok=True)
    file = folder / f"step-{entry.step:09d}-{entry.kind}-{number}.md"
    replace_file(file, rendered(number, entry).encode())
    return file


def rendered(number: int, entry: Entry) -> str:
    """The file's text."""
    lines = [
        f"# Journal entry {number}, step {entry.step:,}, {entry.kind}",
        "",
        "Generated text, not a measurement. Test its claims with `lab verify`.",
        "",
        f"- weights: `{entry.checkpoint}`",
        f"- seed {entry.seed}, temperature {entry.temperature}",
        "",
        "Prompt:",
        "",
        *fenced(entry.prompt or ""),
        "",
        "Entry:",
        "",
        *fenced(entry.text),
        "",
    ]
    return "\n".join(lines)


def fenced(text: str) -> list[str]:
    """The text as a code block that nothing in it can end."""
    shown = inert(text)
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", *shown.split("\n"), fence]


def inert(text: str) -> str:
    """Control, formatting and unassigned characters as a dot, line breaks and tabs kept."""
    kept = text.replace("\r\n", "\n").replace("\r", "\n")
    hidden = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return "".join(c if c in f"\n\t{_JOINERS}" or unicodedata.category(c) not in hidden else "·" for c in kept)
