"""The record types of one interception, as they travel between actors.

Times are Unix seconds (float, UTC).  A record never changes once it is made.

Records are sent again after a crash, so a store must recognise one that it has.  An
interception and its end are known by their ``id``; a usage record by its ``record_id``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from attrs import field

from aigateway.actors.values.attribution import NO_ATTRIBUTION, Attribution
from aigateway.actors.values.frozen import frozen

__all__ = [
    "INVALID_ARGUMENTS",
    "RECORD_LINE",
    "ContentLink",
    "ContentPart",
    "InterceptionBegun",
    "InterceptionEnded",
    "ModelAnswer",
    "ModelThought",
    "PromptUsage",
    "Record",
    "SentContent",
    "TokenUsage",
    "ToolUsage",
    "UsageRecord",
    "moment_told",
    "timestamp",
]

RECORD_LINE: Final = "interception log"
"""The message of a log line that is a record: it may hold what users and models said."""

INVALID_ARGUMENTS: Final = "invalid_arguments"
"""Metadata of a tool call: its arguments as the model wrote them, where they are not JSON."""

Json: TypeAlias = Any
Metadata: TypeAlias = Mapping[str, Json]


@frozen(kw_only=True)
class InterceptionBegun:
    """One intercepted request, recorded before the upstream is called."""

    id: str
    initiator_id: str
    username: str
    api_key_id: str
    provider: str
    """The provider's type, for example ``anthropic``."""
    provider_name: str
    """The provider instance's name, for example ``anthropic-eu``."""
    model: str
    client: str
    user_agent: str
    started_at: float
    client_session_id: str | None = None
    correlating_tool_call_id: str | None = None
    credential_kind: str = "centralized"
    credential_hint: str = ""
    metadata: Metadata = field(factory=dict)
    agent_firewall_session_id: str | None = None
    agent_firewall_sequence_number: int | None = None
    workspace_id: str = ""
    group_names: str | None = None
    """The caller's groups with commas between them; only our own control plane knows them."""
    attribution: Attribution = NO_ATTRIBUTION
    """For which work; a Coder deployment has no place for it."""


@frozen(kw_only=True)
class InterceptionEnded:
    """The end of an interception, after all its other records."""

    id: str
    ended_at: float
    credential_hint: str = ""
    error_type: str | None = None
    """One of bad_request, unauthorized, rate_limited, overloaded, server_error, timeout, unknown;
    ``None`` when the interception succeeded."""
    error_message: str | None = None
    provider_name: str | None = None
    """Set when another provider than the one asked (a fallback) gave the answer."""
    metadata: Metadata = field(factory=dict)
    """Added to the interception's, where the control plane can hold it: a Coder deployment
    cannot."""
    prompt_parts: bytes = b""
    """Checksums of the prompt's parts (:mod:`.prompt_parts`); only our own control plane has a
    place for them.  Empty: there are none."""


@frozen(kw_only=True)
class TokenUsage:
    """Tokens of one upstream answer, or of a part of it: add them all up."""

    interception_id: str
    msg_id: str
    input_tokens: int
    output_tokens: int
    created_at: float
    cache_read_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    extra_token_types: Mapping[str, int] = field(factory=dict)
    """Merged into the metadata where the record is stored."""
    metadata: Metadata = field(factory=dict)
    record_id: str = ""
    """Unique among the records of this type and interception, and the same each time the record
    is sent: a number will do.  Empty: stored as often as it is sent."""


@frozen(kw_only=True)
class PromptUsage:
    """The last prompt of the user in the request."""

    interception_id: str
    msg_id: str
    prompt: str
    created_at: float
    metadata: Metadata = field(factory=dict)
    record_id: str = ""


@frozen(kw_only=True)
class ToolUsage:
    """A tool call that the model asked for."""

    interception_id: str
    msg_id: str
    tool: str
    input: str
    """The arguments as JSON text."""
    created_at: float
    tool_call_id: str = ""
    item_id: str = ""
    server_url: str | None = None
    injected: bool = False
    invocation_error: str | None = None
    metadata: Metadata = field(factory=dict)
    record_id: str = ""


@frozen(kw_only=True)
class ModelThought:
    """Something the model thought aloud; ``metadata["source"]`` says where."""

    interception_id: str
    content: str
    created_at: float
    metadata: Metadata = field(factory=dict)
    record_id: str = ""


@frozen(kw_only=True)
class ModelAnswer:
    """A text that the model answered with; a Coder deployment has no place for it."""

    interception_id: str
    msg_id: str
    content: str
    created_at: float
    metadata: Metadata = field(factory=dict)
    record_id: str = ""


@frozen
class ContentPart:
    """A part of what was sent to a model: its tools, its system prompt, or a message."""

    id: bytes
    """A keyed checksum of whose it is and what it says: the same part has the same one."""
    place: int
    """Where it stands in the request that brings it, from 0."""
    kind: str
    """``tools``, ``system`` or ``message``."""
    size: int
    """Bytes in all; of a long one :attr:`text` is the beginning."""
    text: str
    """JSON, as it was sent first but for the marks of what is to be cached."""


@frozen
class ContentLink:
    """A part behind others: a prompt is a chain of them, from its first part on."""

    id: bytes
    """A checksum of the two that follow: prompts that begin alike share the beginning."""
    before: bytes
    """The link before it; empty: it is the first one."""
    part: bytes


@frozen(kw_only=True)
class SentContent:
    """What of a request's prompt is not known to be stored already; a request may have several.

    A Coder deployment has no place for it.
    """

    interception_id: str
    created_at: float
    parts: tuple[ContentPart, ...] = ()
    links: tuple[ContentLink, ...] = ()
    last: bytes = b""
    """The id of the link that the prompt ends with; empty in all but one of a request's."""
    record_id: str = ""


UsageRecord: TypeAlias = (
    TokenUsage | PromptUsage | ToolUsage | ModelThought | ModelAnswer | SentContent
)
Record: TypeAlias = InterceptionBegun | InterceptionEnded | UsageRecord


@functools.lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except OSError as ex:
        # What the C library says is no trouble with a file or a socket.
        raise OverflowError(f"{seconds} s are outside of the calendar") from ex


def moment_told(text: str) -> float:
    """Unix seconds of a date, or of a time in RFC 3339, as a person writes it: without a zone it is
    UTC.  Raises ValueError, and OverflowError for a time outside of the calendar."""
    told = datetime.fromisoformat(text)
    return (told if told.tzinfo is not None else told.replace(tzinfo=UTC)).timestamp()


def timestamp(seconds: float) -> str:
    """Unix seconds as RFC 3339 text in UTC with microseconds.

    All such texts have the same length (until the year 9999), so they sort by time.
    Raises OverflowError or ValueError for a time outside of the calendar.
    """
    micros = round(seconds * 1_000_000)
    whole = micros // 1_000_000
    # PERF: with leading zeros by str, 0.2 us less than by a format; a request has four times.
    return f"{_second(whole)}.{str(micros - (whole - 1) * 1_000_000)[1:]}Z"
