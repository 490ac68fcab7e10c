"""What a support archive is made of, piece by piece; each comes from somewhere else.

A source that cannot be had says so in its own file: an archive from a broken gateway is
what the command is for.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sqlite3
import stat
import sys
import time
from importlib import metadata
from pathlib import Path

from aigateway.actors.values.records import RECORD_LINE
from aigateway.http.cli.actors import traces_as_text
from aigateway.http.cli.check import Report, report_as_json, report_as_lines
from aigateway.http.diagnosis.workers import NoGateway, ask_all, traces
from aigateway.http.settings import Settings
from aigateway.http.settings.addresses import reachable

__all__ = ["actors", "environment", "log_tails", "metrics", "settings_files", "spools", "trace"]

LONGEST_TAIL = 16 << 20
"""Bytes of a log file that are looked at, at most, for its last lines."""
BLOCK = 1 << 16
SCRAPE_TIMEOUT = 5.0
"""Seconds."""


def settings_files(report: Report) -> dict[str, str]:
    """The effective settings, masked, as ``aigateway check`` shows them."""
    return {
        "settings.txt": "\n".join(report_as_lines(report, changed=False)) + "\n",
        "settings.json": _json(report_as_json(report, changed=False)),
    }


def environment() -> str:
    """Versions of Python, the system and every installed package."""
    packages = {str(found.metadata["Name"]): found.version for found in metadata.distributions()}
    return _json(
        {
            "python": sys.version,
            "implementation": platform.python_implementation(),
            "system": platform.platform(),
            "cpus": os.cpu_count(),
            "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
        }
    )


def actors(settings: Settings) -> str:
    """What every worker of a running gateway says about its actors."""
    try:
        found = list(ask_all(Path(settings.runtime_dir), {"command": "list"}, None))
    except NoGateway as ex:
        return _json({"error": str(ex)})
    return _json([{"pid": pid, **answer} for pid, answer in found])


def trace(settings: Settings) -> str:
    """What every worker of a running gateway does at this moment."""
    try:
        return traces_as_text(traces(Path(settings.runtime_dir))) + "\n"
    except NoGateway as ex:
        return f"{ex}\n"


def metrics(settings: Settings) -> str:
    """What Prometheus would get."""
    if not settings.prometheus_enable:
        return "# not enabled: --prometheus-enable\n"
    address = reachable(settings.prometheus_address)
    # Not at the top: it is slow to import.
    import requests

    from aigateway.actors.upstream.adapter import PlainSession

    # A proxy of the environment is for other machines.
    with PlainSession() as session:
        try:
            answer = session.get(f"http://{address}/metrics", timeout=SCRAPE_TIMEOUT)
        except requests.RequestException as ex:
            return f"# no answer from {address}: {type(ex).__name__}\n"
    return answer.text


def spools(settings: Settings) -> str:
    """How much waits in each file of the state folder; nothing of what waits."""
    folder = Path(settings.state_dir).expanduser()
    return _json({path.name: _spool(path) for path in sorted(folder.glob("spool-*.sqlite"))})


def _spool(path: Path) -> dict[str, object]:
    with contextlib.suppress(OSError):
        found: dict[str, object] = {"bytes": path.stat().st_size}
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)
        ) as database:
            depth, dead = database.execute("SELECT depth, dead_letters FROM totals").fetchone()
            (oldest,) = database.execute(
                "SELECT min(made_at) FROM (SELECT made_at FROM parcels"
                " UNION ALL SELECT made_at FROM held)"
            ).fetchone()
            found["records"] = depth
            found["oldest_seconds"] = None if oldest is None else round(time.time() - oldest)
            found["refused_interceptions"] = database.execute(
                "SELECT count(*) FROM refusals"
            ).fetchone()[0]
            found["dead_letters"] = dead
            rows = database.execute(
                "SELECT kind, count(*), max(attempts) FROM dead_letters GROUP BY kind"
            )
            found["dead_letters_by_kind"] = {
                kind: {"count": count, "most_attempts": attempts} for kind, count, attempts in rows
            }
    except sqlite3.Error as ex:
        found["error"] = str(ex)
    return found


def log_tails(settings: Settings, lines: int) -> dict[str, str]:
    """The last lines of each log file that is one."""
    tails = {}
    for form in ("human", "json", "stackdriver"):
        path = getattr(settings, f"log_{form}")
        if path:
            tails[f"logs/{form}.log"] = _tail(path, lines)
    return tails


def _tail(path: str, lines: int) -> str:
    try:
        # Opening a pipe or a terminal would wait, or take what others are to read.
        if not stat.S_ISREG(os.stat(path).st_mode) or path.startswith("/dev/"):
            return f"{path} is no file: look where it leads to\n"
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            data = b""
            while end > 0 and data.count(b"\n") <= lines and len(data) < LONGEST_TAIL:
                size = min(BLOCK, end)
                end = file.seek(end - size)
                data = file.read(size) + data
    except OSError as ex:
        return f"cannot read {path}: {ex.strerror}\n"
    text = data.decode("utf-8", "replace")
    # Lines that are records hold prompts.
    kept = [line for line in text.splitlines(keepends=True) if RECORD_LINE not in line]
    return "".join(kept[-lines:]) if lines else ""


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
