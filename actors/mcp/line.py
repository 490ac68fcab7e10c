"""The way to one MCP server: HTTP exchanges, each with a deadline of its own.

A :class:`Line` is used by several threads at once, each with an exchange of its own; what
they share is a deque of idle connections, whose operations are atomic.  Anyone may cut an
exchange through its :class:`Cutter`.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

from aigateway.actors.mcp.answers import AnswerReader, Notice
from aigateway.actors.mcp.errors import DeadlinePassed, HttpRefused, McpError, Unreachable
from aigateway.actors.mcp.protocol import Outgoing
from aigateway.actors.upstream.adapter import HeaderPairs, UpstreamAdapter, prepare
from aigateway.actors.upstream.connect import Connector
from aigateway.actors.upstream.errors import (
    AnswerTimeout,
    ConnectTimeout,
    Quiet,
    UpstreamCut,
    UpstreamError,
)
from aigateway.actors.upstream.exchange import Exchange

__all__ = ["Cutter", "Line", "checked_url"]

KEEP_IDLE = 4.0
"""Seconds that a connection is kept for the next call: Node's servers close theirs after 5."""
STREAM_QUIET = 900.0
"""Longest silence of a stream that has no deadline; then it is opened again."""
_STREAM_HEAD = 30.0
"""Seconds to wait for such a stream to begin."""
_TAIL_WAIT = 0.05
"""Seconds to wait for the end of a stream after its answer, to use the connection again."""
_REDIRECTS = 3
"""How often one request is sent on to another path."""
_TOO_LATE = "the server did not answer in time"


