"""Vertex AI and what gives tokens for it, for tests: written from Google's documentation.

Tokens are given for an assertion that a service account has signed, in exchange for the token of
another identity, and by the metadata server of a machine.  Those that were not given here, or have
been revoked, are refused with 401.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from imitation_provider import ReceivedRequest, answer, stream
from imitation_provider._steps import Steps

from aigateway.http.demo import imitation

PROJECT = "roads-project"
VERSIONS = ("vertex-2023-10-16", "2026-10-21")
"""The one of Google's pages, and the one that Anthropic's SDKs send."""
SUBJECT = "token-of-another-identity"
EMAIL = "gateway@roads-project.iam.gserviceaccount.com"

_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
_CALL = re.compile(
    r"/v1/projects/([^/]+)/locations/([^/]+)/publishers/anthropic/models/"
    r"([^/:]+):(rawPredict|streamRawPredict)"
)
_GRANT = "urn:ietf:params:oauth:grant-type:"
_FLAVOR = [("Metadata-Flavor", "Google")]


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class VertexStub:
    """A script for a :class:`ScriptedProvider`."""

    def __init__(self, region: str = "europe-west1") -> None:
        self.region = region
        self.given: list[str] = []
        """Tokens, each with the way by which it was had."""
        self.revoked: set[str] = set()
        self.lasts = 3600
        """Seconds that tokens are good for."""
        self.asked: list[tuple[str, str]] = []
        """Model and token of each accepted request."""
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, request: ReceivedRequest) -> Steps:
        path = request.target.partition("?")[0]
        if path == "/token":
            return self._exchange(request)
        if path == "/" or path.startswith("/computeMetadata/"):
            return self._metadata(request, path)
        found = _CALL.fullmatch(path)
        if found is None or found[1] != PROJECT or found[2] != self.region:
            return _error(404, "NOT_FOUND", "the requested URL was not found")
        scheme, _, token = (request.header("Authorization") or "").partition(" ")
        if scheme != "Bearer" or token not in self.given or token in self.revoked:
            return _error(401, "UNAUTHENTICATED", "invalid authentication credentials")
        self.asked.append((found[3], token))
        return self._predict(request, found[3], streaming=found[4] == "streamRawPredict")

    # -- tokens

    def _give(self, way: str) -> Steps:
        token = f"ya29.{way}-{len(self.given):08d}-abcdefgh"
        self.given.append(token)
        told = {"access_token": token, "expires_in": self.lasts, "token_type": "Bearer"}
        if way == "workload":
            told["issued_token_type"] = "urn:ietf:params:oauth:token-type:access_token"
        return answer(told, 200, _FLAVOR)

    def _exchange(self, request: ReceivedRequest) -> Steps:
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        if form.get("grant_type") == _GRANT + "jwt-bearer":
            head, claims, signature = form["assertion"].split(".")
            _KEY.public_key().verify(
                _unpadded(signature),
                f"{head}.{claims}".encode(),
                padding.PKCS1v15(),
                hashes.SHA256(),
            )
            assert json.loads(_unpadded(claims))["iss"] == EMAIL
            return self._give("account")
        assert form["grant_type"] == _GRANT + "token-exchange"
        if form.get("subject_token") != SUBJECT:
            return answer({"error": "invalid_grant"}, 400)
        return self._give("workload")

    def _metadata(self, request: ReceivedRequest, path: str) -> Steps:
        if path.endswith("/token"):
            assert request.header("Metadata-Flavor") == "Google"
            return self._give("machine")
        if path.endswith("/project-id"):
            return answer(PROJECT, 200, _FLAVOR, content_type="text/plain")
        if path.endswith(("/universe-domain", "/universe_domain")):
            return answer("googleapis.com", 200, _FLAVOR, content_type="text/plain")
        told = {"aliases": ["default"], "email": EMAIL, "scopes": []}
        return answer(told, 200, _FLAVOR)

    def service_account(self, folder: Path, url: str) -> str:
        """A file as Google's console makes it."""
        private = _KEY.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return _written(
            folder / "account.json",
            {
                "type": "service_account",
                "project_id": PROJECT,
                "private_key_id": "one",
                "private_key": private.decode(),
                "client_email": EMAIL,
                "token_uri": f"{url}/token",
            },
        )

    def workload_identity(self, folder: Path, url: str) -> str:
        """A file as ``gcloud iam workload-identity-pools create-cred-config`` makes it."""
        (folder / "subject").write_text(SUBJECT)
        audience = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/p"
        return _written(
            folder / "workload.json",
            {
                "type": "external_account",
                "audience": audience,
                "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "token_url": f"{url}/token",
                "credential_source": {"file": str(folder / "subject")},
            },
        )

    # -- models

    def _predict(self, request: ReceivedRequest, model: str, *, streaming: bool) -> Steps:
        body = json.loads(request.body)
        self.bodies.append(body)
        counts = model == "count-tokens"
        version = body.pop("anthropic_version", "")
        if version not in VERSIONS or ("model" in body) != counts:
            return _error(400, "INVALID_ARGUMENT", "anthropic_version: unexpected value")
        asked = {**body, "model": body.get("model", model).replace("@", "-")}
        if bool(body.get("stream")) != streaming:
            return _error(400, "INVALID_ARGUMENT", "stream: unexpected value")
        path = "/v1/messages/count_tokens" if counts else "/v1/messages"
        headers = {"x-api-key": "any", "anthropic-version": "2023-06-01"}
        reply = imitation.answer(
            imitation.HeardRequest(
                method="POST", path=path, headers=headers, body=json.dumps(asked).encode()
            )
        )
        if reply.events is None:
            return answer(reply.body, reply.status)
        return stream(list(reply.events))


def _written(path: Path, value: dict[str, Any]) -> str:
    path.write_text(json.dumps(value))
    return str(path)


def _error(status: int, kind: str, message: str) -> Steps:
    return answer({"error": {"code": status, "message": message, "status": kind}}, status)
