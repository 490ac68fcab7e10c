"""What the gateway says to an MCP server over streamable HTTP, sans-IO.

There are two kinds of servers, and no way to know which one an address leads to:

- Since revision 2026-07-28 there are no sessions.  Every request stands alone and carries
  its protocol version in ``_meta`` and in headers; ``server/discover`` says what the server
  can do; closing the connection cancels a request.
- Up to revision 2025-11-25 a session is opened with ``initialize`` and
  ``notifications/initialized``; the server may give it an id that all later requests carry;
  ``notifications/cancelled`` cancels a request and DELETE ends the session.

:class:`Negotiation` asks in the new way first.  An error that only a new server knows stays
an error; anything else means an old server, and a session is opened ("Backward
Compatibility" of the 2026-07-28 transport).  What comes out is a :class:`Dialogue`, which
makes the requests of either kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import msgspec
from attrs import field, frozen

from aigateway.actors.mcp.answers import AnswerReader, Expect, ServerRequest
from aigateway.actors.mcp.definitions import ToolDefinition, header_value, param_header_fields
from aigateway.actors.mcp.errors import (
    BadArguments,
    HttpRefused,
    McpError,
    NoCommonVersion,
    RpcRefused,
    StreamCut,
    Unauthorized,
    Unreachable,
    quoted,
)

__all__ = [
    "HEADER_MISMATCH",
    "LIST_CHANGED",
    "SESSION_VERSIONS",
    "STATELESS_VERSION",
    "ClientInfo",
    "Dialogue",
    "Negotiation",
    "Outgoing",
    "Step",
]

STATELESS_VERSION = "2026-07-28"
"""The newest revision."""
SESSION_VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""Revisions that open sessions, newest first.

The last one had another transport, but servers of this transport answer with it too."""

HEADER_MISMATCH = -32020
MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022
"""Error codes that only servers of 2026-07-28 and later give."""

LIST_CHANGED = "notifications/tools/list_changed"

NO_ARGUMENTS = (b"", b"null")
"""What models write where a tool takes nothing."""

_METHOD_NOT_FOUND = -32601
_TEMPORARY = frozenset({429, 502, 503, 504})
"""HTTP errors that say nothing about which revision a server speaks."""

_EMPTY: Mapping[str, object] = {}
_POST_HEADERS = (
    ("Content-Type", "application/json"),
    ("Accept", "application/json, text/event-stream"),
)


@frozen
class ClientInfo:
    """How the gateway introduces itself."""

    name: str
    version: str


@frozen
class Outgoing:
    """One HTTP request to the server's address; framing and authorisation are not in it."""

    method: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    request_id: int | None = None
    expect: Expect = Expect.ANSWER
    in_session: bool = False

    def reader(self, last_event_id: str = "") -> AnswerReader:
        """A reader for the answer to this."""
        return AnswerReader(
            self.request_id, self.expect, in_session=self.in_session, last_event_id=last_event_id
        )


