"""Bedrock's runtime for tests: InvokeModel, Converse and CountTokens behind AWS's gate.

Written from AWS's documentation.  Answers to invocations are those of the demonstration.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

from aws_imitation import FRAMES, aws_error, aws_gate, bedrock_stream, frame
from imitation_provider import ReceivedRequest, answer, stream
from imitation_provider._steps import Steps

from aigateway.http.demo import imitation

ACCESS_KEY, SECRET = "AKIAROADS0123456789A", "roads-secret-0123456789abcdef"
_PATH = re.compile(
    r"/model/([^/]+)/(invoke|invoke-with-response-stream|converse|converse-stream|count-tokens)"
)
VERSIONS = ("bedrock-2023-05-31", "2026-10-21")
"""The one of AWS's pages, and the one that Anthropic's SDKs send."""
USAGE = {
    "inputTokens": 11,
    "outputTokens": 7,
    "totalTokens": 21,
    "cacheReadInputTokens": 2,
    "cacheWriteInputTokens": 1,
}


def converse_frame(name: str, payload: dict[str, Any]) -> bytes:
    headers = {
        ":event-type": name,
        ":content-type": "application/json",
        ":message-type": "event",
    }
    return frame(json.dumps({**payload, "p": "abc"}).encode(), headers)


CONVERSED = [
    converse_frame("messageStart", {"role": "assistant"}),
    converse_frame("contentBlockDelta", {"delta": {"text": "Good "}, "contentBlockIndex": 0}),
    converse_frame("contentBlockDelta", {"delta": {"text": "day."}, "contentBlockIndex": 0}),
    converse_frame("contentBlockStop", {"contentBlockIndex": 0}),
    converse_frame("messageStop", {"stopReason": "end_turn"}),
    converse_frame("metadata", {"usage": USAGE, "metrics": {"latencyMs": 9}}),
]
CONVERSATION = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Good day."}]}},
    "stopReason": "end_turn",
    "usage": USAGE,
    "metrics": {"latencyMs": 9},
}


class BedrockStub:
    """A script for a :class:`ScriptedProvider`."""

    def __init__(self) -> None:
        self.models: list[str] = []
        """What was asked for, behind the gate."""
        self._gate = aws_gate(self._behind, secrets={ACCESS_KEY: SECRET})

    def __call__(self, request: ReceivedRequest) -> Steps:
        return self._gate(request)

    def _behind(self, request: ReceivedRequest) -> Steps:
        found = _PATH.fullmatch(request.target.partition("?")[0])
        if found is None:
            return aws_error(404, "UnknownOperationException", "there is no such operation")
        model, call = unquote(found[1]), found[2]
        self.models.append(model)
        body = json.loads(request.body)
        if call == "count-tokens":
            return answer({"inputTokens": 42})
        if "converse" in call:
            if "modelId" in body:
                return aws_error(400, "ValidationException", "modelId: extraneous key")
            if call == "converse":
                return answer(CONVERSATION)
            return stream(CONVERSED, content_type=FRAMES)
        if body.get("anthropic_version") not in VERSIONS or {"model", "stream"} & set(body):
            return aws_error(400, "ValidationException", "malformed input request")
        return self._invoked(body, model, streaming=call != "invoke")

    def _invoked(self, body: dict[str, Any], model: str, *, streaming: bool) -> Steps:
        name = model.rpartition("anthropic.")[2]
        asked = {**body, "model": name, "stream": streaming}
        for field in ("anthropic_version", "anthropic_beta"):
            asked.pop(field, None)
        headers = {"x-api-key": "any", "anthropic-version": "2023-06-01"}
        reply = imitation.answer(
            imitation.HeardRequest(
                method="POST", path="/v1/messages", headers=headers, body=json.dumps(asked).encode()
            )
        )
        if reply.events is None:
            if reply.status >= 400:
                said = json.loads(reply.body)["error"]["message"]
                return aws_error(reply.status, "ValidationException", said)
            return answer(reply.body)
        events = [json.loads(each.partition(b"data: ")[2]) for each in reply.events]
        return bedrock_stream([each for each in events if each["type"] != "ping"])
