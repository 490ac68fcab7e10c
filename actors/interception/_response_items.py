"""The items of a response: its calls and thoughts, told in one place of an answer or another."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import msgspec
from attrs import define, field, frozen
from msgspec import Struct

from aigateway.actors.codec.reading import (
    Buffer,
    Object,
    count,
    is_json,
    is_null,
    items,
    json_text,
    members,
    source,
    text,
)
from aigateway.actors.codec.sse import parse_event
from aigateway.actors.interception._record_maker import Text
from aigateway.actors.interception.outcomes import MESSAGE_LIMIT

__all__ = [
    "CallItem",
    "Items",
    "Saying",
    "Thinking",
    "Thought",
    "answer_of",
    "call_of",
    "commentary_of",
    "paid_request",
    "thoughts_of",
]

_INPUTS = (
    "arguments",
    "input",
    "revised_prompt",
    "action",
    "actions",
    "operation",
    "code",
    "queries",
    "query",
    "commands",
    "command",
    "parameters",
    "prompt",
)
"""Where items have what a tool was asked, by the API's reference; the first one counts."""

_KEPT = frozenset(
    {
        "call_id",
        "content",
        "error",
        "id",
        "name",
        "namespace",
        "phase",
        "role",
        "server_label",
        "status",
        "summary",
        "type",
        *_INPUTS,
    }
)
"""Members of an item that are of use: not a picture, not what is encrypted."""

_EMPTY = (b"null", b'""', b"[]", b"{}")


# -- finished items and the final output


class _Done(NamedTuple):
    kind: str
    item: Object
    when: float


class Items:
    """The items that a stream has told as finished."""

    def __init__(self) -> None:
        self._done: dict[int, _Done] = {}

    def __bool__(self) -> bool:
        return bool(self._done)

    def done(self, place: int | None, kind: str, item: Object, now: float) -> None:
        """Take note of an item; one that is told again replaces itself.

        ``place`` is its number in the output, if that was told.
        """
        kept = {name: value.copy() for name, value in item.items() if name in _KEPT}
        self._done[len(self._done) if place is None else place] = _Done(kind, kept, now)

    def merged(self, output: list[Object], now: float) -> Iterator[tuple[int, Object, float]]:
        """Each item once: its number, its members, and when it was told.

        ``output`` is that of the final response.  Not all repeat every item in it, or all of an
        item, and some give an item another id in each event.
        """
        left = dict(self._done)
        for place, item in enumerate(output):
            at = _place_of(item, place, left)
            done = left.pop(at, None)
            if done is None:
                yield place, item, now
            else:
                told = {name: value for name, value in item.items() if bytes(value) not in _EMPTY}
                yield at, {**done.item, **told}, done.when
        for place, done in sorted(left.items()):
            yield place, done.item, done.when


def _place_of(item: Object, place: int, done: Mapping[int, _Done]) -> int:
    """Which of the finished items this one is; -1 when none is."""
    kind = text(item.get("type")) or ""
    names = {text(item.get(name)) for name in ("id", "call_id")} - {None, ""}
    for at, each in done.items():
        same = {text(each.item.get(name)) for name in ("id", "call_id")} & names
        if same and each.kind == kind:
            return at
    return place if place in done and done[place].kind == kind else -1


# -- calls


@frozen
class CallItem:
    """A call of a tool, as it is recorded."""

    metadata: Mapping[str, object]
    tool: str
    input: str
    """JSON."""
    tool_call_id: str
    item_id: str = ""
    error: str | None = None


