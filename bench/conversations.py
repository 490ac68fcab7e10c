"""What a coding agent sends: a conversation that grows with each turn, as Claude Code's does.

Each request carries all of it: instructions, forty tools, and every message so far, in which
the model thinks, speaks and calls tools, and the user's side brings their results, now and then
a picture, and a person's words.  A seed makes the same conversation again, byte for byte.
"""

from __future__ import annotations

import base64
import json
import random
from typing import Any

from attrs import frozen

from bench.payloads import MODELS, VOCABULARY

__all__ = ["Conversation", "conversation"]

_TOOLS = 40
_PERSON_EVERY = 6
"""Turns from one thing that a person says to the next; between them tools answer."""
_PICTURE_EVERY = 12
_SYSTEM_BYTES, _TOOL_BYTES = 3_000, 220
_SHARES = {"thinking": 0.12, "text": 0.05, "call": 0.13}
"""Of what a turn adds, without pictures; the rest are results of tools."""
_PICTURE_SHARE = 0.8
"""Of what a turn with a picture adds."""
_LEAST = 60
"""Bytes of the smallest text."""


@frozen
class Conversation:
    """All requests of one conversation, each the beginning of the next but for its end."""

    head: bytes
    """Everything before the messages."""
    messages: bytes
    ends: tuple[int, ...]
    """Where in ``messages`` each turn's end."""
    persons: tuple[bool, ...]
    """For each turn whether it ends with a person's words."""

    @property
    def turns(self) -> int:
        return len(self.ends)

    def body(self, turn: int) -> bytes:
        """The request of a turn, from 0."""
        return b"%b%b]}" % (self.head, self.messages[: self.ends[turn]])

    def size(self, turn: int) -> int:
        """Bytes of that request."""
        return len(self.head) + self.ends[turn] + 2


def conversation(seed: int, *, turns: int, first: int, last: int, model: str = "") -> Conversation:
    """Requests of about ``first`` bytes, then evenly more, up to ``last``."""
    return _Writer(seed, model or MODELS["messages"]).write(turns, first, last)


class _Writer:
    def __init__(self, seed: int, model: str) -> None:
        self._chance = random.Random(seed)
        self._model = model
        self._calls = 0

    def write(self, turns: int, first: int, last: int) -> Conversation:
        head = self._head()
        messages = bytearray()
        ends, persons = [], []
        step = (last - first) / max(turns - 1, 1)
        for turn in range(turns):
            room = max(round(first + step * turn) - len(head) - len(messages) - 2, 4 * _LEAST)
            person = turn % _PERSON_EVERY == 0
            if turn == 0:
                added = [_user(self._text(room))]
            else:
                added = self._turn(room, person, picture=turn % _PICTURE_EVERY == 5)
            for message in added:
                messages += (b"," if messages else b"") + _compact(message)
            ends.append(len(messages))
            persons.append(person)
        return Conversation(head, bytes(messages), tuple(ends), tuple(persons))

    def _head(self) -> bytes:
        value = {
            "model": self._model,
            "max_tokens": 32000,
            "stream": True,
            "thinking": {"type": "enabled", "budget_tokens": 31999},
            "metadata": {"user_id": f"user_{self._hex(64)}_account__session_{self._hex(32)}"},
            "system": [
                {"type": "text", "text": "You are a coding agent."},
                {
                    "type": "text",
                    "text": self._text(_SYSTEM_BYTES),
                    "cache_control": {"type": "ephemeral"},
                },
            ],
            "tools": [self._tool(number) for number in range(_TOOLS)],
        }
        return _compact(value)[:-1] + b',"messages":['

    def _tool(self, number: int) -> dict[str, Any]:
        properties = {
            "path": {"type": "string", "description": self._text(_LEAST)},
            "limit": {"type": "number", "minimum": 0},
        }
        return {
            "name": f"Tool{number}",
            "description": self._text(_TOOL_BYTES - 2 * _LEAST),
            "input_schema": {"type": "object", "properties": properties, "required": ["path"]},
        }

    def _turn(self, room: int, person: bool, picture: bool) -> list[dict[str, Any]]:
        """What the model answered to the turn before, and what came of that."""
        if picture:
            drawn = self._picture(int(room * _PICTURE_SHARE))
            room -= len(drawn["source"]["data"])
        part = {name: max(int(room * share), _LEAST) for name, share in _SHARES.items()}
        call = f"toolu_{self._hex(24)}"
        self._calls += 1
        answered: list[dict[str, Any]] = [
            {
                "type": "thinking",
                "thinking": self._text(part["thinking"]),
                "signature": self._noise(240),
            },
            {"type": "text", "text": self._text(part["text"])},
            {
                "type": "tool_use",
                "id": call,
                "name": f"Tool{self._calls % _TOOLS}",
                "input": {"path": "/src/module.py", "new_string": self._code(part["call"])},
            },
        ]
        left = max(room - sum(part.values()) - 700, _LEAST)
        words = [{"type": "text", "text": self._text(_LEAST)}] if person else []
        content: list[dict[str, Any]] = [{"type": "text", "text": self._code(left)}]
        if picture:
            content.append(drawn)
        results = [{"type": "tool_result", "tool_use_id": call, "content": content}]
        said = [{"role": "assistant", "content": answered}, {"role": "user", "content": results}]
        if not person:
            return said
        # The model was done, and somebody asks for more.
        done = {"role": "assistant", "content": [{"type": "text", "text": self._text(_LEAST)}]}
        return [*said, done, {"role": "user", "content": words}]

    def _picture(self, size: int) -> dict[str, Any]:
        source = {"type": "base64", "media_type": "image/png", "data": self._noise(size)}
        return {"type": "image", "source": source}

    def _text(self, size: int) -> str:
        made: list[str] = []
        length = 0
        while length < size:
            word = self._chance.choice(VOCABULARY)
            made.append(word)
            length += _LENGTHS[word]
        return " ".join(made)

    def _code(self, size: int) -> str:
        """Lines with numbers in front, as a tool shows a file: short, with tabs and quotes."""
        made: list[str] = []
        length = number = 0
        while length < size:
            number += 1
            line = f'{number:6}\t    self._{self._chance.choice(_NAMES)}["{number}"] = None\n'
            made.append(line)
            length += len(line) + 4
        return "".join(made)

    def _hex(self, digits: int) -> str:
        return f"{self._chance.getrandbits(digits * 4):0{digits}x}"

    def _noise(self, size: int) -> str:
        return base64.b64encode(self._chance.randbytes(size * 3 // 4)).decode()


_LENGTHS = {word: len(json.dumps(word, ensure_ascii=False).encode()) - 1 for word in VOCABULARY}
"""Bytes that a word and the blank behind it take as JSON."""
_NAMES = ("table", "parser", "window", "counters", "settings", "upstream", "body", "reply")


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def _compact(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
