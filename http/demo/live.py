"""What the user sees: how to call the gateway, and what it recorded."""

from __future__ import annotations

import sys
import time
from datetime import datetime

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aigateway.http.demo.interrupts import Interrupts
from aigateway.http.demo.records import Recorded, RecordReader
from aigateway.http.demo.smoke import Result, run_cases
from aigateway.http.demo.stage import Stage

__all__ = ["instructions", "show_live", "show_once"]

_POLL = 0.2  # seconds between two looks into the database
_ROOMY = 110  # columns of a terminal that has room for all cells
_CELLS = (
    "time",
    "user",
    "client",
    "provider",
    "model",
    "prompt",
    "in",
    "out",
    "tools",
    "status",
)
_NUMBERS = ("in", "out", "tools", "thoughts")
_LEAST_WIDE = {"time": 8, "prompt": 12, "status": 7}
_MOST_WIDE = {"model": 24, "tools": 20, "status": 24}
_MOST = 200  # lines that are looked at in one go when nothing limits them


def instructions(stage: Stage) -> str:
    """Lines to paste into another terminal."""
    url, key = stage.gateway.url, stage.user_key
    body = '{"model":"%s","stream":true,%s"messages":[{"role":"user","content":"Hello!"}]}'
    codex = f'model_providers.demo={{name="demo",base_url="{url}/openai/v1",env_key="DEMO_KEY"}}'
    return f"""\
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

# Anything made with the SDKs of Anthropic or OpenAI:
ANTHROPIC_BASE_URL={url}/anthropic ANTHROPIC_API_KEY={key} your-program
OPENAI_BASE_URL={url}/openai/v1 OPENAI_API_KEY={key} your-program

# Who used what:
aigateway usage --local-db {stage.gateway.database}
"""


def show_live(stage: Stage, interrupts: Interrupts) -> bool:
    """Show each interception as it comes, until a signal to end.

    On a terminal a table is kept up to date; else there is one line for each that has ended.
    Returns True.  Raises DemoFailed when the gateway ends by itself.
    """
    console = _console()
    console.print(instructions(stage), soft_wrap=True)
    console.print("What is recorded shows up here. Ctrl-C ends it.\n")
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
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("request")
    for name in ("status", "client", "in", "out", "tools", "thoughts", "verdict"):
        # On a narrow terminal the first column is wrapped and all others stay whole.
        table.add_column(name, no_wrap=True, justify="right" if name in _NUMBERS else "left")
    results = list(run_cases(stage, interrupts.given_up))
    for result in results:
        table.add_row(*_result_cells(result))
    console.print(table)
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


def _result_cells(result: Result) -> list[str]:
    verdict = "wrong" if result.problems else "ok"
    recorded = result.recorded
    if recorded is None:
        return [result.title, str(result.status or ""), "", "", "", "", "", verdict]
    return [
        result.title,
        str(result.status),
        recorded.client,
        str(_input(recorded)),
        str(recorded.usage.output),
        str(len(recorded.tools) or ""),
        str(len(recorded.thoughts) or ""),
        verdict,
    ]


def _input(recorded: Recorded) -> int:
    """All input tokens: those that were read, from the cache and into the cache."""
    return recorded.usage.input + recorded.usage.cache_read + recorded.usage.cache_write


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
                console.print("  ".join(_cells(record).values()), soft_wrap=True)


def _table(records: list[Recorded], width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    roomy = width >= _ROOMY
    cells = [cell for cell in _CELLS if roomy or cell not in ("user", "provider")]
    for name in cells:
        table.add_column(
            name,
            no_wrap=True,
            overflow="ellipsis",
            justify="right" if name in _NUMBERS else "left",
            min_width=_LEAST_WIDE.get(name, 4),
            max_width=_MOST_WIDE.get(name, width) // (1 if roomy else 2),
            ratio=1 if name == "prompt" else None,
        )
    for record in records:
        texts = {name: Text(text) for name, text in _cells(record).items()}
        colour = "yellow" if record.ended_at is None else "red" if record.error else "green"
        texts["status"].stylize(colour)
        table.add_row(*(texts[name] for name in cells))
    return table


def _cells(record: Recorded) -> dict[str, str]:
    moment = datetime.fromisoformat(record.started_at).astimezone()
    status = "running" if record.ended_at is None else record.error or "done"
    texts = (
        f"{moment:%H:%M:%S}",
        record.username,
        record.client,
        record.provider,
        record.model,
        record.prompts[-1] if record.prompts else "",
        str(_input(record)),
        str(record.usage.output),
        ", ".join(call.tool for call in record.tools),
        status,
    )
    return dict(zip(_CELLS, map(_one_line, texts), strict=True))


def _one_line(text: str) -> str:
    """Text without line breaks and without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:200])
