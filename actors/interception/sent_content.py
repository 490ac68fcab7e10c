"""What is sent to models, for the records: each part of it once.

A session sends again with each turn what it has sent before, so a prompt is told as a chain of
parts (:class:`~aigateway.actors.values.records.ContentLink`), in the order in which a provider
caches it: tools, system prompt, messages.  A part is named by a keyed checksum of whose it is and
what it says, a link by one of the part and the link before it.  So what was told once need not be
told again, and prompts that begin alike share the beginning.  What is not the prompt's (the marks
of what is to be cached, which move on with each turn) is left out as it is from a
:func:`~aigateway.actors.interception.fingerprint.fingerprint`.

APPSEC: names are of 128 bits of SHA-256.  Somebody who could make two texts of one name could hide
the second behind the first.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from aigateway.actors.codec.reading import Buffer, is_null
from aigateway.actors.interception.conversation import Prompt
from aigateway.actors.interception.fingerprint import plain, without_marks
from aigateway.actors.values.frozen import frozen
from aigateway.actors.values.records import ContentLink, ContentPart, SentContent

__all__ = ["LIVES", "PART_LIMIT", "Sent", "ToldContent"]

PART_LIMIT: Final = 4 * 1024 * 1024
"""Bytes that are kept of a part."""

_RECORD_SIZE: Final = 256 * 1024
"""Characters of texts from which on a record is full: none holds up the database for long."""

_NAME_SIZE: Final = 16
_MOST: Final = 65_536
"""Names that are remembered; some 15 MB."""
LIVES: Final = 3600.0
"""Seconds without use after which a name is forgotten: what is stored may go after a day."""


@frozen(eq=False)
class Sent:
    """What is to be recorded of one request's prompt."""

    records: tuple[SentContent, ...]
    names: tuple[bytes, ...]
    """Of what the records hold: to be remembered when they cannot be lost any more."""

    @property
    def size(self) -> int:
        """Characters of the texts."""
        return sum(len(part.text) for record in self.records for part in record.parts)


class ToldContent:
    """What of prompts this process has told before.

    Threads may share it: each step is one of a dict.
    """

    def __init__(self) -> None:
        self._told: dict[bytes, float] = {}
        """Names, and when each was told or of use last."""
        self._plain: dict[bytes, bytes] = {}
        """Names of parts by those of the same parts with marks."""

    def remember(self, names: tuple[bytes, ...], now: float) -> None:
        """What has these names is on disk."""
        if len(self._told) + len(names) > _MOST:
            self._told.clear()
        self._told.update(dict.fromkeys(names, now))

    def sent(self, key: bytes, user_id: str, id: str, prompt: Prompt, now: float) -> Sent:
        """What is to be recorded of the prompt of interception ``id``; ``now`` in Unix seconds.

        ``key`` is that of the checksums.  Nobody's parts have the names of anybody else's.
        """
        whose = b"\0".join((key, user_id.encode("utf-8", "replace"), b""))
        given = [("tools", prompt.tools), ("system", prompt.system)]
        given += [("message", each) for each in prompt.messages]
        records: list[SentContent] = []
        parts: list[ContentPart] = []
        links: list[ContentLink] = []
        # In their order, each once.
        new: dict[bytes, None] = {}
        size, before = 0, b""
        for place, (kind, part) in enumerate(given):
            if is_null(part) or not memoryview(part).nbytes:
                continue
            name, text = self._part(whose, part, now)
            if text is not None and name not in new:
                new[name] = None
                parts.append(_as_part(name, place, kind, text))
                size += len(parts[-1].text)
            link = _name(whose, b"\0", before, name)
            if not self._knows(link, now):
                new[link] = None
                links.append(ContentLink(link, before, name))
            before = link
            if size > _RECORD_SIZE:
                records.append(_record(id, now, parts, links))
                parts, links, size = [], [], 0
        if before:
            records.append(_record(id, now, parts, links, before))
        return Sent(tuple(records), tuple(new))

    def _part(self, whose: bytes, part: Buffer, now: float) -> tuple[bytes, bytes | None]:
        """The name of a part, and what it says (without marks) if that was not told yet."""
        # PERF: most have been told, and their marks need not be looked for again.
        as_sent = _name(whose, part)
        name = self._plain.get(as_sent, as_sent)
        if self._knows(name, now):
            return name, None
        sent = bytes(memoryview(part))
        text, _marks = without_marks(sent)
        if (told := plain(text)) != sent:
            name = _name(whose, told)
            if len(self._plain) >= _MOST:
                self._plain.clear()
            self._plain[as_sent] = name
        return name, None if self._knows(name, now) else text

    def _knows(self, name: bytes, now: float) -> bool:
        told = self._told.get(name)
        if told is None or not told <= now < told + LIVES:
            return False
        self._told[name] = now
        return True


def _name(whose: bytes, *told: Buffer) -> bytes:
    digest = sha256(whose)
    for each in told:
        digest.update(memoryview(each))
    return digest.digest()[:_NAME_SIZE]


def _as_part(name: bytes, place: int, kind: str, text: bytes) -> ContentPart:
    kept = memoryview(text)[:PART_LIMIT]
    return ContentPart(name, place, kind, len(text), str(kept, "utf-8", "replace"))


def _record(
    id: str, now: float, parts: list[ContentPart], links: list[ContentLink], last: bytes = b""
) -> SentContent:
    return SentContent(
        interception_id=id, created_at=now, parts=tuple(parts), links=tuple(links), last=last
    )
