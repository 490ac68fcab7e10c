"""Making records: what every API's interception does the same way."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from types import MappingProxyType

from aigateway.actors.interception.conversation import NO_OPENING, Opening, Prompt
from aigateway.actors.values.frozen import frozen
from aigateway.actors.values.records import (
    ModelAnswer,
    ModelThought,
    PromptUsage,
    TokenUsage,
    ToolUsage,
    UsageRecord,
)

__all__ = ["INCOMPLETE", "NOTHING", "TRUNCATED", "ClientRequest", "RecordMaker", "Text"]

NOTHING: Mapping[str, object] = MappingProxyType({})
INCOMPLETE: Mapping[str, object] = MappingProxyType({"usage_complete": False})
"""Metadata of usage that was not seen to its end."""
TRUNCATED: Mapping[str, object] = MappingProxyType({"truncated": True})
"""Metadata of a text that was too long to be kept whole."""

TEXT_LIMIT = 4 * 1024 * 1024
"""Characters kept of one text.

A record of more than 4 MiB cannot travel: that is the largest packet a control plane takes."""

_DONE = frozenset(
    {
        "end_turn",
        "tool_use",
        "stop_sequence",
        "stop",
        "tool_calls",
        "function_call",
        "completed",
        "STOP",
    }
)
"""Reasons to stop that tell nothing: the model had said what it wanted to say."""


@frozen(kw_only=True)
class ClientRequest:
    """What was read from a client's request."""

    id: str
    body: bytes
    """What goes upstream."""
    model: str
    streaming: bool
    prompt: str | None = None
    prompt_kind: str | None = None
    """Who spoke, for the prompt's metadata (:data:`~.conversation.PromptKind`)."""
    correlating_tool_call_id: str | None = None
    refusal: tuple[int, bytes] | None = None
    opening: Opening = NO_OPENING
    written: Prompt | None = None
    """The prompt as it is written; None where it is not a conversation."""


class RecordMaker:
    """The records of one interception, until somebody takes them."""

    # PERF: of more than 30 attributes Python looks up each by its name.
    __slots__ = (
        "_answers",
        "_asked_model",
        "_divert",
        "_end_metadata",
        "_prompt",
        "_prompt_kind",
        "_records",
        "_usage_unread",
        "id",
    )

    def __init__(self, request: ClientRequest) -> None:
        self.id = request.id
        self._answers = False
        """Texts of answers are recorded."""
        self._asked_model = request.model
        self._end_metadata: dict[str, object] = {}
        """What is known of the answer that belongs to the end of the interception."""
        self._prompt = request.prompt
        self._prompt_kind = request.prompt_kind
        self._records: list[UsageRecord] = []
        self._divert: Callable[[ToolUsage], bool] | None = None
        self._usage_unread = False
        """An event that may have told usage could not be read, and none has told it since."""

    def divert_tools(self, take: Callable[[ToolUsage], bool]) -> None:
        """Show ``take`` each call of a tool first; where it says true, there is no record."""
        self._divert = take

    def keep_answers(self) -> None:
        """Record the texts of the answer too; to be told before it begins."""
        self._answers = True

    def take_records(self) -> list[UsageRecord]:
        """Records that have become known since the last call."""
        records, self._records = self._records, []
        return records

    def _note_answer(self, *, model: str | None = None, stop_reason: str | None = None) -> None:
        """Note who answers, if it is another model than was asked, and why the answer ended, if
        it is not because the model was done."""
        if model and model != self._asked_model:
            self._end_metadata["provider_model"] = model
        elif model:
            self._end_metadata.pop("provider_model", None)
        if stop_reason and stop_reason not in _DONE:
            self._end_metadata["stop_reason"] = stop_reason

    def _note_reasons(self, reasons: Mapping[int, str]) -> None:
        """Note why an answer of several choices ended, by their numbers: the first one that was
        not simply done counts."""
        for index in sorted(reasons, reverse=True):
            self._note_answer(stop_reason=reasons[index])

    def _metadata_of_call(self, *, whole: bool) -> dict[str, object]:
        """Metadata for the token record of a billed call: what has been noted of its answer.

        ``whole`` says that the usage was seen to its end.  A Coder deployment has no place for
        metadata of an interception's end, so its token records carry them too.
        """
        seen = whole and not self._usage_unread
        return {**self._end_metadata, **({} if seen else INCOMPLETE)}

    def _record_prompt(self, msg_id: str, now: float) -> None:
        """Record the prompt unless there is none or it has been."""
        if self._prompt is None:
            return
        kind = self._prompt_kind
        self._records.append(
            PromptUsage(
                interception_id=self.id,
                msg_id=msg_id,
                prompt=self._prompt,
                created_at=now,
                metadata={} if kind is None else {"prompt_kind": kind},
            )
        )
        self._prompt = None

    def _record_thought(
        self,
        content: str | None,
        source: str,
        now: float,
        *,
        truncated: bool = False,
    ) -> None:
        if content:
            cut = TRUNCATED if truncated else NOTHING
            self._records.append(
                ModelThought(
                    interception_id=self.id,
                    content=content,
                    created_at=now,
                    metadata={"source": source, **cut},
                )
            )

    def _record_answer(
        self,
        msg_id: str,
        content: str | None,
        now: float,
        metadata: Mapping[str, object] = NOTHING,
        *,
        truncated: bool = False,
    ) -> None:
        """Record a text of the answer, where answers are recorded."""
        if content and self._answers:
            cut = TRUNCATED if truncated else NOTHING
            self._records.append(
                ModelAnswer(
                    interception_id=self.id,
                    msg_id=msg_id,
                    content=content,
                    created_at=now,
                    metadata={**metadata, **cut},
                )
            )

    def _record_tokens(
        self,
        msg_id: str,
        now: float,
        metadata: Mapping[str, object],
        *,
        extra: Mapping[str, int],
        input_tokens: int = 0,
        output_tokens: int = 0,
        cache_read_input_tokens: int = 0,
        cache_write_input_tokens: int = 0,
    ) -> None:
        self._records.append(
            TokenUsage(
                interception_id=self.id,
                msg_id=msg_id,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                created_at=now,
                cache_read_input_tokens=cache_read_input_tokens,
                cache_write_input_tokens=cache_write_input_tokens,
                extra_token_types=dict(extra),
                metadata=dict(metadata),
            )
        )

    def _record_tool(
        self,
        msg_id: str,
        now: float,
        metadata: Mapping[str, object] = NOTHING,
        *,
        tool: str,
        input: str,
        tool_call_id: str = "",
        item_id: str = "",
        invocation_error: str | None = None,
    ) -> None:
        usage = ToolUsage(
            interception_id=self.id,
            msg_id=msg_id,
            tool=tool,
            input=input,
            created_at=now,
            tool_call_id=tool_call_id,
            item_id=item_id,
            invocation_error=invocation_error,
            metadata=dict(metadata),
        )
        if self._divert is None or not self._divert(usage):
            self._records.append(usage)


class Text:
    """Collects the parts of a text, up to a limit; the rest is dropped and noted."""

    __slots__ = ("_parts", "truncated")

    def __init__(self, first: str = "") -> None:
        self._parts = io.StringIO()
        self.truncated = False
        self.write(first)

    def write(self, part: str) -> None:
        room = TEXT_LIMIT - self._parts.tell()
        if len(part) > room:
            self.truncated = True
            part = part[:room]
        self._parts.write(part)

    def value(self) -> str:
        return self._parts.getvalue()
