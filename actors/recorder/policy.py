"""What of an interception is recorded, and whether it is written to the log as well."""

from __future__ import annotations

from typing import Final

import attrs
import structlog
from attrs import frozen

from aigateway.actors.values.records import (
    Interception,
    InterceptionEnded,
    ModelThought,
    PromptUsage,
    Record,
    TokenUsage,
    ToolUsage,
    UsageRecord,
)

__all__ = ["RECORD_LINE", "RecordPolicy"]

RECORD_LINE: Final = "interception log"
"""The message of a line that is a record: it may hold what users and models said."""

log = structlog.get_logger("ai-gateway.records")

_TYPES: Final[dict[type[Record], str]] = {
    Interception: "interception_start",
    InterceptionEnded: "interception_end",
    TokenUsage: "token_usage",
    PromptUsage: "prompt_usage",
    ToolUsage: "tool_usage",
    ModelThought: "model_thought",
}
"""How the reference calls them in its own log lines."""
_LEFT_OUT: Final = {
    "record_id",
    "extra_token_types",
    "agent_firewall_session_id",
    "agent_firewall_sequence_number",
}
_WITHHELD: Final = {"content": "none"}
"""Metadata of a record whose content was taken out."""


@frozen(kw_only=True)
class RecordPolicy:
    """Applied where records leave an interception, before anything else sees them."""

    content: bool = True
    """Whether what users and models said may be recorded: prompts, tools' inputs, thoughts, and
    texts of errors, which may quote them."""
    lines: bool = False
    """Write each record to the log, once, wherever the control plane is."""

    def kept(self, records: list[UsageRecord]) -> list[UsageRecord]:
        """What is recorded of these, and perhaps logged."""
        if not self.content:
            records = [kept for record in records if (kept := _without_content(record))]
        for record in records:
            self.log(record)
        return records

    def end(self, record: InterceptionEnded) -> InterceptionEnded:
        """What is recorded of the end, and perhaps logged."""
        if not self.content:
            record = attrs.evolve(record, error_message=None)
        self.log(record)
        return record

    def log(self, record: Record) -> None:
        """Write a line, where lines are wanted."""
        if not self.lines:
            return
        fields = attrs.asdict(record, recurse=False, filter=_is_shown)
        if "id" in fields:
            fields["interception_id"] = fields.pop("id")
        if isinstance(record, TokenUsage) and record.extra_token_types:
            fields["metadata"] = {**record.metadata, **record.extra_token_types}
        log.info(RECORD_LINE, record_type=_TYPES[type(record)], **fields)


def _without_content(record: UsageRecord) -> UsageRecord | None:
    match record:
        case PromptUsage() | ModelThought():
            return None
        case ToolUsage():
            error = None if record.invocation_error is None else "failed"
            return attrs.evolve(
                record,
                input="{}",
                invocation_error=error,
                metadata={**record.metadata, **_WITHHELD},
            )
        case TokenUsage():
            return record


def _is_shown(attribute: attrs.Attribute[object], value: object) -> bool:
    return attribute.name not in _LEFT_OUT and value is not None
