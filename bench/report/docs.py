"""The numbers of docs/performance.md, rewritten between two markers from a result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.report.markdown import circumstances, findings, verdict
from bench.results import Results

__all__ = ["BEGIN", "END", "write_docs"]

BEGIN = "<!-- numbers: begin (python -m bench report --docs) -->"
END = "<!-- numbers: end -->"


def write_docs(results: Results, page: Path, plots: Sequence[str]) -> None:
    """Replace what is between the markers; ``plots`` are links to pictures.

    Raises ValueError when the markers are not there.
    """
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no lines «{BEGIN}» and «{END}»")
    lines = [*circumstances(results), *verdict(results), *findings(results)]
    if plots:
        lines += ["## Plots", "", *(f"![{Path(link).stem}]({link})\n" for link in plots)]
    # The page has headings of its own above these.
    body = "\n".join(f"#{line}" if line.startswith("## ") else line for line in lines)
    page.write_text(f"{before}{begin}\n\n{body.strip()}\n\n{end}{after}")
