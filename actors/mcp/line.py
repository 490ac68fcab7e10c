"""The way to one MCP server: HTTP exchanges, each with a deadline of its own.

A :class:`Line` is used by several threads at once, each with an exchange of its own.  Anyone
may cut an exchange through its :class:`Cutter`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

import requests

from aigateway.actors.mcp.answers import AnswerReader, Notice
from aigateway.actors.mcp.errors import DeadlinePassed, HttpRefused, McpError, Unreachable
from aigateway.actors.mcp.protocol import Outgoing
from aigateway.actors.upstream.adapter import AnswerBody, PlainSession, UpstreamAdapter
from aigateway.actors.upstream.connect import Connectors
from aigateway.actors.upstream.errors import Quiet, UpstreamCut
from aigateway.actors.upstream.kept import HeaderPairs, prepare

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
        self._held: tuple[UpstreamAdapter, requests.PreparedRequest] | None = None

    def cut(self) -> None:
        """Break the connection; who waits on it gets an error at once."""
        self.is_cut = True
        held = self._held
        if held is not None:
            adapter, request = held
            adapter.interrupt(request)

    def hold(self, adapter: UpstreamAdapter, request: requests.PreparedRequest) -> None:
        """This is the exchange to cut."""
        self._held = adapter, request

    def let_go(self) -> None:
        """There is none any more."""
        self._held = None


def _ignore(_notice: Notice) -> None:
    pass


class Line:
    """Exchanges with the server at ``url``, with its bearer token."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        connectors: Connectors,
        user_agent: str,
        ca_file: str = "",
        proxy: str = "",
    ) -> None:
        """Raises McpError for a token that no header can carry."""
        self.url = url
        self._headers = [("User-Agent", user_agent), ("Accept-Encoding", "identity")]
        if token:
            if not token.isascii() or not token.isprintable():
                raise McpError("the token holds characters that no header can carry")
            self._headers.append(("Authorization", f"Bearer {token}"))
        self._adapter = UpstreamAdapter(connectors, keep_idle=KEEP_IDLE)
        self._session = PlainSession(self._adapter, proxy=proxy)
        self._verify = ca_file or True

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
            try:
                target = self._exchange(url, outgoing, reader, deadline, on_notice, cutter)
            finally:
                cutter.let_go()
            if target is None:
                return
            url = target
        raise HttpRefused(f"the server redirected more than {_REDIRECTS} times", 307)

    def close_idle(self, older_than: float = 0.0) -> float | None:
        """Close connections that were idle for so long; say when to look again, if at all."""
        return self._adapter.close_idle(older_than)

    def close(self) -> None:
        """Keep no idle connections any more.  Exchanges under way go on."""
        self._adapter.close()

    # -- one exchange

    def _exchange(
        self,
        url: str,
        outgoing: Outgoing,
        reader: AnswerReader,
        deadline: float | None,
        on_notice: Callable[[Notice], None],
        cutter: Cutter,
    ) -> str | None:
        """One request and its answer; returns where else to send it."""
        answer = self._send(url, outgoing, _left(deadline, _STREAM_HEAD), cutter)
        body = answer.raw
        assert isinstance(body, AnswerBody)
        try:
            if cutter.is_cut:
                raise Unreachable("the exchange was cut")
            if answer.status_code in (301, 302, 303, 307, 308):
                return _redirection(url, answer)
            _read(body, reader, deadline, on_notice)
            # The answer may be whole before its stream has ended.
            body.finish(_TAIL_WAIT)
        finally:
            body.close()
        return None

    def _send(
        self, url: str, outgoing: Outgoing, timeout: float, cutter: Cutter
    ) -> requests.Response:
        headers = HeaderPairs((*self._headers, *outgoing.headers))
        if outgoing.method == "POST":
            headers.append(("Content-Length", str(len(outgoing.body))))
        request = prepare(outgoing.method, url, headers, outgoing.body)
        cutter.hold(self._adapter, request)
        try:
            return self._session.send(
                request, stream=True, timeout=(None, timeout), verify=self._verify
            )
        except requests.ConnectTimeout as ex:
            raise Unreachable(_of_server(ex)) from ex
        except requests.Timeout as ex:
            raise DeadlinePassed(_TOO_LATE) from ex
        except requests.RequestException as ex:
            raise Unreachable(_of_server(ex)) from ex
        except (ValueError, OSError) as ex:
            # Text that no header can carry, or a resolver's error.
            raise Unreachable(f"the request could not be sent: {type(ex).__name__}") from ex


def _read(
    body: AnswerBody,
    reader: AnswerReader,
    deadline: float | None,
    on_notice: Callable[[Notice], None],
) -> None:
    """Let ``reader`` read until it has what it waits for."""
    exchange = body.exchange
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


def _left(deadline: float | None, without: float) -> float:
    if deadline is None:
        return without
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlinePassed(_TOO_LATE)
    return left


def _of_server(error: Exception) -> str:
    return str(error).replace("the upstream", "the server")


def _redirection(url: str, answer: requests.Response) -> str:
    """Where a redirection leads, if it keeps the method and stays at the same origin.

    The token is for this server only, so nothing is sent elsewhere.
    """
    target = urljoin(url, answer.headers.get("Location", ""))
    before, after = urlsplit(url), urlsplit(target)
    same = (before.scheme, before.netloc) == (after.scheme, after.netloc)
    if answer.status_code not in (307, 308) or not same or not target.isascii():
        shown = f"{after.scheme}://{after.netloc.rpartition('@')[2]}{after.path}"
        raise HttpRefused(
            f"the server redirects to {shown}; configure that address if it is meant",
            answer.status_code,
        )
    return target
