"""A Messages request in the form that Bedrock takes.

Bedrock names the model and the mode in the path, takes ``anthropic_version`` and
``anthropic_beta`` in the body, and refuses fields and beta flags that it does not know.
Which those are depends on the model.  The edits are splices: what is not edited keeps its
bytes, so that prompt caches and signed thinking blocks stay valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import quote

import msgspec

from aigateway.actors.providers.config import BedrockConfig
from aigateway.actors.providers.interception.reading import Object, count, members, text
from aigateway.actors.providers.interception.splice import delete_member, object_members

__all__ = [
    "ANTHROPIC_VERSION",
    "allowed_betas",
    "invoke_path",
    "replacement_model",
    "rewrite_body",
]

ANTHROPIC_VERSION = "bedrock-2023-05-31"
"""The only version of the request format that Bedrock knows."""

MIN_BUDGET = 1024
"""Tokens: Anthropic's smallest thinking budget."""

_NULL = b"null"

_UNKNOWN_FIELDS = ("metadata", "service_tier", "container", "inference_geo")

_EFFORT = "effort-2025-11-24"
_CONTEXT_MANAGEMENT = "context-management-2025-06-27"
_BETAS: Mapping[str, tuple[str, ...]] = {
    "computer-use-2025-01-24": (),
    "token-efficient-tools-2025-02-19": (),
    "interleaved-thinking-2025-05-14": (),
    "output-128k-2025-02-19": (),
    "dev-full-thinking-2025-05-14": (),
    "context-1m-2025-08-07": (),
    _CONTEXT_MANAGEMENT: ("anthropic.claude-sonnet-4-5", "anthropic.claude-haiku-4-5"),
    _EFFORT: ("anthropic.claude-opus-4-5",),
    "tool-search-tool-2025-10-19": (),
    "tool-examples-2025-10-29": (),
}
"""Beta flags that Bedrock takes, and the models that a flag is for (none: all)."""

_TAKES_ADAPTIVE = ("anthropic.claude-opus-4-6", "anthropic.claude-sonnet-4-6")
"""Models whose thinking is left as the client asked for it."""
_NEEDS_ADAPTIVE = (
    "anthropic.claude-opus-4-7",
    "anthropic.claude-opus-4-8",
    "anthropic.claude-sonnet-5",
)
"""Models that know no thinking budget, and an output_config without ``format``."""

_BUDGET_SHARE = {"low": 0.2, "medium": 0.5, "max": 0.95}
"""Share of max_tokens to think with, by effort; any other effort is high."""
_HIGH_SHARE = 0.8


def replacement_model(requested: str, config: BedrockConfig) -> str:
    """The model to ask for instead of the requested one."""
    return config.small_fast_model if "haiku" in requested else config.model


def invoke_path(model: str, *, streaming: bool) -> str:
    """The path of a call, percent-encoded: a model may be an ARN, with slashes and colons."""
    operation = "invoke-with-response-stream" if streaming else "invoke"
    return f"/model/{quote(model, safe='')}/{operation}"


def allowed_betas(values: Iterable[str], model: str) -> tuple[str, ...]:
    """Those of the client's beta flags that Bedrock takes for ``model``, each once.

    ``values`` are those of the ``Anthropic-Beta`` headers: flags, or lists with commas.
    """
    flags = (flag.strip() for value in values for flag in value.split(","))
    kept = (flag for flag in flags if flag in _BETAS and _is_for(_BETAS[flag], model))
    return tuple(dict.fromkeys(kept))


def rewrite_body(body: bytes, *, model: str, betas: tuple[str, ...]) -> bytes:
    """Make the body for ``model`` from the client's (JSON without content coding).

    ``betas`` are the flags to send.  A body that is no object is returned as it is: Bedrock
    will say so.
    """
    fields = members(body)
    changes: dict[str, bytes | None] = dict.fromkeys(("model", "stream", *_UNKNOWN_FIELDS))
    thinking = _thinking(fields, model)
    if thinking is not None:
        changes["thinking"] = thinking
    if _is_for(_NEEDS_ADAPTIVE, model):
        if "format" in members(fields.get("output_config", _NULL)):
            changes["output_config"] = delete_member(bytes(fields["output_config"]), "format")
    elif _EFFORT not in betas:
        changes["output_config"] = None
    if _CONTEXT_MANAGEMENT not in betas:
        changes["context_management"] = None
    if betas:
        changes["anthropic_beta"] = msgspec.json.encode(betas)
    if "anthropic_version" not in fields:
        changes["anthropic_version"] = msgspec.json.encode(ANTHROPIC_VERSION)
    return _edited(body, changes)


def _is_for(models: tuple[str, ...], model: str) -> bool:
    return not models or any(name in model for name in models)


def _thinking(fields: Object, model: str) -> bytes | None:
    """The thinking that ``model`` understands, or nothing when the client's will do."""
    kind = text(members(fields.get("thinking", _NULL)).get("type"))
    if _is_for(_NEEDS_ADAPTIVE, model):
        return b'{"type":"adaptive"}' if kind == "enabled" else None
    if kind != "adaptive" or _is_for(_TAKES_ADAPTIVE, model):
        return None
    max_tokens = count(fields.get("max_tokens"))
    if max_tokens <= 0:
        # Bedrock refuses such a request, with a better text than any of ours.
        return None
    effort = text(members(fields.get("output_config", _NULL)).get("effort"))
    budget = int(max_tokens * _BUDGET_SHARE.get(effort or "", _HIGH_SHARE))
    if budget < MIN_BUDGET:
        return b'{"type":"disabled"}'
    return b'{"type":"enabled","budget_tokens":%d}' % budget


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
