"""Paths and queries of the Gemini API: paths name the model, and what is asked of it.

A name with percent signs is none here: a colon that is written ``%3A`` might be one for the
provider, and lead to a method that was not looked at.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_plus

from attrs import frozen

__all__ = ["ModelPath", "as_looked_at", "model_path", "resource_name"]

_PATH = re.compile(
    r"/(?P<version>v1|v1alpha|v1beta)/models/(?P<model>[A-Za-z0-9._@+~-]+)"
    r"(?::(?P<method>[A-Za-z]+))?"
)


@frozen
class ModelPath:
    """A path to a model, or to a method of one."""

    version: str
    """``v1``, ``v1alpha`` or ``v1beta``."""
    model: str
    """Without the ``models/`` in front."""
    method: str
    """``generateContent`` for example; empty: the model itself is asked for."""

    def for_model(self, name: str) -> str:
        """The same path with another model's name."""
        resource = resource_name(name)
        method = f":{self.method}" if self.method else ""
        return f"/{self.version}/{quote(resource, safe='/@+~')}{method}"


def resource_name(model: str) -> str:
    """The whole name of a model; one with a slash is whole, such as ``tunedModels/one``."""
    return model if "/" in model else f"models/{model}"


def model_path(rest: str) -> ModelPath | None:
    """Read the path below a provider's name; ``None`` when it leads to no model."""
    found = _PATH.fullmatch(rest)
    if found is None:
        return None
    return ModelPath(found["version"], found["model"], found["method"] or "")


def as_looked_at(query: str) -> str:
    """The query without parameters that make another request of the one that was looked at, or
    leave out of its answer what is to be recorded; the rest as it came."""
    return "&".join(
        part
        for part in query.split("&")
        if unquote_plus(part.partition("=")[0]).lower().removeprefix("$") not in _SYSTEM
    )


_SYSTEM = frozenset({"httpmethod", "httpheaders", "req", "ct", "fields", "callback"})
"""Google's "system parameters", which all its APIs take, most with and without the ``$``.  They
give the request another method, headers, body or kind of body, keep fields of the answer back
(the tokens, for example), and make JavaScript of it."""
