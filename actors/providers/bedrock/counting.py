"""Anthropic's ``count_tokens`` as AWS's operation CountTokens, without I/O.

AWS counts for a foundation model only, never for a profile or an ARN, and wants the body of
an InvokeModel request inside.
"""

from __future__ import annotations

import re
from base64 import b64encode
from urllib.parse import quote

import msgspec

from aigateway.actors.codec.reading import count, members, text
from aigateway.actors.codec.splice import set_member
from aigateway.actors.interception.error_bodies import error_body
from aigateway.actors.interception.outcomes import message_of
from aigateway.actors.interception.routes import MESSAGES
from aigateway.actors.providers.bedrock.models import foundation_id

__all__ = [
    "COUNT_TOKENS",
    "answerable",
    "count_answer",
    "count_body",
    "count_path",
    "foundation_model",
]

COUNT_TOKENS = "/v1/messages/count_tokens"
"""Anthropic's path."""

_GEOGRAPHY = re.compile(r"(?:us|eu|au|jp|apac|global|us-gov)\.(?=anthropic\.)")
_CANNOT = re.compile(
    r"support.{0,20}count(?:ing)?.?tokens|count(?:ing)?.?tokens.{0,40}support", re.IGNORECASE
)


def foundation_model(computed: str) -> str | None:
    """The foundation model of a profile or of one of Anthropic's names; None: not known."""
    plain = _GEOGRAPHY.sub("", computed.rpartition("/")[2])
    if plain.startswith("anthropic."):
        return plain
    return foundation_id(plain)


def count_path(model: str) -> str:
    """The path of a call, percent-encoded."""
    return f"/model/{quote(model, safe='')}/count-tokens"


def answerable(body: bytes) -> bytes:
    """A client's body for ``count_tokens`` as one that asks for an answer.

    AWS reads it so, and an answer needs ``max_tokens``: more than the budget for thinking.
    """
    fields = members(body)
    if not fields or "max_tokens" in fields:
        return body
    budget = count(members(fields.get("thinking")).get("budget_tokens"))
    return set_member(body, b"%d" % (budget + 1), "max_tokens")


def count_body(invoke_body: bytes) -> bytes:
    """The body of a call; ``invoke_body`` is that of InvokeModel."""
    encoded = b64encode(invoke_body).decode()
    return msgspec.json.encode({"input": {"invokeModel": {"body": encoded}}})


def count_answer(status: int, body: bytes) -> tuple[int, bytes]:
    """AWS's answer as Anthropic's: status and body."""
    fields = members(body)
    if status == 200 and "inputTokens" in fields:
        return 200, b'{"input_tokens":' + bytes(fields["inputTokens"]) + b"}"
    said = text(fields.get("message")) or text(fields.get("Message"))
    message = said or message_of(status, bytearray(body))
    if status == 200 or (status == 400 and _CANNOT.search(message)):
        status = 501
    return status, error_body(MESSAGES, status, message)
