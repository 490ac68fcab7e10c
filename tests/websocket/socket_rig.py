"""A gateway in front of a provider that has WebSockets, as tests see it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from gateway_process import GatewayProcess, wait_until
from socket_client import Session, open_session
from socket_provider import SocketProvider

__all__ = ["Mine", "Start"]

Start = Callable[..., GatewayProcess]
_users = count(1)


class Mine:
    """A gateway that tests share, as one user sees it, whom no other test has."""

    def __init__(self, gateway: GatewayProcess, sockets: SocketProvider) -> None:
        self.gateway = gateway
        self.sockets = sockets
        self.user = f"user-{next(_users)}"

    @property
    def key(self) -> str:
        return self.gateway.key(self.user)

    def open(self, **more: Any) -> Session:
        return open_session(self.gateway, self.user, **more)

    def rows(self, columns: str, table: str = "") -> list[dict[str, Any]]:
        """Of the user's interceptions, or of a table about these, in order, once all have ended."""
        running = "SELECT 1 FROM interceptions WHERE username = ? AND ended_at IS NULL"
        wait_until(lambda: not self.gateway.rows(running, self.user), "all records are there")
        joined = f"JOIN {table} t ON t.interception_id = i.id" if table else ""
        order = "t.rowid" if table else "i.started_at"
        sql = (
            f"SELECT {columns} FROM interceptions i {joined} WHERE i.username = ? ORDER BY {order}"
        )
        return self.gateway.rows(sql, self.user)