def call_of(kind: str, item: Object) -> CallItem | None:
    """Read the call that an item of this type is, if it is one.

    All types that end in ``_call`` are, also those that are yet to be invented.
    """
    name = text(item.get("name")) or ""
    call = text(item.get("call_id")) or ""
    metadata: dict[str, object] = {}
    namespace = text(item.get("namespace")) or ""
    if namespace:
        metadata["namespace"] = namespace
    if kind in ("function_call", "custom_tool_call"):
        given = item.get("arguments" if kind == "function_call" else "input")
        asked = _arguments(given) if kind == "function_call" else _plain(given)
        return CallItem(metadata, whole_name(namespace, name), asked, call)
    if not (kind.endswith("_call") or kind in _OTHER_CALLS or kind.startswith("openrouter:")):
        return None
    if server := text(item.get("server_label")):
        metadata["server_label"] = server
    metadata["type"] = kind
    return CallItem(
        metadata,
        whole_name(namespace, name) or kind,
        _asked(item),
        call,
        text(item.get("id")) or "",
        _error_of(item),
    )


def paid_request(kind: str, item: Object) -> str | None:
    """What a call of a provider's own tool is counted as, if it is paid by the request.

    Of a web search's actions OpenAI bills the search, and neither the opening of a page nor the
    finding in it ("Web search" in its guides to tools).
    """
    if text(item.get("status")) == "failed":
        return None
    if kind == "web_search_call":
        action = text(members(item.get("action")).get("type"))
        return "web_search_requests" if action in (None, "search") else None
    return "file_search_requests" if kind == "file_search_call" else None


_OTHER_CALLS = frozenset({"mcp_approval_request", "mcp_list_tools", "program"})


def whole_name(namespace: str, name: str) -> str:
    """The name of a tool with its namespace, as Codex and others write them in one.

    ``mcp__github`` and ``create_issue`` are ``mcp__github__create_issue``.
    """
    if not namespace or not name or name.startswith(namespace):
        return name
    return f"{namespace}{name}" if namespace.endswith("__") else f"{namespace}__{name}"


def _arguments(given: Buffer | None) -> str:
    """A function's arguments as JSON, or as a string when they are none."""
    said = text(given)
    if said is None:
        return source(given)
    stripped = said.strip()
    return stripped if is_json(stripped.encode()) else json_text(stripped)


def _plain(given: Buffer | None) -> str:
    said = text(given)
    return source(given) if said is None else json_text(said)


def _asked(item: Object) -> str:
    for name in _INPUTS:
        if not is_null(item.get(name)):
            return _arguments(item[name]) if name == "arguments" else _plain(item[name])
    return "null"


def _error_of(item: Object) -> str | None:
    error = item.get("error")
    if is_null(error):
        return "failed" if text(item.get("status")) == "failed" else None
    said = text(error) or text(members(error).get("message")) or source(error)
    return said[:MESSAGE_LIMIT]


# -- thoughts


class Thought(NamedTuple):
    """What a model thought aloud, or a part of it."""

    content: str
    source: str
    truncated: bool = False
    """It is not all of it."""


def thoughts_of(item: Object) -> list[Thought]:
    """The texts of a reasoning item.

    Models whose weights are open show their reasoning itself, others a summary; some servers
    put the same text in both places.
    """
    if text(item.get("type")) != "reasoning":
        return []
    thoughts: dict[str, str] = {}
    for name, origin in (("content", "reasoning_text"), ("summary", "reasoning_summary")):
        for content in _texts(item.get(name)):
            thoughts.setdefault(content, origin)
    return [Thought(*each) for each in thoughts.items()]


def commentary_of(message: Object) -> list[str]:
    """What a message says of the work that goes on, if it is such a one."""
    if text(message.get("role")) != "assistant" or text(message.get("phase")) != "commentary":
        return []
    return _texts(message.get("content"), "output_text")


def answer_of(message: Object) -> str:
    """What a message says to the one that asked, a refusal among it; nothing where that is a
    commentary or was not the model's."""
    role = text(message.get("role"))
    if role not in (None, "assistant") or text(message.get("phase")) == "commentary":
        return ""
    whole = text(message.get("content"))
    if whole is not None:
        return whole
    parts = map(members, items(message.get("content")))
    return "".join(text(part.get("text")) or text(part.get("refusal")) or "" for part in parts)