@frozen
class Dialogue:
    """What was agreed with a server, and the requests that follow from it.

    Safe to use from many threads: its only state is ``ids``, a counter.
    """

    version: str
    client: ClientInfo
    ids: Iterator[int] = field(repr=False, eq=False)
    session_id: str | None = field(default=None, repr=False)
    has_tools: bool = True
    announces_changes: bool = False
    """The server tells when its list of tools changes."""

    @property
    def stateless(self) -> bool:
        """Whether the server speaks the newer kind of revisions, which knows no sessions."""
        return self.version == STATELESS_VERSION

    def list_tools(self, cursor: str | None = None) -> Outgoing:
        """tools/list, from ``cursor`` on."""
        return self._request("tools/list", {} if cursor is None else {"cursor": cursor})

    def call_tool(self, tool: ToolDefinition, arguments: bytes) -> Outgoing:
        """tools/call.  ``arguments`` is a JSON object, or empty or null for none.  Raises
        BadArguments."""
        read = _read_arguments(arguments)
        params: dict[str, object] = {"name": tool.name}
        params["arguments"] = {} if arguments.strip() in NO_ARGUMENTS else msgspec.Raw(arguments)
        headers: tuple[tuple[str, str], ...] = ()
        if self.stateless:
            headers = (
                ("Mcp-Name", header_value(tool.name)),
                *param_header_fields(tool.param_headers, read),
            )
        return self._request("tools/call", params, headers)

    def listen(self) -> Outgoing:
        """Ask for the stream on which the server tells of changes to its tools."""
        if self.stateless:
            wanted = {"notifications": {"toolsListChanged": True}}
            return self._request("subscriptions/listen", wanted, expect=Expect.STREAM)
        return self._outside("GET", (("Accept", "text/event-stream"),), Expect.STREAM)

    def resume(self, request: Outgoing, last_event_id: str) -> Outgoing | None:
        """Ask for the rest of an answer whose stream was cut; None where that is not known."""
        if self.stateless or not last_event_id:
            return None
        headers = (("Accept", "text/event-stream"), ("Last-Event-ID", last_event_id))
        again = self._outside("GET", headers, request.expect)
        return Outgoing(
            again.method, again.headers, b"", request.request_id, again.expect, again.in_session
        )

    def cancel(self, request: Outgoing, reason: str) -> Outgoing | None:
        """Tell that nobody waits for ``request``; None: closing its connection tells it."""
        if self.stateless or request.request_id is None:
            return None
        params = {"requestId": request.request_id, "reason": reason}
        return self._message({"method": "notifications/cancelled", "params": params})

    def decline(self, asked: ServerRequest) -> Outgoing | None:
        """Answer a request of the server: a ping is answered, for the rest there is nobody."""
        if self.stateless:
            return None
        answer: dict[str, object] = {"id": msgspec.Raw(asked.id)}
        if asked.method == "ping":
            answer["result"] = {}
        else:
            text = f"this client does not offer {quoted(asked.method)}"
            answer["error"] = {"code": _METHOD_NOT_FOUND, "message": text}
        return self._message(answer)

    def initialized(self) -> Outgoing:
        """The message that ends the opening of a session."""
        return self._message({"method": "notifications/initialized"})

    def goodbye(self) -> Outgoing | None:
        """End the session; None when there is none to end."""
        if self.session_id is None:
            return None
        return self._outside("DELETE", (), Expect.NOTHING)

    # -- making messages

    def _request(
        self,
        method: str,
        params: Mapping[str, object],
        headers: tuple[tuple[str, str], ...] = (),
        expect: Expect = Expect.ANSWER,
    ) -> Outgoing:
        number = next(self.ids)
        message: dict[str, object] = {"jsonrpc": "2.0", "id": number, "method": method}
        if self.stateless:
            message["params"] = {**params, "_meta": self._meta()}
            headers = (("Mcp-Method", method), *headers)
        elif params:
            message["params"] = params
        return Outgoing(
            "POST",
            (*_POST_HEADERS, *self._own_headers(), *headers),
            msgspec.json.encode(message),
            number,
            expect,
            self.session_id is not None,
        )

    def _message(self, fields: Mapping[str, object]) -> Outgoing:
        """A notification or an answer, which only sessions know."""
        body = msgspec.json.encode({"jsonrpc": "2.0", **fields})
        headers = (*_POST_HEADERS, *self._own_headers())
        return Outgoing("POST", headers, body, None, Expect.NOTHING, self.session_id is not None)

    def _outside(
        self, method: str, headers: tuple[tuple[str, str], ...], expect: Expect
    ) -> Outgoing:
        """A request that is not JSON-RPC."""
        headers = (*headers, *self._own_headers())
        return Outgoing(method, headers, b"", None, expect, self.session_id is not None)

    def _own_headers(self) -> tuple[tuple[str, str], ...]:
        version = ("MCP-Protocol-Version", self.version)
        if self.session_id is None:
            return (version,)
        return (version, ("Mcp-Session-Id", self.session_id))

    def _meta(self) -> dict[str, object]:
        return {
            "io.modelcontextprotocol/protocolVersion": self.version,
            "io.modelcontextprotocol/clientInfo": _introduction(self.client),
            "io.modelcontextprotocol/clientCapabilities": _EMPTY,
        }


Step: TypeAlias = Outgoing | Dialogue


class _ToolsCapability(msgspec.Struct, rename="camel"):
    list_changed: bool = False


class _Capabilities(msgspec.Struct, rename="camel"):
    tools: _ToolsCapability | None = None


class _Discovered(msgspec.Struct, rename="camel"):
    supported_versions: list[str]
    capabilities: _Capabilities = msgspec.field(default_factory=_Capabilities)


class _Initialized(msgspec.Struct, rename="camel"):
    protocol_version: str
    capabilities: _Capabilities = msgspec.field(default_factory=_Capabilities)


class _Supported(msgspec.Struct):
    supported: list[str]


