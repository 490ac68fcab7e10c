"""A session as ``aigateway session`` tells it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from gateway_process import GatewayProcess, wait_until

__all__ = ["breaks", "kinds", "prompts", "session", "tools", "turns"]


def session(gateway: GatewayProcess, id: str) -> dict[str, Any]:
    """All of it, once its requests have ended and their prompts are compared."""
    sql = "SELECT id FROM interceptions WHERE session_id = ?"
    for row in gateway.rows(sql, id):
        gateway.records(row["id"])
    pending = "SELECT 1 FROM cache_pending"
    wait_until(lambda: not gateway.rows(pending), "all turns are compared")
    done = gateway.command("session", id, "--json", "--local-db", str(gateway.database))
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def turns(agent: dict[str, Any]) -> list[dict[str, Any]]:
    """Without those that only prepare a connection: nothing was asked and nothing said."""
    return [each for each in agent["turns"] if each["thoughts"]]


def prompts(agent: dict[str, Any]) -> list[str]:
    """The first line of each."""
    return [each["text"].splitlines()[0] for each in _prompts(agent)]


def kinds(agent: dict[str, Any]) -> list[str]:
    """Who spoke each."""
    return [each["kind"] for each in _prompts(agent)]


def tools(agent: dict[str, Any]) -> list[str]:
    return [each["tool"] for turn in agent["turns"] for each in turn["tools"]]


def breaks(agent: dict[str, Any]) -> dict[str, str]:
    """Causes of broken caches, by the first line of the prompt of their turn."""
    return {
        "".join(prompts({"turns": [turn]})): turn["cache"]["cause"]
        for turn in agent["turns"]
        if turn["cache"] and turn["cache"]["cause"]
    }


def _prompts(agent: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for turn in agent["turns"]:
        yield from turn["prompts"]
