"""Write the table of metrics in ``docs/operate.md`` from the series themselves.

``python -m aigateway.http.metrics.reference docs/operate.md``
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry

from aigateway.http.metrics.processes import BUILD, PROCESS_SERIES
from aigateway.http.metrics.reasons import REASONS
from aigateway.http.metrics.series import Description, Series

__all__ = ["BEGIN", "END", "main", "reasons", "table", "with_table", "written_between"]

BEGIN = "<!-- metrics: written by `python -m aigateway.http.metrics.reference docs/operate.md` -->"
END = "<!-- metrics end -->"
_REFUSED = "Why the gateway itself refuses requests; the log line `request` has the same `reason`:"
_FLAG = re.compile(r"--[a-z][a-z-]*")
_CODE = r"`\g<0>`"


def table() -> str:
    """A line for each series: name, kind, labels, meaning, estimate."""
    series = Series(CollectorRegistry()).descriptions
    return "\n".join(_lines([*series, BUILD, *PROCESS_SERIES])) + "\n"


def reasons() -> str:
    """A line for each reason for which requests are refused."""
    lines = ["| reason | |", "|---|---|"]
    for reason, rule in REASONS.items():
        lines.append(f"| `{reason}` | {_FLAG.sub(_CODE, rule)} |")
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    """``page`` with the table between its two markers.  Raises ValueError without them."""
    return written_between(BEGIN, END, page, f"{table()}\n{_REFUSED}\n\n{reasons()}")


def written_between(begin: str, end: str, page: str, text: str) -> str:
    """The page with ``text`` in the place of all that is between two of its lines.

    Raises ValueError when it does not have them.
    """
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"the page has no line {begin!r} followed by {end!r}")
    return f"{before}{begin}\n\n{text}\n{end}{after}"


def _lines(descriptions: list[Description]) -> Iterator[str]:
    yield "| series | labels | | at most |"
    yield "|---|---|---|---|"
    for one in descriptions:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        yield f"| `{one.name}` ({one.kind}) | {labels} | {one.text} | {_estimate(one)} |"
    total = sum(one.estimate for one in descriptions)
    yield f"| all together | | | {total:,} |"


def _estimate(one: Description) -> str:
    if not one.factors:
        return "1"
    factors = " × ".join(f"{count:,} {what}" for count, what in one.factors)
    return factors if len(one.factors) == 1 else f"{factors} = {one.estimate:,}"


def main(path: str) -> None:
    """Bring the page at ``path`` up to date."""
    page = Path(path)
    page.write_text(with_table(page.read_text()))


if __name__ == "__main__":
    main(sys.argv[1])
