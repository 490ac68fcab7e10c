"""A Messages request in the form that Bedrock takes.

Bedrock names the model and the mode in the path, takes ``anthropic_version`` and
``anthropic_beta`` in the body, and refuses fields and beta flags that it does not know.
Which those are depends on the model: :data:`_OLD` says it for yesterday's models, and
whatever is not in there is taken for a new one.  A flag and the fields that belong to it go
together, or neither does.  The edits are splices: what is not edited keeps its bytes, so that
prompt caches and signed thinking blocks stay valid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal
from urllib.parse import quote

import msgspec
from attrs import evolve, frozen

from aigateway.actors.codec.reading import (
    Object,
    boolean,
    count,
    items,
    members,
    text,
)
from aigateway.actors.codec.splice import (
    delete_member,
    edit_elements,
    object_members,
    spliced,
)
from aigateway.actors.values.provider_config import BedrockConfig

__all__ = [
    "ANTHROPIC_VERSION",
    "allowed_betas",
    "invoke_path",
    "model_behind",
    "replacement_model",
    "rewrite_body",
]

ANTHROPIC_VERSION = "bedrock-2023-05-31"
"""The only version of the request format that Bedrock knows."""

MIN_BUDGET = 1024
"""Tokens: Anthropic's smallest thinking budget."""

_NULL = b"null"

_UNKNOWN_FIELDS = (
    "container",
    "diagnostics",
    "inference_geo",
    "metadata",
    "service_tier",
    "speed",
    "tags",
)
"""Members of the top that Bedrock refuses; their flags are not among :data:`_BETAS`."""

_EFFORT = "effort-2025-11-24"
_CONTEXT_MANAGEMENT = "context-management-2025-06-27"
_TOOL_SEARCH = "tool-search-tool-2025-10-19"
_TOOL_EXAMPLES = "tool-examples-2025-10-29"
_TOOL_STREAMING = "fine-grained-tool-streaming-2025-05-14"

_BETAS = frozenset(
    {
        "computer-use-2025-01-24",
        "token-efficient-tools-2025-02-19",
        "interleaved-thinking-2025-05-14",
        "output-128k-2025-02-19",
        "dev-full-thinking-2025-05-14",
        "context-1m-2025-08-07",
        _CONTEXT_MANAGEMENT,
        _EFFORT,
        _TOOL_SEARCH,
        _TOOL_EXAMPLES,
        _TOOL_STREAMING,
    }
)
"""Beta flags that Bedrock knows; it refuses a request with any other."""

_OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "advanced-tool-use-2025-11-20": (_TOOL_SEARCH, _TOOL_EXAMPLES)
}
"""Flags that Bedrock calls otherwise."""


@frozen
class _Rules:
    """What a model takes."""

    thinking: Literal["none", "budget", "any", "adaptive"]
    """How it may be told to think; ``any``: with a budget and without."""
    output_config: Literal["no", "flag", "effort"]
    """Not at all, with the flag for effort, or without a flag but for ``format``."""
    no_betas: frozenset[str] = frozenset({_EFFORT, _CONTEXT_MANAGEMENT})
    """Flags that it does not take, nor what belongs to them."""


_NEW = _Rules("adaptive", "effort")
_EARLY = _Rules("budget", "no", _NEW.no_betas | {_TOOL_SEARCH, _TOOL_EXAMPLES})
_OLD: tuple[tuple[re.Pattern[str], _Rules], ...] = tuple(
    (re.compile(pattern, re.ASCII), rules)
    for pattern, rules in (
        (r"claude-3-7", evolve(_EARLY, no_betas=_EARLY.no_betas | {_TOOL_STREAMING})),
        (
            r"claude-(?:instant|v?[123](?!\d))",
            evolve(_EARLY, thinking="none", no_betas=_EARLY.no_betas | {_TOOL_STREAMING}),
        ),
        (r"claude-(?:opus|sonnet)-4(?:-0)?(?:-2025|(?![-\d]))|claude-opus-4-1(?!\d)", _EARLY),
        (r"claude-haiku-4-5", evolve(_EARLY, no_betas=_EARLY.no_betas - {_CONTEXT_MANAGEMENT})),
        (r"claude-sonnet-4-5", _Rules("budget", "no", frozenset({_EFFORT}))),
        (r"claude-opus-4-5", _Rules("budget", "flag", frozenset({_CONTEXT_MANAGEMENT}))),
        (r"claude-(?:opus|sonnet)-4-6", _Rules("any", "no")),
    )
)
"""Models that take less than today's; the first that is found in a name counts.

From AWS's pages on Claude's request parameters and on thinking, as of September 2026.
"""

