"""Azure OpenAI for tests, written from Azure's documentation: which keys and tokens it takes, where
it wants a version, and that a deployment answers whatever model the body names.

A resource has deployments, each of a model.  A token of Entra ID has an issuer's signature (a made
up one) and an end; those of others, and those whose time has come, are refused with 401.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from attrs import evolve
from imitation_provider import ReceivedRequest, answer, imitate
from imitation_provider._steps import Steps

KEY = "0123456789abcdef0123456789abcdef"
DEPLOYMENTS = {"prod-chat": "gpt-4.1-2025-04-14", "prod-vectors": "text-embedding-3-small"}
MODELS = frozenset(DEPLOYMENTS.values())
AUDIENCE = "https://cognitiveservices.azure.com"
VERSION = re.compile(r"20\d\d-\d\d-\d\d(-preview)?|preview|v1")

_DATED = re.compile(r"/openai/deployments/([^/]+)(/.+)")
_SECRET = b"issuer"


def _part(value: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def entra_token(seconds: float, *, name: str = "one", audience: str = AUDIENCE) -> str:
    """A token that ends in so many seconds."""
    head = _part({"typ": "JWT", "alg": "HS256"})
    body = _part({"aud": audience, "exp": int(time.time() + seconds), "jti": name})
    return f"{head}.{body}.{_signature(f'{head}.{body}')}"


def _signature(text: str) -> str:
    digest = hmac.new(_SECRET, text.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def claims(token: str) -> dict[str, Any] | None:
    """What a token says, if the issuer has signed it."""
    text, _, signature = token.rpartition(".")
    if not text or not hmac.compare_digest(signature, _signature(text)):
        return None
    body = text.partition(".")[2]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return found


class AzureStub:
    """A script for a :class:`ScriptedProvider`."""

    def __init__(self) -> None:
        self.revoked: set[str] = set()
        """Names of tokens that are refused although their time has not come."""
        self.asked: list[tuple[str, str]] = []
        """Target and credential (``key`` or a token's name) of each accepted request."""
        self._imitate = imitate()

    def __call__(self, request: ReceivedRequest) -> Steps:
        path, _, query = request.target.partition("?")
        who = self._who(request)
        if who is None:
            said = (
                "Access denied due to invalid subscription key or wrong API endpoint. Make sure to "
                "provide a valid key for an active subscription"
            )
            return answer({"error": {"code": "401", "message": said}}, 401)
        self.asked.append((request.target, who))
        if path.startswith("/openai/v1/"):
            return self._answer(request, path.removeprefix("/openai"), None)
        version = parse_qs(query).get("api-version", [""])
        if not path.startswith("/openai/") or len(version) != 1 or not VERSION.fullmatch(*version):
            return answer({"error": {"code": "404", "message": "Resource not found"}}, 404)
        if (dated := _DATED.fullmatch(path)) is None:
            return self._answer(request, f"/v1{path.removeprefix('/openai')}", None)
        model = DEPLOYMENTS.get(dated[1])
        if model is None:
            said = "The API deployment for this resource does not exist."
            return answer({"error": {"code": "DeploymentNotFound", "message": said}}, 404)
        return self._answer(request, f"/v1{dated[2]}", model)

    def _who(self, request: ReceivedRequest) -> str | None:
        if request.header("api-key") is not None:
            return "key" if request.header("api-key") == KEY else None
        scheme, _, token = (request.header("Authorization") or "").partition(" ")
        said = claims(token) if scheme == "Bearer" else None
        if said is None or said["aud"] != AUDIENCE or said["exp"] <= time.time():
            return None
        return None if said["jti"] in self.revoked else str(said["jti"])

    def _answer(self, request: ReceivedRequest, path: str, model: str | None) -> Steps:
        """What OpenAI would answer; ``model`` is a deployment's, whatever the body says."""
        if not request.body:
            return self._imitated(request, path, request.body)
        if path.startswith("/v1/audio/"):
            return answer({"text": "Hello, Ghent."})
        body = json.loads(request.body)
        if model is None and (model := DEPLOYMENTS.get(body.get("model"))) is None:
            said = "The API deployment for this resource does not exist."
            return answer({"error": {"code": "DeploymentNotFound", "message": said}}, 404)
        if path == "/v1/embeddings":
            vector = {"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}
            usage = {"prompt_tokens": 8, "total_tokens": 8}
            return answer({"object": "list", "model": model, "data": [vector], "usage": usage})
        return self._imitated(request, path, json.dumps({**body, "model": model}).encode())

    def _imitated(self, request: ReceivedRequest, path: str, body: bytes) -> Steps:
        headers = [("Authorization", "Bearer any"), ("Content-Type", "application/json")]
        line = f"{request.method} {path} HTTP/1.1"
        return self._imitate(evolve(request, request_line=line, headers=headers, body=body))
