"""What the user sees: how to call the gateway, and what it recorded."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aigateway.http.demo.interrupts import Interrupts
from aigateway.http.demo.records import Recorded, RecordReader
from aigateway.http.demo.smoke import Result, open_with, run_cases
from aigateway.http.demo.stage import Stage

__all__ = ["instructions", "show_live", "show_once"]

_POLL = 0.2  # seconds between two looks into the database
_ROOMY = 110  # columns of a terminal that has room for all cells
_TOKENS = ("in", "read", "write", "out")
_CELLS = (
    "time",
    "user",
    "client",
    "provider",
    "model",
    "prompt",
    *_TOKENS,
    "tools",
    "status",
)
_NARROW = ("time", "client", "prompt", *_TOKENS, "tools", "status")
"""The cells for which a terminal of 80 columns has room."""
_NUMBERS = (*_TOKENS, "thoughts")
_LEAST_WIDE = {"time": 8, "prompt": 12, "tools": 8, "status": 7}
_MOST_WIDE = {"client": 12, "model": 16, "tools": 20, "status": 24}
_NARROW_ONCE = {"prompt": 14, "in": 5, "read": 5, "write": 5, "out": 5, "tools": 12, "verdict": 7}
"""The cells of the smoke test beside its requests, and how wide they may be; the requests, of
which each is to be read whole, are wrapped."""
_WIDE_ONCE = {
    "client": 11,
    "prompt": 24,
    "in": 5,
    "read": 5,
    "write": 5,
    "out": 5,
    "thoughts": 8,
    "tools": 18,
    "verdict": 7,
}
_LEGEND = "Tokens: in, read from a cache, written into it, out."
_MOST = 200  # lines that are looked at in one go when nothing limits them


def instructions(stage: Stage) -> str:
    """Lines to paste into another terminal."""
    url, key = stage.gateway.url, stage.user_key
    body = '{"model":"%s","stream":true,%s"messages":[{"role":"user","content":"Hello!"}]}'
    codex = f'model_providers.demo={{name="demo",base_url="{url}/openai/v1",env_key="DEMO_KEY"}}'
    return f"""\
{_console_line(stage)}

# Claude, streamed:
curl -N {url}/anthropic/v1/messages -H 'x-api-key: {key}' \\
  -H 'anthropic-version: 2023-06-01' -H 'content-type: application/json' \\
  -d '{body % ("claude-imitation-large", '"max_tokens":500,')}'

# OpenAI, streamed:
curl -N {url}/openai/v1/chat/completions -H 'authorization: Bearer {key}' \\
  -H 'content-type: application/json' \\
  -d '{body % ("gpt-imitation-large", "")}'

# Claude Code:
ANTHROPIC_BASE_URL={url}/anthropic ANTHROPIC_AUTH_TOKEN={key} claude

# Codex:
DEMO_KEY={key} codex -c model_provider=demo -c '{codex}'

# Gemini CLI:
GOOGLE_GEMINI_BASE_URL={url}/gemini GEMINI_API_KEY={key} gemini

# Anything made with the SDKs of Anthropic, Google or OpenAI:
ANTHROPIC_BASE_URL={url}/anthropic ANTHROPIC_API_KEY={key} your-program
GOOGLE_GEMINI_BASE_URL={url}/gemini GEMINI_API_KEY={key} your-program
OPENAI_BASE_URL={url}/openai/v1 OPENAI_API_KEY={key} your-program