_BUDGET_SHARE = {"low": 0.2, "medium": 0.5, "max": 0.95}
"""Share of max_tokens to think with, by effort; any other effort is high."""
_HIGH_SHARE = 0.8


def replacement_model(requested: str, config: BedrockConfig) -> str:
    """The model to ask for instead of the requested one."""
    return config.small_fast_model if "haiku" in requested else config.model


def model_behind(config: BedrockConfig, model: str, asked: str = "") -> str:
    """The model that AWS computes with when it is asked for ``model``.

    An ARN says nothing of it: then it is as configured, else what the client asked for
    (``asked``, where that was mapped to this ARN), else unknown, and taken for a new one.
    """
    found = config.resolved.upstream(model) if config.resolved is not None else None
    if found is not None:
        return found
    return asked if asked and model.startswith("arn:") and "claude" not in model else model


def invoke_path(model: str, *, streaming: bool) -> str:
    """The path of a call, percent-encoded: a model may be an ARN, with slashes and colons."""
    operation = "invoke-with-response-stream" if streaming else "invoke"
    return f"/model/{quote(model, safe='')}/{operation}"


def allowed_betas(values: Iterable[str], model: str) -> tuple[str, ...]:
    """Those of the client's beta flags that Bedrock takes for ``model``, by its names for them,
    each once.

    ``values`` are those of the ``Anthropic-Beta`` headers: flags, or lists with commas.
    """
    refused = _rules(model).no_betas
    flags = (flag.strip() for value in values for flag in value.split(","))
    known = (name for flag in flags for name in _OTHER_NAMES.get(flag, (flag,)))
    return tuple(dict.fromkeys(flag for flag in known if flag in _BETAS and flag not in refused))


def rewrite_body(body: bytes, *, model: str, betas: tuple[str, ...]) -> bytes:
    """Make the body for ``model`` from the client's (JSON without content coding).

    ``model`` is the one that AWS computes with.  ``betas`` are the flags of the client's
    headers; those in its body are added, and those that belong to fields of its tools.  A body
    that is not an object is returned as it is: Bedrock will say so.
    """
    fields = members(body)
    rules = _rules(model)
    own = [text(item) or "" for item in items(fields.get("anthropic_beta"))]
    flags = list(allowed_betas([*betas, *own], model))
    changes: dict[str, bytes | None] = dict.fromkeys(("model", "stream", *_UNKNOWN_FIELDS))
    thinking = _thinking(fields, rules)
    if thinking is not None:
        changes["thinking"] = thinking or None
    if rules.output_config == "effort":
        if "format" in members(fields.get("output_config", _NULL)):
            changes["output_config"] = delete_member(bytes(fields["output_config"]), "format")
    elif _EFFORT not in flags:
        changes["output_config"] = None
    if _CONTEXT_MANAGEMENT not in flags:
        changes["context_management"] = None
    if "tools" in fields:
        tools = bytes(fields["tools"])
        edited = edit_elements(tools, lambda tool: _tool(tool, rules, flags))
        if edited != tools:
            changes["tools"] = edited
    if b'"scope"' in body:
        for name in ("system", "messages", "tools"):
            if name in fields:
                before = changes.get(name) or bytes(fields[name])
                after = edit_elements(before, _without_scope)
                if after != before:
                    changes[name] = after
        if "scope" in members(fields.get("cache_control")):
            changes["cache_control"] = delete_member(bytes(fields["cache_control"]), "scope")
    if flags or "anthropic_beta" in fields:
        changes["anthropic_beta"] = msgspec.json.encode(flags) if flags else None
    if "anthropic_version" not in fields:
        changes["anthropic_version"] = msgspec.json.encode(ANTHROPIC_VERSION)
    return _edited(body, changes)


