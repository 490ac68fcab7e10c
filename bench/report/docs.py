"""The numbers of docs/performance.md, rewritten between markers from a result.

Coding agents come first and have a place of their own, so that a run of that scenario alone
leaves the others' numbers as they are, and a run without it its.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.report.markdown import circumstances, finding, findings, verdict
from bench.results import Results
from bench.scenarios import all_scenarios

__all__ = ["AGENTS", "BEGIN", "END", "write_docs"]

BEGIN = "<!-- numbers: begin (python -m bench report --docs) -->"
END = "<!-- numbers: end -->"
AGENTS = ("<!-- agents: begin (python -m bench report --docs) -->", "<!-- agents: end -->")
_AGENTS = "agents"


def write_docs(results: Results, page: Path, plots: Sequence[str]) -> None:
    """Replace what is between the markers; ``plots`` are links to pictures.

    Raises ValueError when the markers are not there.
    """
    text = page.read_text()
    own = [link for link in plots if Path(link).stem == _AGENTS]
    head = [*circumstances(results), *verdict(results)]
    for scenario in all_scenarios():
        if scenario.name == _AGENTS and results.variants(_AGENTS):
            # Its title is the page's own.
            lines = [*finding(results, scenario)[2:], *_pictures(own), *head]
            text = _replaced(text, *AGENTS, lines, page)
    if any(m.scenario != _AGENTS for m in results.measurements):
        lines = [*head, *findings(results, without=[_AGENTS])]
        if others := [link for link in plots if link not in own]:
            lines += ["## Plots", "", *_pictures(others)]
        text = _replaced(text, BEGIN, END, lines, page)
    page.write_text(text)


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
