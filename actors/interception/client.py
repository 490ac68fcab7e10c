"""Which program is asking, and in which of its sessions.

Programs are told apart by the beginning of their ``User-Agent`` or by a header of their own.
Most name their session in a header; older Claude Code versions hide it in the request body.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
from attrs import frozen

from aigateway.actors.codec.header_list import Headers, first_of

__all__ = ["UNKNOWN", "ClientInfo", "identify"]

UNKNOWN = "Unknown"

BodyReader: TypeAlias = Callable[[], bytes]


@frozen
class ClientInfo:
    """The program that sent a request."""

    client: str
    """Its display name, or :data:`UNKNOWN`."""
    session_id: str | None = None
    """What the program calls the conversation, if it says."""


@frozen
class _Program:
    """How a program is recognised and where it names its session."""

    name: str
    user_agents: tuple[str, ...] = ()
    """Beginnings of its ``User-Agent``, in lower case."""
    originator: str = ""
    """Its exact ``originator`` header, if it sends one."""
    marker: str = ""
    """A header that only this program sends."""
    session_headers: tuple[str, ...] = ()
    """Headers that may name the session, the first that is not blank wins."""
    session_in_body: bool = False


# The first that matches wins.
_PROGRAMS = (
    # Mux renamed itself to Xum and kept its header.
    _Program("Xum", ("mux/", "xum/"), session_headers=("x-mux-workspace-id",)),
    _Program(
        "Claude Code",
        ("claude",),
        session_headers=("x-claude-code-session-id",),
        session_in_body=True,
    ),
    _Program("Codex", ("codex",), session_headers=("session-id", "session_id")),
    _Program("Zed", ("zed/",)),
    _Program(
        "GitHub Copilot (VS Code)",
        ("githubcopilotchat/",),
        session_headers=("x-interaction-id",),
    ),
    _Program(
        "GitHub Copilot (CLI)",
        ("copilot/",),
        session_headers=("x-client-session-id",),
    ),
    _Program(
        "Kilo Code",
        ("kilo-code/",),
        originator="kilo-code",
        session_headers=("x-kilocode-taskid",),
    ),
    _Program("Roo Code", ("roo-code/",), originator="roo-code"),
    _Program("Coder Agents", ("coder-agents/",), session_headers=("x-coder-chat-id",)),
    _Program("Charm Crush", ("charm crush/", "charm-crush/")),
    _Program("Cursor", marker="x-cursor-client-version"),
    _Program(
        "OpenCode",
        ("opencode/",),
        session_headers=("x-opencode-session", "x-session-affinity"),
    ),
    _Program("Junie", ("junie:",)),
)

# user_<hash>_account_<id>_session_<uuid>
_SESSION_IN_USER_ID = re.compile(r"_session_(.+)\Z")


class _Metadata(msgspec.Struct):
    user_id: Any = None


class _Body(msgspec.Struct):
    metadata: _Metadata | None = None


# Broken JSON, bottomless nesting, and text that is no UTF-8.
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeError)

_body_decoder = msgspec.json.Decoder(_Body)
_user_id_decoder = msgspec.json.Decoder(dict[str, Any])


def identify(headers: Headers, body_reader: BodyReader) -> ClientInfo:
    """Name the program and the session of a request.

    ``body_reader`` returns the request's body; it is called only when the session may stand
    there and nowhere else.  A body that cannot be read as JSON names no session; what
    ``body_reader`` itself raises is passed on.
    """
    user_agent = first_of(headers, "user-agent").lower()
    originator = first_of(headers, "originator")
    for program in _PROGRAMS:
        if (
            user_agent.startswith(program.user_agents)
            or (program.originator and program.originator == originator)
            or (program.marker and first_of(headers, program.marker))
        ):
            return ClientInfo(program.name, _session(program, headers, body_reader))
    return ClientInfo(UNKNOWN)


def _session(program: _Program, headers: Headers, body_reader: BodyReader) -> str | None:
    for name in program.session_headers:
        if value := first_of(headers, name):
            return value
    return _session_in_body(body_reader()) if program.session_in_body else None


def _session_in_body(body: bytes) -> str | None:
    """The session that Claude Code put into ``metadata.user_id``."""
    try:
        metadata = _body_decoder.decode(body).metadata
    except _UNREADABLE:
        return None
    if metadata is None or not isinstance(metadata.user_id, str):
        return None
    try:
        parts = _user_id_decoder.decode(metadata.user_id)
    except _UNREADABLE:
        parts = {}
    if "session_id" in parts:
        session = parts["session_id"]
        return (session.strip() or None) if isinstance(session, str) else None
    found = _SESSION_IN_USER_ID.search(metadata.user_id)
    return (found[1].strip() or None) if found else None
