"""What a reservation under caps costs, beside the same gateway with a policy without caps."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import Final

import attrs

from bench.load import DriverFailed
from bench.options import Options
from bench.payloads import MODELS
from bench.scenarios.base import Column, Outcome, Variant
from bench.scenarios.beside import ANSWER_BYTES, command_of, costs
from bench.scenarios.parts import OfOurs
from bench.stand import Stand
from bench.systems import Running
from bench.upstream import Upstream

__all__ = ["Caps"]

_POLICIES: Final = {
    "1 cap": "everybody: {caps: [{usd: 900000000, every: month}]}",
    "3 caps": (
        "everybody: {caps: [{usd: 900000000, every: month}, {usd: 900000000, every: day},"
        " {usd: 900000000, every: month, per: key}]}"
    ),
}
_COUNTS: Final = {"1 cap": 1, "3 caps": 3}
_WITHOUT: Final = "everybody: {unpriced: refuse}"
_LIVE: Final = 6.0
"""Seconds after which every gateway follows a policy."""


class Caps(OfOurs):
    name = "caps"
    title = "Reservations under caps"
    about = (
        "Two gateways with one worker each on SQLite get {watched_rate:g} small blocking requests"
        " per second each, at the same time; the one has a policy with caps that are far away, the"
        " other one a policy without. CPU of the whole process tree per request, until the last"
        " record is stored."
    )
    columns = (
        Column("cpu_us_without", "CPU µs/request, without caps"),
        Column("cpu_us", "CPU µs/request", better="low"),
        Column("times_without", "× without", 2),
    )

    def variants(self, options: Options) -> list[Variant]:
        return [Variant(name, number) for number, name in enumerate(_POLICIES)]

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        options = stand.options
        with ExitStack() as exits:
            upstream = exits.enter_context(Upstream(stand.file("")))
            upstream.behave(attrs.evolve(options.behaviour(), answer_bytes=ANSWER_BYTES))
            prices = stand.file("prices.yaml")
            prices.write_text(f"models: [{{model: {MODELS['chat']}, input: 0.1, output: 0.4}}]")
            priced = ("--prices", str(prices))
            both = [
                exits.enter_context(stand.another(upstream.ports, options=priced)) for _ in range(2)
            ]
            for running, policy in zip(both, (_POLICIES[variant.name], _WITHOUT), strict=True):
                _apply(stand, running, policy)
            time.sleep(_LIVE)
            costs(stand, both, options.warm_up)
            capped, without = costs(stand, both, options.seconds)
            for running, caps in zip(both, (_COUNTS[variant.name], 0), strict=True):
                _check(stand, running, caps)
        return Outcome(
            numbers={
                "cpu_us": capped * 1e6,
                "cpu_us_without": without * 1e6,
                "times_without": capped / without,
            }
        )


def _apply(stand: Stand, running: Running, policy: str) -> None:
    """Raises DriverFailed."""
    file = stand.file("policy.yaml")
    file.write_text(policy)
    command_of(stand, running, "policy", "apply", str(file), "--yes")


def _check(stand: Stand, running: Running, caps: int) -> None:
    """That so many caps were asked for, and nothing stays reserved.  Raises DriverFailed."""
    shown = json.loads(command_of(stand, running, "caps", "--json"))
    spent = [each for each in shown if each["spent_nano_usd"] and not each["reserved_nano_usd"]]
    if not len(shown) == len(spent) == caps:
        raise DriverFailed(f"{caps} caps were to be spent from, and these were: {shown}")
