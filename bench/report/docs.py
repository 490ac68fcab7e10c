"""The numbers of docs/performance.md, rewritten between markers from a result.

Some scenarios have a place of their own, so that a run of such a one alone leaves the others'
numbers as they are, and a run without it its.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.report.markdown import circumstances, finding, findings, verdict
from bench.results import Results
from bench.scenarios import all_scenarios

__all__ = ["BEGIN", "END", "OWN", "write_docs"]

BEGIN = "<!-- numbers: begin (python -m bench report --docs) -->"
END = "<!-- numbers: end -->"
OWN = {
    name: (
        f"<!-- {name}: begin (python -m bench report --docs) -->",
        f"<!-- {name}: end -->",
    )
    for name in ("agents", "growth", "soak")
}
"""Markers of the scenarios that have a place of their own, and pictures of that name."""


def write_docs(results: Results, page: Path, plots: Sequence[str]) -> None:
    """Replace what is between the markers; ``plots`` are links to pictures.

    Raises ValueError when the markers are not there.
    """
    text = page.read_text()
    head = [*circumstances(results), *verdict(results)]
    for scenario in all_scenarios():
        if scenario.name in OWN and results.variants(scenario.name):
            own = [link for link in plots if _is_of(link, scenario.name)]
            # Its title is the page's own.
            lines = [*finding(results, scenario)[2:], *_pictures(own), *head]
            text = _replaced(text, *OWN[scenario.name], lines, page)
    if any(m.scenario not in OWN for m in results.measurements):
        lines = [*head, *findings(results, without=tuple(OWN))]
        others = [link for link in plots if not any(_is_of(link, name) for name in OWN)]
        if others:
            lines += ["## Plots", "", *_pictures(others)]
        text = _replaced(text, BEGIN, END, lines, page)
    page.write_text(text)


def _is_of(link: str, scenario: str) -> bool:
    return Path(link).stem.partition("-")[0] == scenario


def _pictures(links: Sequence[str]) -> list[str]:
    return [f"![{Path(link).stem}]({link})\n" for link in links]


def _replaced(text: str, begin: str, end: str, lines: Sequence[str], page: Path) -> str:
    before, first, rest = text.partition(begin)
    _old, last, after = rest.partition(end)
    if not first or not last:
        raise ValueError(f"{page} has no lines «{begin}» and «{end}»")
    # The page has headings of its own above these.
    body = "\n".join(f"#{line}" if line.startswith("## ") else line for line in lines)
    return f"{before}{begin}\n\n{body.strip()}\n\n{end}{after}"
