"""What a run found: numbers, sentences, and whether all of it is as documented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen

from bench.chaos.ledger import Balance

__all__ = ["Result"]

_SHOWN = 20
"""Sentences of one kind that the text has; the JSON has all."""


@frozen(kw_only=True)
class Result:
    """One run."""

    seed: int
    control_plane: str
    worker_class: str
    workers: int
    seconds: float
    """Of load."""
    faults: dict[str, int]
    """How often each kind was done."""
    skipped: dict[str, str]
    """Kinds that could not be done here, and why."""
    outcomes: dict[str, int]
    """Requests by how they ended."""
    statuses: dict[str, int]
    """Of those that were refused."""
    provider: dict[str, int]
    """Requests that reached the provider by what it did to them."""
    stored: dict[str, int]
    """Records by kind."""
    permitted: int
    """Usage records that may be doubled."""
    balance: Balance
    leaks: list[str]
    exits: list[str]
    """Codes and last words of main processes that nobody killed; they are started again."""
    stop_code: int
    """How the last one ended when it was told to."""
    settle_seconds: float
    notes: list[str] = field(factory=list)
    revision: str = ""
    began: str = ""
    interrupted: bool = False

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong but what is documented."""
        return self.balance.clean and not self.leaks and not self.exits and not self.stop_code

    def save(self, folder: Path) -> None:
        """Write ``chaos.json`` and ``report.txt``."""
        data: dict[str, Any] = attrs.asdict(self)
        data["clean"] = self.clean
        (folder / "chaos.json").write_text(json.dumps(data, indent=1) + "\n")
        (folder / "report.txt").write_text(self.text())

    def text(self) -> str:
        """For people."""
        found = self.balance
        requests = sum(self.outcomes.values())
        lines = [
            f"chaos: seed {self.seed}, {self.control_plane}, {self.worker_class},"
            f" {self.workers} workers, {self.seconds:.0f} s of load, revision {self.revision}",
            f"{requests} requests: {_counted(self.outcomes)}",
            f"  refused with: {_counted(self.statuses)}",
            f"  the provider: {_counted(self.provider)}",
            f"{sum(self.faults.values())} faults: {_counted(self.faults)}",
            *(f"  left out: {kind}: {why}" for kind, why in self.skipped.items()),
            f"{sum(self.stored.values())} records: {_counted(self.stored)};"
            f" all there {self.settle_seconds:.1f} s after the load",
            f"lost {len(found.lost)}, another's {len(found.wrong)},"
            f" doubled {len(found.doubled)} (up to {self.permitted} are documented),"
            f" hung {len(found.hung)}, leaked {len(self.leaks)}",
        ]
        for title, sentences in (
            ("lost", found.lost),
            ("another's", found.wrong),
            ("doubled", found.doubled),
            ("undocumented", found.undocumented),
            ("hung", found.hung),
            ("leaked", self.leaks),
            ("note", self.notes),
        ):
            lines += [f"  {title}: {sentence}" for sentence in sentences[:_SHOWN]]
            more = len(sentences) - _SHOWN
            lines += [f"  {title}: and {more} more"] if more > 0 else []
        lines += [f"  a main process ended by itself with {words}" for words in self.exits]
        if self.stop_code:
            lines.append(f"  told to stop, the gateway ended with {self.stop_code}")
        lines.append("nothing is wrong" if self.clean else "SOMETHING IS WRONG")
        return "\n".join(lines) + "\n"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {what}" for what, number in counts.items() if number) or "none"
