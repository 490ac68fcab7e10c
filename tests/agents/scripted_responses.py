"""A model of OpenAI's that does what it is told, over HTTP and WebSockets, and its prompt cache.

A line ``CALL type name {…}`` of a prompt makes it call that tool, ``namespace/name`` one of a
namespace; everything else it answers in words.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any

from imitation_provider import ReceivedRequest, Step, answer, event, stream
from socket_provider import SocketProvider
from websockets.sync.server import ServerConnection

__all__ = ["ScriptedResponses"]

_STEP = 128
"""Tokens are cached in steps."""
_LEAST = 1024


class ScriptedResponses:
    """Answers requests to the Responses API; each is kept in :attr:`received`."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self._prompts: list[list[str]] = []
        self._stored: dict[str, list[dict[str, Any]]] = {}
        """For each response what a later one goes on from."""
        self._lock = threading.Lock()

    def __call__(self, request: ReceivedRequest) -> Sequence[Step]:
        if request.method == "POST" and request.target == "/v1/responses":
            return stream([event(each, each["type"]) for each in self._events(request.json())])
        return answer({"error": {"message": "not here", "type": "invalid_request_error"}}, 404)

    def socket(
        self, _provider: SocketProvider, connection: ServerConnection, asked: dict[str, Any]
    ) -> None:
        """As the script of a provider with WebSockets."""
        if asked["type"] != "response.create":
            # An interruption of what is over.
            return
        for each in self._events(asked):
            connection.send(json.dumps(each))

    def _events(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        with self._lock:
            self.received.append(body)
            number = len(self.received)
            given = [*self._stored.get(body.get("previous_response_id") or "", []), *body["input"]]
            whole, read = self._cache(body, given)
            output = [] if body.get("generate") is False else _said(number, given)
            id = f"resp_{number}"
            self._stored[id] = [*given, *output]
        response = {"id": id, "object": "response", "model": body["model"], "output": []}
        usage = {
            "input_tokens": whole,
            "input_tokens_details": {"cached_tokens": read},
            "output_tokens": 20,
            "output_tokens_details": {"reasoning_tokens": 5},
            "total_tokens": whole + 20,
        }
        told: list[dict[str, Any]] = [
            {"type": "response.created", "response": {**response, "status": "in_progress"}}
        ]
        for place, item in enumerate(output):
            told.append({"type": "response.output_item.done", "output_index": place, "item": item})
        whole_response = {**response, "status": "completed", "output": output, "usage": usage}
        told.append({"type": "response.completed", "response": whole_response})
        return [{**each, "sequence_number": place} for place, each in enumerate(told)]

    def _cache(self, body: dict[str, Any], given: list[dict[str, Any]]) -> tuple[int, int]:
        """Tokens of a prompt, a quarter of its characters, and how many of them are cached."""
        parts = [json.dumps([body["model"], body.get("tools")]), body.get("instructions") or ""]
        parts += [json.dumps(_plain(each), sort_keys=True) for each in given]
        read = 0
        for other in self._prompts:
            same = 0
            for mine, theirs in zip(parts, other, strict=False):
                if mine != theirs:
                    break
                same += len(mine) // 4
            read = max(read, same // _STEP * _STEP)
        self._prompts.append(parts)
        return sum(len(each) // 4 for each in parts), read if read >= _LEAST else 0


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    """What a model reads of an item."""
    return {
        name: value
        for name, value in item.items()
        if name not in ("id", "status") and value is not None
    }


def _said(number: int, given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    thought = {
        "type": "reasoning",
        "id": f"rs_{number}",
        "summary": [{"type": "summary_text", "text": f"thought {number}"}],
        "encrypted_content": "gAAAAAB" + "x" * 40,
    }
    last = given[-1] if given else {}
    if last.get("type") == "compaction_trigger":
        return [{"type": "compaction", "id": f"cmp_{number}", "encrypted_content": "gAAAAAC"}]
    content = last.get("content") or []
    texts = [each.get("text", "") for each in content] if last.get("role") == "user" else []
    for line in "\n".join(texts).splitlines():
        if line.startswith("CALL "):
            _, kind, name, asked = line.split(" ", 3)
            call = {"type": kind, "id": f"fc_{number}", "call_id": f"call_{number}"}
            namespace, _, name = name.rpartition("/")
            if namespace:
                call["namespace"] = namespace
            member = "input" if kind == "custom_tool_call" else "arguments"
            return [thought, {**call, "name": name, member: asked}]
    text = {"type": "output_text", "text": f"answer {number}", "annotations": []}
    message = {"type": "message", "id": f"msg_{number}", "role": "assistant", "content": [text]}
    return [thought, {**message, "status": "completed"}]
