"""Checksums of a prompt's parts, by which it is told what of it a provider's cache could serve.

They tell equal parts of one session's prompts from others, and nothing else: 32 bits of each part
and its length, keyed.  What is not the prompt's is left out of them:

- the marks that say what is to be cached, which move on with each turn;
- whether a message's one text stands by itself or in a list, as some clients write it for a mark;
- the head that Claude Code puts on its system prompt, which is another one each time;
- what items of the Responses API have besides what they say: ids, which a client may make again for
  the same item, states, notes on them, what is null, and the order of members, which is another
  when a client sends an item that it was sent.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any, Final, TypeAlias
from zlib import crc32

import msgspec

from aigateway.actors.codec.reading import Buffer, is_null
from aigateway.actors.interception.conversation import Prompt
from aigateway.actors.values.frozen import frozen
from aigateway.actors.values.prompt_parts import CHECKSUM_SIZE, PromptParts, encoded

__all__ = [
    "MOST_MESSAGES",
    "fingerprint",
    "item_checksum",
    "parts_behind",
    "parts_of",
    "plain",
    "without_marks",
]

MOST_MESSAGES: Final = 4096
"""A longer conversation has no fingerprint."""

_NAMES: Final = (b'"cache_control"', b'"prompt_cache_breakpoint"')
# Within strings quotes are escaped, so this is a member's name.
_MARK: Final = re.compile(
    rb',\s*"(?:cache_control|prompt_cache_breakpoint)"\s*:\s*(?:\{[^{}]*\}|null)'
    rb'|"(?:cache_control|prompt_cache_breakpoint)"\s*:\s*(?:\{[^{}]*\}|null)\s*,?'
)
_HOUR: Final = re.compile(rb'"ttl"\s*:\s*"1h"')
_MINUTES: Final = 300
_LONG: Final = {b'"1h"': 3600, b'"24h"': 86_400, b'"30m"': 1800}
_HEAD: Final = re.compile(rb"x-anthropic-billing-header:[^\"\\\n]*")

_ALONE: Final = b'{"role":"user","content":"'
_LISTED: Final = b'{"role":"user","content":[{"type":"text","text":"'


def fingerprint(key: bytes, prompt: Prompt) -> bytes:
    """The checksums of a prompt, for a record; empty for one that is too long or not all there."""
    if not prompt.compared or prompt.follows or not 0 < len(prompt.messages) <= MOST_MESSAGES:
        return b""
    return encoded(parts_of(key, prompt))


def parts_of(key: bytes, prompt: Prompt) -> PromptParts:
    """The checksums of a prompt."""
    messages, lead, items, tools = prompt.messages, prompt.leading, prompt.are_items, prompt.tools
    if items:
        tools, lead, messages = _beginning(prompt)
    read = [
        _read(key, tools, items),
        _read(key, prompt.system),
        *[_read(key, each, items) for each in messages],
    ]
    first, read = read[:2], read[2:]
    leading, spoken = read[:lead], read[lead:]
    marks = [place for place, each in enumerate(first) if each.lives]
    if any(each.lives for each in leading):
        marks.append(1)
    marks += [place for place, each in enumerate(spoken, 2) if each.lives]
    lives = [life for each in (*first, *read) for life in each.lives]
    if not is_null(prompt.control):
        # The provider marks the last block.
        marks.append(len(spoken) + 1)
        lives.append(_life(bytes(prompt.control)))
    ttl = _LONG.get(bytes(prompt.retention), 0)
    if prompt.explicit:
        ttl = min(lives, default=_MINUTES)
    system = first[1].checksum
    if lead:
        system = _keyed(key, b"".join(each.checksum for each in leading))
    return PromptParts.of(
        first[0].checksum,
        system,
        [each.checksum for each in spoken],
        tuple(sorted(set(marks))),
        prompt.explicit,
        ttl,
        prompt.aside,
    )


def parts_behind(key: bytes, before: PromptParts, prompt: Prompt) -> PromptParts:
    """The checksums of a prompt of items that goes on from another one and its answer."""
    nothing = {_read(key, each).checksum for each in _NOTHING}
    tools, system, given = prompt.tools, prompt.system, prompt.messages
    tools_before, system_before = before.head[:CHECKSUM_SIZE], before.head[CHECKSUM_SIZE:]
    instructions = b""
    if not before.first_message:
        # It was only prepared: tools and instructions may still come.
        found, lead, others = _beginning(prompt)
        if tools_before in nothing:
            tools, given = found, others
        if system_before in nothing and lead and given is others:
            instructions = _keyed(key, _read(key, given[0], True).checksum)
            given = given[1:]
    read = [_read(key, each, True) for each in given]
    return PromptParts(
        b"".join(
            (
                tools_before if is_null(tools) else _read(key, tools, True).checksum,
                instructions
                or (system_before if _is_empty(system) else _read(key, system).checksum),
                before.joined[len(before.head) :],
                *[each.checksum for each in read],
            )
        ),
        (*before.marks, *[place for place, each in enumerate(read, len(before)) if each.lives]),
        ttl=_LONG.get(bytes(prompt.retention), 0),
        aside=prompt.aside,
    )


def item_checksum(key: bytes, item: Buffer) -> bytes:
    """The checksum of an item, told by the provider or sent by a client."""
    return _read(key, item, True).checksum


def _beginning(prompt: Prompt) -> tuple[Buffer, int, Sequence[Buffer]]:
    """Tools, how many messages are instructions, and messages of a prompt of items.

    Codex has its tools and its instructions, in this order, in items at the beginning.
    """
    tools, lead, given = prompt.tools, 0, prompt.messages
    if is_null(tools) and _begins(given, _TOOLS_ITEM):
        tools, given = given[0], given[1:]
    if _is_empty(prompt.system) and _begins(given, _INSTRUCTIONS_ITEM):
        lead = 1
    return tools, lead, given


_TOOLS_ITEM: Final = re.compile(rb'\s*\{[^{}\[\]]*"type"\s*:\s*"additional_tools"')
_INSTRUCTIONS_ITEM: Final = re.compile(rb'\s*\{[^{}\[\]]*"role"\s*:\s*"(?:developer|system)"')
_NOTHING: Final = (b"", b"null", b'""')
_FRONT: Final = 256
"""Bytes of an item in which it says what it is."""


def _begins(given: Sequence[Buffer], item: re.Pattern[bytes]) -> bool:
    """Whether the first item says in front of what it holds that it is such a one."""
    # PERF: it may be long, and to split it takes some 30 us.
    return bool(given) and item.match(bytes(memoryview(given[0])[:_FRONT])) is not None


def _is_empty(value: Buffer) -> bool:
    return is_null(value) or bytes(memoryview(value)[:2]) in _NOTHING


@frozen
class _Part:
    """What there is to know of a part."""

    checksum: bytes
    lives: tuple[int, ...] = ()
    """For each mark in it, for how many seconds that is kept."""


_known: dict[tuple[bytes, int, int, bool], _Part] = {}
_KNOWN_AT_MOST: Final = 16_384
"""Parts; some 4 MB."""


def _read(key: bytes, part: Buffer, is_item: bool = False) -> _Part:
    # PERF: a session sends its messages again with each turn, so most have been read before.  They
    # are found by their length and two places in them, and compared as a whole: 0.1 us for each
    # 1,000 bytes, where a checksum takes 0.7.
    text = bytes(part)
    size = len(text)
    middle = size // 2
    name = (key, is_item, size, text[middle : middle + _PLACE], text[-_PLACE:])
    held = _held.get(name)
    if held is not None and held[0] == text:
        return held[1]
    sum_name = (key, crc32(text), size, is_item)
    found = _known.get(sum_name)
    if found is None:
        if len(_known) >= _KNOWN_AT_MOST:
            _known.clear()
        found = _known[sum_name] = _read_first(key, text, is_item)
    _held.keep(name, text, found)
    return found


_PLACE: Final = 24
"""Bytes."""
_Name: TypeAlias = tuple[bytes, bool, int, bytes, bytes]


class _Held(dict[_Name, tuple[bytes, _Part]]):
    """Parts with their texts."""

    AT_MOST: Final = 16 * 1024 * 1024
    """Bytes of texts.  Where sessions have more, some of their parts are known by a checksum."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes = 0

    def keep(self, name: _Name, text: bytes, part: _Part) -> None:
        # The length is in the name: one that takes another's place is as long.
        self._bytes += 0 if name in self else len(text)
        if self._bytes > self.AT_MOST:
            self.clear()
            self._bytes = len(text)
        self[name] = text, part