def _texts(parts: Buffer | None, kind: str = "") -> list[str]:
    whole = text(parts)
    if whole is not None:
        return [whole] if whole else []
    found = []
    for part in map(members, items(parts)):
        content = text(part.get("text"))
        if content and kind in ("", text(part.get("type"))):
            found.append(content)
    return found


@define
class _Told:
    """A text that a stream tells outside of items."""

    content: Text = field(factory=Text)
    whole: bool = False
    """It was told in one, at its end."""


class Thinking:
    """What a stream tells of thoughts outside of items, for those that have them nowhere else.

    PERF: there may be thousands of deltas, which nearly always come again, so they are kept as
    they came and read only if nothing told the whole, or when there are many: others wait while
    they are read.
    """

    MANY = 1024
    """Deltas after which those are read that say what they belong to: some milliseconds."""
    MOST = 16_384
    """Others that are kept; at some 250 bytes each that is as long as a text may be."""

    def __init__(self) -> None:
        self.deltas: deque[bytes] = deque(maxlen=self.MOST)
        """Deltas as they came, among them such of refusals, which are passed over."""
        self._texts: dict[int, dict[tuple[str, int], _Told]] = {}
        self._many = self.MANY

    def keep(self, piece: bytes) -> None:
        """Take a delta as it came."""
        self.deltas.append(piece)
        if len(self.deltas) >= self._many:
            self._read_placed()

    def _read_placed(self) -> None:
        unplaced = []
        for piece in self.deltas:
            event = _read_delta(piece)
            if event.of_reasoning and not event.is_placed:
                unplaced.append(piece)
            else:
                self._write(event)
        self.deltas.clear()
        self.deltas += unplaced
        self._many = len(unplaced) + self.MANY

    def _write(self, event: _Delta) -> None:
        if event.of_reasoning:
            texts = self._texts.setdefault(event.output_index or 0, {})
            texts.setdefault(event.part, _Told()).content.write(event.delta)

    def add(self, event: Object) -> None:
        """Take a part of a text."""
        place, part = _part_of(event)
        texts = self._texts.setdefault(place, {})
        told = texts.setdefault(part, _Told())
        told.content.write(text(event.get("delta")) or "")

    def tell(self, event: Object) -> None:
        """Take a whole text; the deltas of it were its parts."""
        place, part = _part_of(event)
        self._leave_out(event, place, part)
        self._texts.setdefault(place, {})[part] = _Told(Text(text(event.get("text")) or ""), True)

    def forget(self, event: Object) -> None:
        """The item that this event finishes has told its texts itself."""
        place = count(event.get("output_index"))
        self._leave_out(event, place)
        self._texts.pop(place, None)

    def _leave_out(self, event: Object, place: int, part: tuple[str, int] | None = None) -> None:
        """Let go of the deltas of a text, or of all texts of an item, that the event told whole.

        Deltas that do not say what they belong to count as its.  Those of others are read.
        """
        if "output_index" not in event:
            self.deltas.clear()
            for texts in self._texts.values():
                for told in [key for key, text in texts.items() if not text.whole]:
                    del texts[told]
            return
        # PERF: nearly all are of this text, and are known without reading them.
        item = b'"output_index":%d,' % place
        kind = index = at = b""
        if part is not None:
            summary = part[0] == "reasoning_summary"
            kind = b"reasoning_summary_text.delta" if summary else b"reasoning_text.delta"
            index = b'"summary_index"' if summary else b'"content_index"'
            at = index + b":%d," % part[1]
        left = [
            piece
            for piece in self.deltas
            if kind not in piece
            or not (item in piece or b'"output_index"' not in piece)
            or not (at in piece or index not in piece)
        ]
        self.deltas.clear()
        self.deltas += left
        self._read_deltas()

    def of(self, place: int, *, cut: bool) -> list[Thought]:
        """Hand out the texts of an item; ``cut`` says that the stream broke off."""
        self._read_deltas()
        return _in_order(self._texts.pop(place, {}), cut)

    def rest(self, *, cut: bool) -> list[Thought]:
        """Hand out all that is left."""
        self._read_deltas()
        left, self._texts = self._texts, {}
        places = sorted(left)
        return [each for place in places for each in _in_order(left[place], cut)]

    def _read_deltas(self) -> None:
        for piece in self.deltas:
            self._write(_read_delta(piece))
        self.deltas.clear()
        self._many = self.MANY