class Negotiation:
    """Finds out which revision a server speaks.

    Send what :meth:`start` returns, give the reader of its answer to :meth:`take`, and so on
    until that returns the dialogue.  ``ids`` numbers the requests.
    """

    def __init__(self, client: ClientInfo, ids: Iterator[int]) -> None:
        self._client = client
        self._ids = ids
        self._agreed: Dialogue | None = None
        self._asked_stateless = False
        self._silent = self._asked_again = False

    @property
    def probes(self) -> bool:
        """Whether the last request is one that a server may not understand, so that it may be
        given little time; after that call :meth:`not_answered`."""
        return self._asked_stateless and not self._silent

    def start(self) -> Outgoing:
        """The first request."""
        self._asked_stateless = True
        return Dialogue(STATELESS_VERSION, self._client, self._ids)._request(
            "server/discover", _EMPTY
        )

    def not_answered(self) -> Outgoing:
        """The probe had no answer in time: take the server for an older one."""
        self._asked_stateless, self._silent = False, True
        return self._initialize()

    def take(self, reader: AnswerReader) -> Step:
        """Read the answer to the last request.  Raises McpError."""
        if self._asked_stateless:
            self._asked_stateless = False
            return self._discovered(reader)
        if self._agreed is None:
            return self._opened(reader)
        reader.result()
        return self._agreed

    def _discovered(self, reader: AnswerReader) -> Step:
        try:
            answer = msgspec.json.decode(reader.result(), type=_Discovered)
        except msgspec.DecodeError:
            return self._initialize()
        except RpcRefused as ex:
            if ex.code not in (HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION):
                return self._initialize()
            if ex.code == UNSUPPORTED_VERSION and _names_session_version(ex.data):
                return self._initialize()
            raise
        except McpError as ex:
            if _says_nothing(ex):
                raise
            return self._initialize()
        if STATELESS_VERSION not in answer.supported_versions:
            return self._initialize()
        return self._dialogue(STATELESS_VERSION, answer.capabilities, None)

    def _initialize(self) -> Outgoing:
        number = next(self._ids)
        message = {
            "jsonrpc": "2.0",
            "id": number,
            "method": "initialize",
            "params": {
                "protocolVersion": SESSION_VERSIONS[0],
                "capabilities": _EMPTY,
                "clientInfo": _introduction(self._client),
            },
        }
        return Outgoing("POST", _POST_HEADERS, msgspec.json.encode(message), number)

    def _opened(self, reader: AnswerReader) -> Outgoing:
        try:
            result = reader.result()
        except (RpcRefused, HttpRefused) as ex:
            if not self._silent or self._asked_again or isinstance(ex, Unauthorized):
                raise
            # It is a newer server after all, and only slow.
            self._asked_again = True
            return self.start()
        try:
            answer = msgspec.json.decode(result, type=_Initialized)
        except msgspec.DecodeError as ex:
            raise NoCommonVersion(f"the server's answer to initialize is wrong: {ex}") from ex
        if answer.protocol_version not in SESSION_VERSIONS:
            raise NoCommonVersion(
                f"MCP version negotiation failed; requested {SESSION_VERSIONS[0]}, "
                f"the server answered {quoted(answer.protocol_version)!r}"
            )
        self._agreed = self._dialogue(
            answer.protocol_version, answer.capabilities, reader.session_id
        )
        return self._agreed.initialized()

    def _dialogue(
        self, version: str, capabilities: _Capabilities, session_id: str | None
    ) -> Dialogue:
        tools = capabilities.tools
        return Dialogue(
            version,
            self._client,
            self._ids,
            session_id,
            has_tools=tools is not None,
            announces_changes=tools is not None and tools.list_changed,
        )


def _introduction(client: ClientInfo) -> dict[str, str]:
    return {"name": client.name, "version": client.version}


def _names_session_version(data: bytes) -> bool:
    try:
        supported = msgspec.json.decode(data, type=_Supported).supported
    except msgspec.DecodeError:
        return False
    return any(version in SESSION_VERSIONS for version in supported)


def _says_nothing(error: McpError) -> bool:
    """Whether an error is no sign of the revision that the server speaks."""
    if isinstance(error, Unauthorized) or (
        isinstance(error, Unreachable) and not isinstance(error, StreamCut)
    ):
        return True
    return isinstance(error, HttpRefused) and error.status in _TEMPORARY


def _read_arguments(arguments: bytes) -> Mapping[str, object]:
    if arguments.strip() in NO_ARGUMENTS:
        return {}
    try:
        return msgspec.json.decode(arguments, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as ex:
        raise BadArguments(f"the arguments are no JSON object: {ex}") from ex