def checked_url(url: str) -> str:
    """Return ``url`` if it can be an MCP server's address.  Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("its address must start with http:// or https:// and name a host")
    _ = parts.port
    if not url.isascii() or any(not "!" <= char <= "~" for char in url):
        raise ValueError("its address holds a character that must be percent-encoded")
    return url


class Cutter:
    """Cuts one exchange from outside, now or as soon as it is under way."""

    def __init__(self) -> None:
        self.is_cut = False
        self._adapter: UpstreamAdapter | None = None

    def cut(self) -> None:
        """Break the connection; who waits on it gets an error at once."""
        self.is_cut = True
        adapter = self._adapter
        connection = adapter.connection if adapter is not None else None
        if connection is not None:
            connection.shut()

    def hold(self, adapter: UpstreamAdapter | None) -> None:
        self._adapter = adapter


def _ignore(_notice: Notice) -> None:
    pass


class Line:
    """Exchanges with the server at ``url``, with its bearer token."""

    def __init__(self, url: str, token: str, *, connector: Connector, user_agent: str) -> None:
        """Raises McpError for a token that no header can carry."""
        self.url = url
        self._connector = connector
        self._headers = [("User-Agent", user_agent), ("Accept-Encoding", "identity")]
        if token:
            if not token.isascii() or not token.isprintable():
                raise McpError("the token holds characters that no header can carry")
            self._headers.append(("Authorization", f"Bearer {token}"))
        self._idle: deque[tuple[float, UpstreamAdapter]] = deque()
        self._closed = False

    def perform(
        self,
        outgoing: Outgoing,
        reader: AnswerReader,
        deadline: float | None,
        *,
        on_notice: Callable[[Notice], None] = _ignore,
        cutter: Cutter | None = None,
    ) -> None:
        """Send and let ``reader`` read, until it has what it waits for.

        ``deadline`` is monotonic time; None: only silence ends the stream.  Raises
        DeadlinePassed, Unreachable, or HttpRefused for a redirection elsewhere; everything
        else is for ``reader.result()``.
        """
        cutter = cutter or Cutter()
        url = self.url
        for _ in range(_REDIRECTS + 1):
            adapter = self._take_adapter()
            cutter.hold(adapter)
            try:
                target = self._exchange(adapter, url, outgoing, reader, deadline, on_notice, cutter)
            except BaseException:
                adapter.close()
                raise
            finally:
                cutter.hold(None)
            if target is None:
                return
            url = target
        raise HttpRefused(f"the server redirected more than {_REDIRECTS} times", 307)

    def close_idle(self, older_than: float = 0.0) -> float | None:
        """Close connections that were idle for so long; say when to look again, if at all."""
        now = time.monotonic()
        while self._idle:
            try:
                since, adapter = self._idle.popleft()
            except IndexError:
                break
            if now - since < older_than:
                self._idle.appendleft((since, adapter))
                return since + older_than
            adapter.close()
        return None

    def close(self) -> None:
        """Keep no idle connections any more.  Exchanges under way go on."""
        self._closed = True
        self.close_idle()

    # -- one exchange

    def _take_adapter(self) -> UpstreamAdapter:
        now = time.monotonic()
        while self._idle:
            with contextlib.suppress(IndexError):
                since, adapter = self._idle.pop()
                if now - since < KEEP_IDLE:
                    return adapter
                adapter.close()
        return UpstreamAdapter(self._connector)

    def _exchange(
        self,
        adapter: UpstreamAdapter,
        url: str,
        outgoing: Outgoing,
        reader: AnswerReader,
        deadline: float | None,
        on_notice: Callable[[Notice], None],
        cutter: Cutter,
    ) -> str | None:
        """One request and its answer; returns where else to send it."""
        exchange = self._send(adapter, url, outgoing, _left(deadline, _STREAM_HEAD))
        if cutter.is_cut:
            raise Unreachable("the exchange was cut")
        if exchange.status in (301, 302, 303, 307, 308):
            target = _redirection(url, exchange)
            self._settle(adapter, exchange)
            return target
        reader.begin(exchange.status, exchange.headers)
        while not reader.answered:
            exchange.set_quiet(_left(deadline, STREAM_QUIET))
            try:
                data = exchange.read()
            except Quiet as ex:
                if deadline is None:
                    raise Unreachable("the stream was silent for too long") from ex
                raise DeadlinePassed(_TOO_LATE) from ex
            except UpstreamCut as ex:
                reader.cut(_of_server(ex))
                break
            for notice in reader.receive(data) if data else reader.end():
                on_notice(notice)
        self._settle(adapter, exchange)
        return None

    def _send(
        self, adapter: UpstreamAdapter, url: str, outgoing: Outgoing, timeout: float
    ) -> Exchange:
        headers = HeaderPairs((*self._headers, *outgoing.headers))
        if outgoing.method == "POST":
            headers.append(("Content-Length", str(len(outgoing.body))))
        request = prepare(outgoing.method, url, headers, outgoing.body)
        try:
            return adapter.exchange(request, timeout)
        except ConnectTimeout as ex:
            raise Unreachable(_of_server(ex)) from ex
        except AnswerTimeout as ex:
            raise DeadlinePassed(_TOO_LATE) from ex
        except UpstreamError as ex:
            raise Unreachable(_of_server(ex)) from ex
        except (ValueError, OSError) as ex:
            # Text that no header can carry, or a resolver's error.
            raise Unreachable(f"the request could not be sent: {type(ex).__name__}") from ex

    def _settle(self, adapter: UpstreamAdapter, exchange: Exchange) -> None:
        """Keep the connection if the answer comes to its end at once, else close it."""
        try:
            patience = time.monotonic() + _TAIL_WAIT
            exchange.set_quiet(_TAIL_WAIT)
            while exchange.read() and time.monotonic() < patience:
                pass
        except (Quiet, UpstreamError, OSError):
            pass
        reusable = exchange.reusable
        exchange.detach()
        if reusable:
            self._idle.append((time.monotonic(), adapter))
            if self._closed:
                self.close_idle()
        else:
            adapter.close()


def _left(deadline: float | None, without: float) -> float:
    if deadline is None:
        return without
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlinePassed(_TOO_LATE)
    return left


def _of_server(error: UpstreamError) -> str:
    return str(error).replace("the upstream", "the server")


def _redirection(url: str, exchange: Exchange) -> str:
    """Where a redirection leads, if it keeps the method and stays at the same origin.

    The token is for this server only, so nothing is sent elsewhere.
    """
    location = next((v for n, v in exchange.headers if n.lower() == "location"), "")
    target = urljoin(url, location)
    before, after = urlsplit(url), urlsplit(target)
    same = (before.scheme, before.netloc) == (after.scheme, after.netloc)
    if exchange.status not in (307, 308) or not same or not target.isascii():
        shown = f"{after.scheme}://{after.netloc.rpartition('@')[2]}{after.path}"
        raise HttpRefused(
            f"the server redirects to {shown}; configure that address if it is meant",
            exchange.status,
        )
    return target