class Saying:
    """What a stream tells of the answer's texts outside of items, until an item tells them whole.

    PERF: nearly all deltas come again, so they are read only if nothing told the whole, or when
    there are many.
    """

    MOST: Final = 4096
    """Deltas that are kept as they came; at some 250 bytes each that is 1 MB."""

    def __init__(self) -> None:
        self._deltas: list[bytes] = []
        self._texts: dict[int, Text] = {}

    def keep(self, piece: bytes) -> None:
        """Take a delta."""
        self._deltas.append(piece)
        if len(self._deltas) >= self.MOST:
            self._read()

    def forget(self, place: int | None) -> None:
        """The item of this number has told its text; None: the one that came."""
        if place is None:
            self._deltas.clear()
            self._texts.clear()
            return
        item = b'"output_index":%d,' % place
        self._deltas = [piece for piece in self._deltas if item not in piece]
        self._read()
        self._texts.pop(place, None)

    def rest(self) -> list[tuple[int, Text]]:
        """Hand out what no item has told, by the items' numbers."""
        self._read()
        left, self._texts = self._texts, {}
        return sorted(left.items())

    def _read(self) -> None:
        for piece in self._deltas:
            event = _read_delta(piece)
            self._texts.setdefault(event.output_index or 0, Text()).write(event.delta)
        self._deltas.clear()


class _Delta(Struct):
    """What is read of a delta.  PERF: one typed pass takes a fifth of reading field by field."""

    type: str = ""
    output_index: int | None = None
    summary_index: int | None = None
    content_index: int | None = None
    delta: str = ""

    @property
    def of_reasoning(self) -> bool:
        return self.type.startswith("response.reasoning")

    @property
    def part(self) -> tuple[str, int]:
        """Which text of its item."""
        if "summary" in self.type:
            return "reasoning_summary", self.summary_index or 0
        return "reasoning_text", self.content_index or 0

    @property
    def is_placed(self) -> bool:
        """Whether it says what it belongs to."""
        number = self.summary_index if "summary" in self.type else self.content_index
        return self.output_index is not None and number is not None


_decode_delta = msgspec.json.Decoder(_Delta).decode


def _read_delta(piece: bytes) -> _Delta:
    at = piece.find(b"data: ") + 6
    try:
        return _decode_delta(piece[at : piece.find(b"\n", at)])
    except (ValueError, RecursionError):
        event = members(parse_event(piece)[1])

    def number(name: str) -> int | None:
        return count(event[name]) if name in event else None

    return _Delta(
        text(event.get("type")) or "",
        number("output_index"),
        number("summary_index"),
        number("content_index"),
        text(event.get("delta")) or "",
    )


def _part_of(event: Object) -> tuple[int, tuple[str, int]]:
    summary = "summary" in (text(event.get("type")) or "")
    origin = "reasoning_summary" if summary else "reasoning_text"
    number = count(event.get("summary_index" if summary else "content_index"))
    return count(event.get("output_index")), (origin, number)


def _in_order(texts: Mapping[tuple[str, int], _Told], cut: bool) -> list[Thought]:
    thoughts = []
    for origin, number in sorted(texts):
        told = texts[origin, number]
        half = told.content.truncated or (cut and not told.whole)
        thoughts.append(Thought(told.content.value(), origin, half))
    return [each for each in thoughts if each.content]
