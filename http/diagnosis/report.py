"""A snapshot as text that a person reads from top to bottom.

Works on the snapshot's JSON form, which is what comes through a worker's socket.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aigateway.http.settings.printable import printable

__all__ = ["as_text"]

_SHOWN_ROLES = 6
"""Of those that are at the same place."""


def as_text(snapshot: Mapping[str, Any]) -> str:
    """Several lines, without a newline at the end."""
    return "\n".join(printable(line).rstrip() for line in _lines(snapshot))


def _lines(seen: Mapping[str, Any]) -> Iterator[str]:
    actors = _alike(seen["actors"])
    yield (
        f"worker {seen['pid']} ({seen['server']}), running for {_time(seen['seconds'])}:"
        f" {_count(len(seen['actors']), 'actor')}, {_count(seen['requests'], 'request')},"
        f" {seen['executing']} threads and greenlets"
    )
    yield ""
    head = ("actor", "state", "inbox", "restarts", "stack", "last error")
    yield from _table([head, *(_actor(group) for group in actors)])
    if seen["requests"]:
        yield ""
        yield from _requests(seen)
    for number, stack in enumerate(seen["stacks"]):
        yield ""
        yield f"stack {number}: {'; '.join(_who(seen, number))}"
        yield from (f"    {line}" for line in stack)
    if seen["left_out"]:
        yield ""
        yield f"{seen['left_out']} more threads and greenlets have still other stacks"


def _alike(actors: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Workers of one provider that all do the same are one line: there may be thousands."""
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for line in actors:
        key = line["role"]
        if "/worker-" in key and not line["inbox"]:
            key = (key.rpartition("/")[0], line["state"], line["message"], line["stack"])
        groups.setdefault(key, []).append(line)
    return list(groups.values())


def _actor(group: list[Mapping[str, Any]]) -> tuple[str, ...]:
    first = group[0]
    name, state = first["role"], first["state"]
    if len(group) > 1:
        name = f"{name} and {len(group) - 1} like it"
    if first["message"]:
        longest = max(line["seconds"] for line in group)
        state = f"{state}: {first['message']}, for {_time(longest)}"
    return (
        name,
        state,
        str(first["inbox"]),
        str(first["restarts"]),
        "" if first["stack"] is None else str(first["stack"]),
        first["last_error"],
    )


def _requests(seen: Mapping[str, Any]) -> Iterator[str]:
    stages = ", ".join(f"{stage} {count}" for stage, count in seen["stages"].items())
    yield f"requests by stage: {stages}; the oldest:"
    head = ("since", "stage", "request", "provider", "model", "request_id", "interception_id")
    rows = [
        (
            _time(line["seconds"]),
            line["stage"],
            f"{line['method']} {line['path']}",
            line["provider"],
            line["model"],
            line["request_id"],
            line["interception_id"],
        )
        for line in seen["oldest"]
    ]
    yield from _table([head, *rows])


def _who(seen: Mapping[str, Any], number: int) -> Iterator[str]:
    """Who is at this place."""
    roles = [line["role"] for line in seen["actors"] if line["stack"] == number]
    if roles:
        more = len(roles) - _SHOWN_ROLES
        shown = ", ".join(roles[:_SHOWN_ROLES])
        yield f"{shown} and {more} more" if more > 0 else shown
    for line in seen["others"]:
        if line["stack"] == number:
            names = f" ({', '.join(line['names'])})" if line["names"] else ""
            yield _count(line["count"], line["kind"]) + names


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _time(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds < 10 else f"{seconds:.0f} s"
