"""What a run found, for people: Markdown, plots, and the numbers of docs/performance.md."""

from __future__ import annotations

from bench.report.comparison import compared, comparison
from bench.report.docs import write_docs
from bench.report.markdown import report
from bench.report.plots import draw_plots

__all__ = ["compared", "comparison", "draw_plots", "report", "write_docs"]
