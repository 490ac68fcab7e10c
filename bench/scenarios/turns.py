"""What it costs that a session's cache breaks are told, beside the same gateway without."""

from __future__ import annotations

import contextlib
import sqlite3
import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import attrs

from bench.control_planes import LocalPlane
from bench.load import DriverFailed, Target
from bench.options import Options
from bench.scenarios.base import Column, Outcome, Variant
from bench.scenarios.beside import ANSWER_BYTES, command_of, costs, cpu_of
from bench.scenarios.parts import OfOurs
from bench.stand import Stand
from bench.systems import Running
from bench.upstream import Upstream

__all__ = ["Turns"]

_TOKENS: Final = {"small": 20, "100 KB": 25_000}
_RATES: Final = {"small": 1.0, "100 KB": 0.4}
"""Parts of the rate."""
_SESSIONS: Final = 20
_COMPARED_WITHIN: Final = 60.0
"""Seconds.  The gateway looks every ten or so."""


class Turns(OfOurs):
    name = "turns"
    title = "Requests of sessions"
    about = (
        "Two gateways with one worker each on SQLite get {watched_rate:g} blocking requests of"
        f" {_SESSIONS} sessions per second each (of 100 KB four in ten of that), at the same time."
        " The one makes checksums of their prompts, stores them and compares them, the other one's"
        " database has no key for that. CPU of the whole process tree per request, until the last"
        " record is stored."
    )
    columns = (
        Column("cpu_us_without", "CPU µs/request, without"),
        Column("cpu_us", "CPU µs/request", better="low"),
        Column("times_without", "× without", 2),
        Column("compared_percent", "compared meanwhile, %"),
        Column("later_us", "µs to compare one of the others"),
    )

    def variants(self, options: Options) -> list[Variant]:
        return [Variant(name, number) for number, name in enumerate(_TOKENS)]

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        options = stand.options
        headers = [{"X-AI-Gateway-Session": str(uuid.uuid4())} for _ in range(_SESSIONS)]

        def target(running: Running) -> Target:
            tokens = _TOKENS[variant.name]
            return stand.target(["messages"], tokens=tokens, running=running, headers=headers)

        rate = options.watched_rate * _RATES[variant.name]
        with ExitStack() as exits:
            upstream = exits.enter_context(Upstream(stand.file("")))
            upstream.behave(attrs.evolve(options.behaviour(), answer_bytes=ANSWER_BYTES))
            both = [exits.enter_context(stand.another(upstream.ports)) for _ in range(2)]
            told, untold = both
            _forget_key(stand, untold)
            costs(stand, both, options.warm_up, target, rate)
            before = _turns(told)
            with_it, without = costs(stand, both, options.seconds, target, rate)
            pending, compared = _turns(told)
            if _turns(untold) != (0, 0) or not pending + compared > sum(before):
                raise DriverFailed("checksums were to be in one database and not in the other")
            spent = [cpu_of(each) for each in both]
            _wait_compared(told)
            later, idle = (cpu_of(each) - cpu for each, cpu in zip(both, spent, strict=True))
        return Outcome(
            numbers={
                "cpu_us": with_it * 1e6,
                "cpu_us_without": without * 1e6,
                "times_without": with_it / without,
                "compared_percent": 100
                * (compared - before[1])
                / (pending + compared - sum(before)),
                "later_us": (later - idle) / max(pending, 1) * 1e6,
            }
        )


def _database(running: Running) -> Path:
    plane = running.ledger
    assert isinstance(plane, LocalPlane)
    return Path(plane.environ["CODER_AI_GATEWAY_LOCAL_DB"])


def _forget_key(stand: Stand, running: Running) -> None:
    """Leave the database without what checksums are keyed with: then there are none."""
    file = _database(running)
    with contextlib.closing(sqlite3.connect(file, timeout=30)) as database, database:
        database.execute("UPDATE installation SET value = '' WHERE name = 'prompt_key'")
    # It is read where the database is opened.
    folder = str(file.parent / "run")
    command_of(stand, running, "actors", "--runtime-dir", folder, "restart", "control-plane")


def _wait_compared(running: Running) -> None:
    """Raises DriverFailed."""
    deadline = time.monotonic() + _COMPARED_WITHIN
    while _turns(running)[0]:
        if time.monotonic() > deadline:
            raise DriverFailed("turns were not compared")
        time.sleep(0.5)


def _turns(running: Running) -> tuple[int, int]:
    """How many wait to be compared, and how many have been."""
    with contextlib.closing(sqlite3.connect(_database(running), timeout=30)) as database:
        pending, compared = database.execute(
            "SELECT (SELECT count(*) FROM cache_pending), (SELECT count(*) FROM cache_turns)"
        ).fetchone()
    return pending, compared
