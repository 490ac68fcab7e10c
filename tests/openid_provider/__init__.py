"""A real OpenID provider (oidc-provider-mock) in a process of its own, for tests.

::

    with OpenIdProvider() as provider:
        provider.knows("ada", email="ada@example.org", email_verified=True, groups=["admins"])
"""

from __future__ import annotations

import os
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

import requests
from waiting import PATIENCE

__all__ = ["OpenIdProvider"]

_PROGRAM = """
import sys
from oidc_provider_mock import run_server_in_thread
with run_server_in_thread(require_nonce=True) as server:
    print(server.server_port, flush=True)
    sys.stdin.read()
"""


class OpenIdProvider:
    """Lets in whoever says a name of somebody it knows."""

    def __init__(self) -> None:
        self.issuer = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            # It uses what its own libraries are about to give up.
            [sys.executable, "-W", "ignore", "-c", _PROGRAM],
            env={**os.environ, "AUTHLIB_INSECURE_TRANSPORT": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        self.issuer = f"http://localhost:{int(self._process.stdout.readline())}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate(timeout=PATIENCE)

    def knows(self, subject: str, **claims: Any) -> None:
        """Somebody, with what is said of that one."""
        answer = requests.put(f"{self.issuer}/users/{subject}", json=claims, timeout=PATIENCE)
        assert answer.status_code == 204, answer.text

    def lets_in(self, place: str, subject: str) -> str:
        """Say at its page ``place`` that one is ``subject``; the address that it sends back to."""
        answer = requests.post(
            place, data={"sub": subject}, allow_redirects=False, timeout=PATIENCE
        )
        assert answer.status_code == 302, answer.text
        return answer.headers["Location"]
