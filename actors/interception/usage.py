"""What one answer has cost so far, as its provider tells it, and the calls it is billed for.

Within one answer every usage that a provider reports is a running total, field by field: the
last value counts, upwards and downwards.  A field that is absent or null leaves what an earlier
event said, and 0 sets it.  There is one token record for each billed call of a model, written
when the answer ends or breaks, so that the records of an interception add up to what is billed.

Most answers are one call of a model.  Some of Anthropic's Messages API are several: the provider
compacts the conversation, lets another model advise, hands over to another model when one
declines, or samples again after a tool of its own.  ``usage.iterations`` lists them; the counts
beside it leave out compaction, advisors and who declined, and may count the input of the first
sampling only.  So where there are iterations, they are the bill.

A model that declines before it has written anything is not billed, though its tokens are told,
but for some categories of refusals ("Refusals and fallback" in Anthropic's documentation): its
record counts nothing, and keeps what was told as ``not_billed`` in its metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field

from aigateway.actors.codec.reading import as_count

__all__ = [
    "COUNTS",
    "BilledCall",
    "Refusals",
    "RunningUsage",
    "billed_calls",
]


_NONE: Mapping[str, Any] = {}


class RunningUsage:
    """The usage object of one answer, put together from all that were reported."""

    __slots__ = ("fields", "groups")

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        """The last value of each field that is not an object."""
        self.groups: dict[str, dict[str, Any]] = {}
        """The same of each field inside of an object, ``cache_creation`` for example."""

    def __bool__(self) -> bool:
        """Whether anything was reported."""
        return bool(self.fields or self.groups)

    def take(self, usage: Mapping[str, Any]) -> None:
        """Take note of a usage object, whole or in part, as :func:`~.codec.reading.values`
        reads it."""
        for name, value in usage.items():
            if value is None:
                continue
            if value.__class__ is not dict:
                self.fields[name] = value
            elif (group := self.groups.get(name)) is None:
                self.groups[name] = {key: each for key, each in value.items() if each is not None}
            else:
                group.update({key: each for key, each in value.items() if each is not None})

    def group(self, name: str) -> Mapping[str, Any]:
        """One of them, or nothing."""
        return self.groups.get(name, _NONE)

    def count(self, name: str, inner: str = "") -> int:
        """A number of tokens by its field, or by its object's name and its field; 0 if unknown."""
        value = self.groups.get(name, _NONE).get(inner) if inner else self.fields.get(name)
        return 0 if value is None else as_count(value)


COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)
"""The counts that every call has, by Anthropic's names."""
_SAMPLED = frozenset({"message", "fallback_message"})
"""Iterations that the counts beside them are about."""


_BILLED_REFUSALS = frozenset({"bio", "frontier_llm", "reasoning_extraction"})
"""Categories of refusals that are billed although nothing was written."""


@define
class Refusals:
    """Who declined in one answer, and on what grounds; an unnamed category is empty."""

    last: str | None = None
    """The category of the refusal that the answer ended with, if it did."""
    handed_over: dict[str, str] = field(factory=dict)
    """The categories of those who handed over to another model, by their names."""


@define
class BilledCall:
    """One call of a model."""

    counts: dict[str, int]
    extra: dict[str, int] = field(factory=dict)
    """Counts of other kinds, for ``extra_token_types``."""
    metadata: dict[str, object] = field(factory=dict)
    model: str | None = None
    """Who was called; ``None`` when it is who answers."""


def billed_calls(
    usage: RunningUsage, refusals: Refusals, *, asked_model: str
) -> Sequence[BilledCall]:
    """The calls of an answer, from all that its usage told."""
    told = usage.fields.get("iterations")
    if not told and refusals.last is None:
        # PERF: nearly all answers; 2 us less for each.
        fields = usage.fields
        only = BilledCall({name: as_count(fields.get(name)) for name in COUNTS})
        _add_what_belongs_to_all(only, [only], usage)
        return [only]
    listed = told if isinstance(told, list) else ()
    calls = [_iteration(each) for each in listed if isinstance(each, dict)]
    calls = [call for call in calls if call.metadata]
    sampled = [call for call in calls if call.metadata["iteration"] in _SAMPLED]
    if not sampled:
        sampled = [BilledCall(dict.fromkeys(COUNTS, 0))]
        calls += sampled
    _complete(sampled, usage)
    _leave_out_refused(sampled, refusals, asked_model)
    _add_what_belongs_to_all(sampled[-1], calls, usage)
    return calls


def _iteration(told: Mapping[str, Any]) -> BilledCall:
    kind, counts, model = told.get("type"), told.get("usage"), told.get("model")
    if not isinstance(counts, dict) or not counts:
        counts = told
    written = counts.get("cache_creation")
    return BilledCall(
        {name: as_count(counts.get(name)) for name in COUNTS},
        _lifetimes(written if isinstance(written, dict) else {}),
        {"iteration": kind} if kind and isinstance(kind, str) else {},
        model if isinstance(model, str) else None,
    )


def _complete(sampled: Sequence[BilledCall], usage: RunningUsage) -> None:
    """Give the last call what the counts beside the iterations tell: the list may be older.

    The counts of an only call are those; output is the sum of all that was sampled.
    """
    last = sampled[-1].counts
    if len(sampled) == 1:
        last.update({name: usage.count(name) for name in COUNTS if name in usage.fields})
    else:
        written = sum(call.counts["output_tokens"] for call in sampled)
        last["output_tokens"] += max(usage.count("output_tokens") - written, 0)


def _leave_out_refused(sampled: Sequence[BilledCall], refusals: Refusals, asked_model: str) -> None:
    last = sampled[-1]
    handed_over = last.metadata.get("iteration") == "fallback_message"
    for call in sampled:
        if call is last:
            category = refusals.last
        elif handed_over:
            # Those before who served were asked first, and have no name in older answers.
            call.model = call.model or asked_model
            declined = call.model != last.model
            category = refusals.handed_over.get(call.model, "") if declined else None
        else:
            continue
        if category is None or category in _BILLED_REFUSALS or call.counts["output_tokens"]:
            continue
        call.metadata["not_billed"] = {name: told for name, told in call.counts.items() if told}
        call.counts = dict.fromkeys(COUNTS, 0)


def _add_what_belongs_to_all(
    last: BilledCall, calls: Sequence[BilledCall], usage: RunningUsage
) -> None:
    """Put what is told once for the answer where it is counted once, or with every call."""
    if not any(any(call.extra.values()) for call in calls):
        last.extra = _lifetimes(usage.group("cache_creation"))
    requests = {name: as_count(told) for name, told in usage.group("server_tool_use").items()}
    last.extra = {"web_search_requests": 0, **requests, **last.extra}
    if thought := usage.count("output_tokens_details", "thinking_tokens"):
        last.extra["output_thinking"] = thought
    for name in ("service_tier", "speed", "inference_geo"):
        value = usage.fields.get(name)
        if value and isinstance(value, str):
            for call in calls:
                call.metadata[name] = value


def _lifetimes(written: Mapping[str, Any]) -> dict[str, int]:
    """Tokens written to a cache, by how long that keeps them."""
    return {
        "cache_ephemeral_1h_input": as_count(written.get("ephemeral_1h_input_tokens")),
        "cache_ephemeral_5m_input": as_count(written.get("ephemeral_5m_input_tokens")),
    }
