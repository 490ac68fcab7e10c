"""Refusals in the shape of the API that the client's path names.

An SDK shows what a refusal says only where it finds the text in its API's own error object; of
a plain text many show the bare status.  So the texts stay, and stand where clients look.
"""

from __future__ import annotations

import json
import re

from attrs import evolve

from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.interception.error_bodies import error_body
from aigateway.actors.interception.routes import (
    CHAT_COMPLETIONS,
    CONVERSE,
    GEMINI,
    MESSAGES,
    RESPONSES,
    speaks_bedrock,
)
from aigateway.http.request.admission import parts_of
from aigateway.http.request.answers import Answer

__all__ = ["dialect_of", "shaped"]

_NAMED = re.compile(
    r"/(messages|chat/completions|responses)(?:/|\Z)|:(generateContent|streamGenerateContent)\Z"
    r"|/model/.+/(converse)(?:-stream)?\Z"
)
_APIS = {
    "messages": MESSAGES,
    "chat/completions": CHAT_COMPLETIONS,
    "responses": RESPONSES,
    "generateContent": GEMINI,
    "streamGenerateContent": GEMINI,
    "converse": CONVERSE,
}


def dialect_of(path: str, tree: ActorTree) -> str:
    """The API or provider type whose errors a client of ``path`` can read; empty: none is known.

    ``path`` is the whole one, as it came.  The words in which every client of an API asks say
    it, else the type of the provider.
    """
    path, name, rest = parts_of(path)
    config = tree.provider_config(name)
    if config is not None and config.bedrock is not None and speaks_bedrock(rest):
        # InvokeModel's errors have AWS's form too, whatever its answers have.
        return CONVERSE
    named = _NAMED.search(path if config is None else rest)
    if named is not None:
        return _APIS[named[1] or named[2] or named[3]]
    return config.type if config is not None else ""


def shaped(answer: Answer, dialect: str) -> Answer:
    """``answer`` as ``dialect`` tells errors, if it is a text of the gateway's own.

    What stands in the form of coderd's own errors keeps its fields beside the API's.
    """
    if not answer.text or not dialect:
        return _as_aws_says_it(answer) if dialect == CONVERSE else answer
    text = f"{answer.text} {answer.detail}" if answer.detail else answer.text
    body = error_body(dialect, answer.status, text)
    if answer.content_type.startswith("application/json"):
        body = json.dumps({**json.loads(body), **json.loads(answer.body)}).encode()
    return evolve(answer, body=body, content_type="application/json")


def _as_aws_says_it(answer: Answer) -> Answer:
    """An error of the gateway's in Anthropic's form, which AWS's own errors never have, in AWS's.

    Behind AWS's paths there is a provider of Anthropic's type, in whose form its errors are made.
    """
    if answer.status < 400 or not answer.body.startswith(b'{"type":"error","error":{'):
        return answer
    body = error_body(CONVERSE, answer.status, json.loads(answer.body)["error"]["message"])
    return evolve(answer, body=body)
