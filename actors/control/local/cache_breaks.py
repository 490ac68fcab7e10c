"""What a provider's cache could have served of a prompt, and what kept it from that.

A provider keeps the beginning of a prompt and reads it again where a later one begins the same:
tools, system prompt, messages, in this order.  So a turn is held against the one before it in its
conversation:

- *could* is what that turn left in the cache, as far as this prompt is that long;
- *lost* is what of it was not read again, if that is at least :data:`LEAST` tokens;
- the *cause* is the first thing that has changed.

**Which turn is before it.**  Of the earlier turns of the same agent those are of the same
conversation that have its first message, or its tools and its system prompt; among these the one
that shares most of the prompt, and of several the last.  What the client asked for an end of its
own (a title) is before none.  A turn without any before it lost nothing: it began.

**Causes**, the first that holds:

1. another ``model``, ``provider`` or ``key``: each has a cache of its own;
2. other ``tools``, another ``system`` prompt;
3. a ``pause`` longer than what was kept was to live, and nothing was read;
4. a ``message`` that is another or gone; with its place, the first one's is 1;
5. ``marks``: it is the client that says what is cached, and it does not say so of what the turn
   before had marked, or of nothing near enough behind it;
6. a ``pause``;
7. ``unknown``: nothing that the client sent; a provider may forget sooner, or ask elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, TypeAlias, get_args

from aigateway.actors.values.frozen import frozen
from aigateway.actors.values.prompt_parts import PromptParts

__all__ = ["CAUSES", "LEAST", "CacheTurn", "Cause", "Verdict", "in_words", "judge"]

Cause: TypeAlias = Literal[
    "model", "provider", "key", "tools", "system", "message", "marks", "pause", "unknown"
]
CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)

LEAST: Final = 1024
"""Tokens: the shortest prompt that OpenAI keeps, and most models of Anthropic's.  It also counts in
steps, so the last few are never read."""

_NEAR: Final = 20
"""Anthropic looks so many blocks back from a mark; a message has one block at least."""

_TOOLS: Final = 0
_SYSTEM: Final = 1
_FIRST_MESSAGE: Final = 2


@frozen(kw_only=True)
class CacheTurn:
    """One request of a session, as far as a cache is concerned."""

    began: float
    """Unix seconds."""
    model: str
    provider: str
    key: str
    """With which the provider was asked, or what is known of it."""
    parts: PromptParts
    ttl: float
    """Seconds for which what it left is kept, from its beginning."""
    prompt_tokens: int
    read_tokens: int
    """What of the prompt was read from the cache."""
    kept_tokens: int
    """How much of its prompt is in the cache afterwards."""


@frozen
class Verdict:
    """What became of one turn's cache."""

    could_tokens: int = 0
    lost_tokens: int = 0
    cause: Cause | None = None
    """None: nothing was lost."""
    place: int | None = None
    """Of the message, for that cause."""


def judge(turn: CacheTurn, earlier: Iterable[CacheTurn]) -> Verdict:
    """Hold a turn against those of its agent, in any order; only those that began before count."""
    before = _before(turn, earlier)
    if before is None:
        return Verdict(turn.read_tokens)
    could = max(min(before.kept_tokens, turn.prompt_tokens), turn.read_tokens)
    lost = could - turn.read_tokens
    if lost < LEAST:
        return Verdict(could)
    cause, place = _cause(turn, before)
    return Verdict(could, lost, cause, place)


def _before(turn: CacheTurn, earlier: Iterable[CacheTurn]) -> CacheTurn | None:
    best, best_rank = None, (-1, 0.0)
    for each in earlier:
        if each.began >= turn.began or each.parts.aside or not _goes_on(turn.parts, each.parts):
            continue
        rank = (turn.parts.shared(each.parts), each.began)
        if rank > best_rank:
            best, best_rank = each, rank
    return best


def _goes_on(parts: PromptParts, before: PromptParts) -> bool:
    """Whether they are of one conversation."""
    return parts.first_message == before.first_message or parts.head == before.head


def _cause(turn: CacheTurn, before: CacheTurn) -> tuple[Cause, int | None]:
    if turn.model != before.model:
        return "model", None
    if turn.provider != before.provider:
        return "provider", None
    if turn.key != before.key:
        return "key", None
    cached = _cached(before.parts)
    shared = turn.parts.shared(before.parts)
    changed = shared < cached
    paused = turn.began - before.began > before.ttl
    if changed and shared == _TOOLS:
        return "tools", None
    if changed and shared == _SYSTEM:
        return "system", None
    if paused and turn.read_tokens < LEAST:
        return "pause", None
    if changed:
        return "message", shared - _FIRST_MESSAGE + 1
    if turn.parts.explicit and not _is_marked(turn.parts.marks, cached):
        return "marks", None
    return ("pause", None) if paused else ("unknown", None)


def _cached(parts: PromptParts) -> int:
    """How many of its parts are in the cache after a turn."""
    if not parts.explicit:
        return len(parts)
    return min(max(parts.marks, default=-1) + 1, len(parts))


def _is_marked(marks: Sequence[int], cached: int) -> bool:
    """Whether a mark finds so many cached parts: it stands at their end or a little behind it."""
    return any(0 <= mark - (cached - 1) <= _NEAR for mark in marks)


_WORDS: Final[Mapping[str, str]] = {
    "model": "another model",
    "provider": "another provider",
    "key": "another key of the provider",
    "tools": "other tools",
    "system": "another system prompt",
    "marks": "the client's marks of what is cached",
    "pause": "a pause longer than the cache lives",
    "unknown": "nothing that the client sent",
}


def in_words(cause: str, place: int | None) -> str:
    """What changed, for people; ``place`` is which message it was."""
    return f"message {place}" if cause == "message" else _WORDS.get(cause, cause)