def _rules(model: str) -> _Rules:
    return next((rules for pattern, rules in _OLD if pattern.search(model)), _NEW)


def _thinking(fields: Object, rules: _Rules) -> bytes | None:
    """The thinking that the model understands, nothing when the client's will do, empty for
    none at all."""
    wanted = members(fields.get("thinking", _NULL))
    kind = text(wanted.get("type"))
    match rules.thinking:
        case "none":
            return b""
        case "adaptive" if kind == "enabled":
            shown = wanted.get("display")
            display = b"" if shown is None else b',"display":' + bytes(shown)
            return b'{"type":"adaptive"' + display + b"}"
        case "budget" if kind == "adaptive":
            return _budget(fields)
        case _:
            return None


def _budget(fields: Object) -> bytes | None:
    max_tokens = count(fields.get("max_tokens"))
    if max_tokens <= 0:
        # Bedrock refuses such a request, with a better text than any of ours.
        return None
    effort = text(members(fields.get("output_config", _NULL)).get("effort"))
    budget = int(max_tokens * _BUDGET_SHARE.get(effort or "", _HIGH_SHARE))
    if budget < MIN_BUDGET:
        return b'{"type":"disabled"}'
    return b'{"type":"enabled","budget_tokens":%d}' % budget


def _tool(tool: bytes, rules: _Rules, flags: list[str]) -> bytes | None:
    """One tool as the model takes it; its flags are added to ``flags``.  None: not at all."""
    fields = members(tool)
    if "eager_input_streaming" in fields:
        if boolean(fields["eager_input_streaming"]):
            _need(_TOOL_STREAMING, rules, flags)
        tool = delete_member(tool, "eager_input_streaming")
    searches = (text(fields.get("type")) or "").startswith("tool_search_tool")
    if (searches or "defer_loading" in fields) and not _need(_TOOL_SEARCH, rules, flags):
        if searches:
            return None
        tool = delete_member(tool, "defer_loading")
    if "input_examples" in fields and not _need(_TOOL_EXAMPLES, rules, flags):
        tool = delete_member(tool, "input_examples")
    return tool


def _need(flag: str, rules: _Rules, flags: list[str]) -> bool:
    """Whether the model takes a flag, which is sent then."""
    if flag in rules.no_betas:
        return False
    if flag not in flags:
        flags.append(flag)
    return True


def _without_scope(block: bytes) -> bytes:
    """A content block, tool or message whose caches have no scope: Bedrock knows none."""
    edits = []
    for member in object_members(block):
        value = block[member.value_start : member.value_end]
        if member.name == "cache_control" and "scope" in members(value):
            edits.append((member.value_start, member.value_end, delete_member(value, "scope")))
        elif member.name == "content" and value.startswith(b"["):
            edits.append(
                (member.value_start, member.value_end, edit_elements(value, _without_scope))
            )
    return spliced(block, edits)


def _edited(document: bytes, changes: Mapping[str, bytes | None]) -> bytes:
    """Replace, add and (None) remove members of the top, in one pass over the text.

    New members come first.
    """
    inside = document.find(b"{") + 1
    if document[:inside].strip() != b"{":
        return document
    found = object_members(document)
    kept: list[bytes] = []
    for place, member in enumerate(found):
        value = changes.get(member.name, document[member.value_start : member.value_end])
        if value is None:
            continue
        # What stands before the first member stays before the first that is kept.
        if kept:
            before = document[found[place - 1].value_end : member.start]
        else:
            before = document[inside : found[0].start]
        kept += [before, document[member.start : member.value_start], value]
    added = _added(changes, {member.name for member in found})
    if not kept:
        added = added.removesuffix(b",")
    rest = document[found[-1].value_end if found else inside :]
    return b"".join([document[:inside], added, *kept, rest])


def _added(changes: Mapping[str, bytes | None], present: set[str]) -> bytes:
    return b"".join(
        msgspec.json.encode(name) + b":" + value + b","
        for name, value in changes.items()
        if value is not None and name not in present
    )
