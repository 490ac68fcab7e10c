"""A model of Anthropic's that does what it is told, and the prompt cache in front of it.

A line ``CALL name {…}`` of a prompt makes it call that tool; everything else it answers in words.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from imitation_provider import ReceivedRequest, Step, answer, event, stream

__all__ = ["ScriptedAnthropic"]

_NEAR = 20
"""So many blocks in front of a mark may end what is in the cache."""


class ScriptedAnthropic:
    """Answers requests to the Messages API; each request is kept in :attr:`received`."""

    def __init__(self) -> None:
        self.received: list[ReceivedRequest] = []
        self._cached: set[int] = set()
        self._lock = threading.Lock()

    def __call__(self, request: ReceivedRequest) -> Sequence[Step]:
        if request.method == "POST" and request.target.partition("?")[0] == "/v1/messages":
            with self._lock:
                self.received.append(request)
                number = len(self.received)
                body = request.json()
                usage = self._usage(body)
            message = {
                "id": f"msg_{number}",
                "type": "message",
                "role": "assistant",
                "model": body["model"],
                "content": _said(number, body),
                "usage": usage,
            }
            return _streamed(message) if body.get("stream") else answer(_ended(message))
        return answer({"type": "error", "error": {"type": "not_found_error", "message": "no"}}, 404)

    def _usage(self, body: dict[str, Any]) -> dict[str, int]:
        """A quarter of a prompt's characters are its tokens."""
        blocks = [json.dumps(each) for each in _blocks(body)]
        marks = [place for place, each in enumerate(blocks) if '"cache_control"' in each]
        plain = [json.dumps(_plain(each)) for each in _blocks(body)]
        sums, prefixes, whole = [0], [0], 0
        for each in plain:
            whole += len(each) // 4
            sums.append(whole)
            prefixes.append(hash((prefixes[-1], each)))
        ends = [mark + 1 for mark in marks]
        near = {end - back for end in ends for back in range(_NEAR) if end > back}
        read = max((end for end in near if prefixes[end] in self._cached), default=0)
        self._cached.update(prefixes[end] for end in ends)
        last = max([*ends, read], default=0)
        return {
            "input_tokens": whole - sums[last] + 1,
            "cache_read_input_tokens": sums[read],
            "cache_creation_input_tokens": sums[last] - sums[read],
            "output_tokens": 20,
        }


def _blocks(body: dict[str, Any]) -> Iterator[Any]:
    """What a prompt is made of, in the order in which it is cached."""
    yield from body.get("tools", [])
    system = body.get("system", [])
    yield from [{"type": "text", "text": system}] if isinstance(system, str) else system
    for message in body["messages"]:
        content = message["content"]
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        yield from [{"role": message["role"], **block} for block in content]


def _plain(block: dict[str, Any]) -> dict[str, Any]:
    if block.get("text", "").startswith("x-anthropic-billing-header"):
        return {}
    return {name: value for name, value in block.items() if name != "cache_control"}


def _said(number: int, body: dict[str, Any]) -> list[dict[str, Any]]:
    last = next(each for each in reversed(body["messages"]) if each["role"] == "user")
    content = last["content"]
    texts = [content] if isinstance(content, str) else [each.get("text", "") for each in content]
    names = {each["name"] for each in body.get("tools", [])}
    said: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": f"thought {number}", "signature": "c2ln"}
    ]
    for line in "\n".join(texts).splitlines():
        word, _, rest = line.partition(" ")
        name, _, given = rest.partition(" ")
        if word == "CALL" and name in names:
            call = {"type": "tool_use", "id": f"toolu_{number}", "name": name}
            return [*said, {**call, "input": json.loads(given)}]
    return [*said, {"type": "text", "text": f"answer {number}"}]


def _ended(message: dict[str, Any]) -> dict[str, Any]:
    calls = message["content"][-1]["type"] == "tool_use"
    return {**message, "stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}


def _streamed(message: dict[str, Any]) -> Sequence[Step]:
    whole = _ended(message)
    begun = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
    told: list[dict[str, Any]] = [{"type": "message_start", "message": begun}]
    for index, block in enumerate(message["content"]):
        kind = block["type"]
        if kind == "thinking":
            empty = {"thinking": "", "signature": ""}
            deltas: list[dict[str, Any]] = [
                {"type": "thinking_delta", "thinking": block["thinking"]},
                {"type": "signature_delta", "signature": block["signature"]},
            ]
        elif kind == "text":
            empty = {"text": ""}
            deltas = [{"type": "text_delta", "text": block["text"]}]
        else:
            empty = {"input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
        start = {"type": "content_block_start", "index": index, "content_block": {**block, **empty}}
        told.append(start)
        told += [{"type": "content_block_delta", "index": index, "delta": each} for each in deltas]
        told.append({"type": "content_block_stop", "index": index})
    ending = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    told.append({"type": "message_delta", "delta": ending, "usage": message["usage"]})
    told.append({"type": "message_stop"})
    return stream([event(each, each["type"]) for each in told])
