"""Files of the zoo: one vendor's answers, and what is to be recorded of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen
from aws_imitation import FRAMES, chunk_frame

from aigateway.actors.interception.interface import Interception
from aigateway.actors.interception.opening import open_interception
from aigateway.actors.providers.bedrock.answer import BedrockInterception
from aigateway.actors.values.records import (
    ModelThought,
    PromptUsage,
    TokenUsage,
    ToolUsage,
    UsageRecord,
)

__all__ = ["Animal", "Seen", "animals"]

NOW = 1_700_000_000.25
_SECTION = re.compile(r"^-- ([a-z ]+) --\n", re.MULTILINE)
_SECTIONS = frozenset(
    {"api", "request", "stream", "frames", "body", "shown"}
    | {f"{name}{of}" for name in ("records", "end") for of in ("", " of stream", " of body")}
)


@frozen
class Seen:
    """What came of one exchange."""

    client: bytes
    records: list[str]
    end: dict[str, Any]


@frozen
class Animal:
    """One way of one vendor to answer: ``way`` is ``stream`` or ``body``."""

    name: str
    way: str
    sections: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.name}-{self.way}"

    @property
    def answer(self) -> bytes:
        """The bytes that the vendor sends."""
        if self.way == "body":
            return self.sections["body"].strip().encode()
        if "frames" in self.sections:
            lines = self.sections["frames"].splitlines()
            return b"".join(chunk_frame(line.encode()) for line in lines if line)
        return _on_the_wire(self.sections["stream"])

    @property
    def shown(self) -> bytes:
        """The bytes that the client gets."""
        if self.way == "stream" and "shown" in self.sections:
            return _on_the_wire(self.sections["shown"])
        if self.way == "stream" and "frames" in self.sections:
            lines = [line for line in self.sections["frames"].splitlines() if line]
            return b"".join(
                f"event: {json.loads(line)['type']}\ndata: {line}\n\n".encode() for line in lines
            )
        return self.answer

    @property
    def records(self) -> list[str]:
        """The records that must come of it, sorted."""
        lines = self._expected("records").splitlines()
        return sorted(_written(json.loads(line)) for line in lines if line)

    @property
    def end(self) -> dict[str, Any]:
        """The end that must come of it."""
        return dict(json.loads(self._expected("end") or "{}"))

    def _expected(self, section: str) -> str:
        own = self.sections.get(f"{section} of {self.way}")
        return self.sections.get(section, "") if own is None else own

    def carry(self, reads: Sequence[bytes]) -> Seen:
        """Run the exchange with the answer in these reads."""
        request = json.loads(self.sections["request"])
        request["stream"] = self.way == "stream"
        # Gemini's API has the last two in its path.
        interception: Interception = open_interception(
            self.sections["api"].strip(),
            id="int-1",
            body=json.dumps(request).encode(),
            model=request.get("model", ""),
            streaming=request["stream"],
        )
        kind = "application/json" if self.way == "body" else "text/event-stream"
        if "frames" in self.sections:
            interception = BedrockInterception(interception, request["model"])
            kind = FRAMES if self.way == "stream" else kind
        interception.begin_answer(200, [("Content-Type", kind)])
        client = b"".join(interception.receive_data(read, NOW) for read in reads)
        client += interception.receive_end(NOW)
        outcome = interception.outcome()
        end: dict[str, Any] = {}
        if outcome.error_type is not None:
            end["error"] = [outcome.error_type, outcome.error_message]
        if outcome.metadata:
            end["metadata"] = dict(outcome.metadata)
        if interception.cut:
            end["cut"] = True
        records = sorted(_written(_told(each)) for each in interception.take_records())
        return Seen(client, records, end)


def animals() -> list[Animal]:
    """All that the zoo has."""
    return list(_animals())


def _animals() -> Iterator[Animal]:
    here = Path(__file__).parent
    for path in sorted(here.glob("*/*.zoo")):
        _comment, *rest = _SECTION.split(path.read_text())
        sections = dict(zip(rest[::2], rest[1::2], strict=True))
        assert sections.keys() <= _SECTIONS, f"{path}: what is {sections.keys() - _SECTIONS}?"
        name = path.relative_to(here).with_suffix("").as_posix()
        for way in ("stream", "body"):
            if way in sections or (way == "stream" and "frames" in sections):
                yield Animal(name, way, sections)


def _on_the_wire(section: str) -> bytes:
    """A stream ends with the one blank line that ends its last event."""
    return (section.strip("\n") + "\n\n").replace("␍", "\r").encode()


def _told(record: UsageRecord) -> dict[str, Any]:
    match record:
        case PromptUsage():
            told: dict[str, Any] = {"prompt": record.prompt}
        case TokenUsage():
            counts = [record.input_tokens, record.output_tokens]
            counts += [record.cache_read_input_tokens, record.cache_write_input_tokens]
            told = {"tokens": counts, "extra": dict(record.extra_token_types)}
        case ToolUsage():
            told = {
                "tool": record.tool,
                "id": record.tool_call_id or record.item_id,
                "input": json.loads(record.input),
            }
        case ModelThought():
            return {"thought": record.content, "metadata": dict(record.metadata)}
    return {**told, "msg_id": record.msg_id, "metadata": dict(record.metadata)}


def _written(record: Mapping[str, Any]) -> str:
    """A record in the order and brevity of the files, so that differences can be read."""
    order = ("prompt", "tokens", "tool", "thought", "id", "input", "msg_id", "extra", "metadata")
    assert record.keys() <= set(order), f"what is {record.keys() - set(order)}?"
    brief = {}
    for name in order:
        value = record.get(name)
        if name == "extra" and value:
            value = {kind: number for kind, number in value.items() if number}
        if name in {"extra", "metadata"} and value:
            value = dict(sorted(value.items()))
        if name in {"prompt", "tokens", "tool", "thought", "input"} & record.keys() or value:
            brief[name] = value
    return json.dumps(brief, ensure_ascii=False)