# Who used what:
aigateway usage --local-db {stage.gateway.database}
"""


def _console_line(stage: Stage) -> str:
    if stage.console_link:
        return f"# The console, in a browser; the link works once:\n{stage.console_link}"
    return "# The console needs its extra: pip install 'aigateway[console]'"


def show_live(stage: Stage, interrupts: Interrupts) -> bool:
    """Show each interception as it comes, until a signal to end.

    A few requests are sent at the start, so that there is something to see.  On a terminal a
    table is kept up to date; else there is one line for each that has ended.
    Returns True.  Raises DemoFailed when the gateway ends by itself.
    """
    console = _console()
    console.print(instructions(stage), soft_wrap=True)
    console.print(f"What is recorded shows up here. Ctrl-C ends it.\n{_LEGEND}\n", soft_wrap=True)
    # A daemon: a request that hangs must not keep the demonstration from ending.
    sender = threading.Thread(target=open_with, args=(stage, interrupts.given_up), daemon=True)
    sender.start()
    if console.is_terminal:
        _keep_table(stage, interrupts, console)
    else:
        _print_lines(stage, interrupts, console)
    console.print("\nStopping.")
    return True


def show_once(stage: Stage, interrupts: Interrupts) -> bool:
    """Run the smoke test and show how it went; say whether all of it is right."""
    console = _console()
    began = time.monotonic()
    table = _new_table()
    wide = _WIDE_ONCE if console.width >= _ROOMY else _NARROW_ONCE
    table.add_column("request", min_width=16)
    for name, most in wide.items():
        _add_column(table, name, most_wide=most if console.is_terminal else None)
    results = list(run_cases(stage, interrupts.given_up))
    for result in results:
        cells = _result_cells(result)
        table.add_row(*(cells.get(name, "") for name in ("request", *wide)))
    console.print(table)
    console.print(_LEGEND, soft_wrap=True)
    for result in results:
        for problem in result.problems:
            console.print(f"{result.title}: {problem}", soft_wrap=True)
    if interrupts.stopped:
        console.print("Interrupted.")
        return False
    if any(result.problems for result in results):
        console.print(f"The gateway's log ends with:\n{stage.gateway.last_words()}", soft_wrap=True)
    wrong = sum(bool(result.problems) for result in results)
    verdict = f"{wrong} of {len(results)} went wrong" if wrong else f"All {len(results)} are right"
    console.print(f"{verdict}, after {time.monotonic() - began:.1f} s.")
    return not wrong


def _console() -> Console:
    # Nobody sees the width of what is no terminal, so nothing is cut there.
    width = None if sys.stdout.isatty() else 200
    return Console(width=width, markup=False, highlight=False, emoji=False)


def _result_cells(result: Result) -> dict[str, str | Text]:
    good = not result.problems
    cells: dict[str, str | Text] = {
        "request": result.title,
        "verdict": Text("ok" if good else "wrong", style="green" if good else "red"),
    }
    if (recorded := result.recorded) is not None:
        told = _texts(recorded)
        cells |= {name: told[name] for name in ("client", "prompt", *_TOKENS, "tools")}
        cells["thoughts"] = str(len(recorded.thoughts) or "")
    return cells


def _keep_table(stage: Stage, interrupts: Interrupts, console: Console) -> None:
    def table() -> Table:
        # Room for the head of the table and the prompt below it.
        fitting = max(console.height - 6, 3)
        return _table(_oldest_first(stage.records, fitting), console.width)

    with Live(table(), console=console, auto_refresh=False, transient=False) as live:
        while not interrupts.wait(_POLL):
            stage.gateway.check()
            if stage.records.changed():
                live.update(table(), refresh=True)


def _oldest_first(records: RecordReader, limit: int) -> list[Recorded]:
    """The newest, the oldest of them first."""
    return records.newest(limit)[::-1]


def _print_lines(stage: Stage, interrupts: Interrupts, console: Console) -> None:
    shown: set[str] = set()
    while not interrupts.wait(_POLL):
        stage.gateway.check()
        if not stage.records.changed():
            continue
        for record in _oldest_first(stage.records, _MOST):
            if record.ended_at is not None and record.id not in shown:
                shown.add(record.id)
                console.print("  ".join(_texts(record).values()), soft_wrap=True)


def _new_table() -> Table:
    return Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")


def _add_column(table: Table, name: str, *, most_wide: int | None, grows: bool = False) -> None:
    table.add_column(
        name,
        no_wrap=True,
        overflow="ellipsis",
        justify="right" if name in _NUMBERS else "left",
        min_width=_LEAST_WIDE.get(name, len(name)),
        max_width=most_wide,
        ratio=1 if grows else None,
    )


def _table(records: list[Recorded], width: int) -> Table:
    table = _new_table()
    table.expand = True
    roomy = width >= _ROOMY
    names = _CELLS if roomy else _NARROW
    for name in names:
        most = _MOST_WIDE.get(name, width)
        _add_column(table, name, most_wide=most if roomy else min(most, 12), grows=name == "prompt")
    for record in records:
        cells = {name: Text(text) for name, text in _texts(record).items()}
        colour = "yellow" if record.ended_at is None else "red" if record.error else "green"
        cells["status"].stylize(colour)
        table.add_row(*(cells[name] for name in names))
    return table


def _texts(record: Recorded) -> dict[str, str]:
    """What the cells of an interception say, fit for a terminal."""
    moment = datetime.fromisoformat(record.started_at).astimezone()
    usage = record.usage
    texts = {
        "time": f"{moment:%H:%M:%S}",
        "user": record.username,
        "client": record.client,
        "provider": record.provider,
        "model": record.model,
        "prompt": record.prompts[-1] if record.prompts else "",
        "in": str(usage.input),
        "read": str(usage.cache_read),
        "write": str(usage.cache_write),
        "out": str(usage.output),
        "tools": ", ".join(_counted(call.tool for call in record.tools)),
        "status": "running" if record.ended_at is None else record.error or "done",
    }
    return {name: _one_line(text) for name, text in texts.items()}


def _counted(names: Iterable[str]) -> Iterator[str]:
    for name, times in Counter(names).items():
        yield f"{name} ×{times}" if times > 1 else name


def _one_line(text: str) -> str:
    """Text without line breaks and without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:200])