_held = _Held()


def _read_first(key: bytes, text: bytes, is_item: bool) -> _Part:
    text, marks = without_marks(text)
    text = plain(text)
    lives = [_life(each) for each in marks if not each.rstrip(_ENDS).endswith(b"null")]
    if is_item:
        text = _said_by(text)
    told = crc32(text).to_bytes(4, "big") + len(text).to_bytes(8, "big")
    return _Part(_keyed(key, told), tuple(lives))


def without_marks(part: bytes) -> tuple[bytes, list[bytes]]:
    """A part without the marks of what is to be cached, and these as they are written."""
    if any(name in part for name in _NAMES):
        return _MARK.sub(b"", part), _MARK.findall(part)
    return part, []


def plain(part: bytes) -> bytes:
    """A part without marks in the form in which equal ones are the same."""
    if part.startswith(_ALONE) and part.endswith(b'"}'):
        part = b"".join((_LISTED, part[len(_ALONE) : -2], b'"}]}'))
    return _HEAD.sub(b"", part, count=1)


def _said_by(item: bytes) -> bytes:
    """What an item says, always written in the same way; itself where it is none, or too long."""
    if len(item) > _LONGEST:
        return item
    try:
        fields = _decode(item)
    except _UNREADABLE:
        return item
    said = {name: value for name, value in fields.items() if name not in _NOT_SAID}
    content = fields.get("content")
    if isinstance(content, list):
        said["content"] = [_spoken(each) if isinstance(each, dict) else each for each in content]
    return _encode({name: value for name, value in said.items() if value is not None})


def _spoken(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in _ON_TEXT or value}


_LONGEST: Final = 256 * 1024
"""Bytes of an item that is written again: it takes up to 5 ms, in which nobody else runs."""
_NOT_SAID: Final = frozenset({"id", "internal_chat_message_metadata_passthrough", "status"})
"""The second is when and why Codex 0.171 made an item, which it writes for OpenAI alone."""
_ON_TEXT: Final = frozenset({"annotations", "logprobs"})
"""What a provider says of a text, which is left out where there is nothing to say."""
_UNREADABLE: Final = (msgspec.MsgspecError, RecursionError, UnicodeError)
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode
_encode: Final = msgspec.json.Encoder(order="sorted").encode

_ENDS: Final = b" \t\r\n,"


def _life(mark: bytes) -> int:
    return 3600 if _HOUR.search(mark) else _MINUTES


def _keyed(key: bytes, told: bytes) -> bytes:
    return hashlib.blake2b(told, digest_size=CHECKSUM_SIZE, key=key).digest()
