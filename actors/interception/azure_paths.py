"""Paths of Azure OpenAI, as its users write them.

Three ways lead to the same calls: ``/v1/…`` as everywhere, ``/openai/v1/…`` as it stands in Azure's
own addresses, and the dated API below ``/openai``, which wants ``?api-version=`` and names what
Azure calls a deployment in the path: ``/openai/deployments/<name>/chat/completions``.

A deployment with percent signs in its name is none here: Azure allows letters, digits, ``-``, ``_``
and ``.`` only.
"""

from __future__ import annotations

import re

from attrs import frozen

__all__ = ["AZURE", "AZURE_ROOT", "AzurePath", "azure_path", "azure_url", "without_version"]

AZURE = "azure"
"""The provider type."""
AZURE_ROOT = "/openai/"
"""What the paths of Azure's own begin with."""

_DEPLOYMENT = re.compile(r"/openai/deployments/(?P<name>[A-Za-z0-9._-]+)(?P<call>/.+)")
_VERSIONED = "/openai/v1/"
_ENDING = re.compile(r"/openai(?:/v1|/deployments/[^/]*)?$")


@frozen
class AzurePath:
    """A path below ``/openai``."""

    rest: str
    """The path of the same call in OpenAI's own API, with its ``/v1``."""
    deployment: str = ""
    """Which is asked; empty: the request's body says that."""
    dated: bool = False
    """Whether it wants a version in the query."""

    @property
    def route(self) -> str:
        """The path without the name of a deployment."""
        call = self.rest.removeprefix("/v1")
        if self.deployment:
            return f"/openai/deployments/*{call}"
        return f"/openai{call}" if self.dated else f"/openai/v1{call}"

    def for_deployment(self, name: str) -> str:
        """The path to the same call of another deployment."""
        return f"/openai/deployments/{name}{self.rest.removeprefix('/v1')}"


def azure_path(rest: str) -> AzurePath | None:
    """Read the path below a provider's name; ``None`` when it is none of Azure's own."""
    if not rest.startswith(AZURE_ROOT):
        return None
    if rest.startswith(_VERSIONED):
        return AzurePath(rest.removeprefix("/openai"))
    if found := _DEPLOYMENT.fullmatch(rest):
        return AzurePath(f"/v1{found['call']}", found["name"], dated=True)
    return AzurePath(f"/v1{rest.removeprefix('/openai')}", dated=True)


def azure_url(front: str, rest: str) -> str:
    """The address of a path.

    ``front`` is the provider's own without its query.  It may be the resource itself, or end in
    ``/openai``, ``/openai/v1`` or a deployment; any other one is taken for that of the versioned
    API, as that of a proxy may be.
    """
    path = azure_path(rest)
    ending = _ENDING.search(front)
    # https://host: without a path of its own it is the resource.
    root = front[: ending.start()] if ending else front
    if path is not None and path.dated:
        return root + rest
    plain = (path.rest if path is not None else rest).removeprefix("/v1")
    if front.count("/") == 2 or front.endswith("/openai"):
        return f"{root}/openai/v1{plain}"
    return front + plain


def without_version(query: str) -> str:
    """A query without Azure's ``api-version``, which no other provider knows."""
    return "&".join(part for part in query.split("&") if not part.startswith("api-version="))
