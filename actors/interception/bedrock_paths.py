"""Paths of AWS Bedrock's own API, which name the model and what is asked of it.

Clients write a model's colons and slashes with percent signs.  These paths are read whole and made
again for AWS, so no later hop can read them in another way.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from attrs import frozen

__all__ = ["COUNT", "InvokePath", "invoked"]

COUNT = "count-tokens"
"""The call that costs nothing."""

_PATH = re.compile(
    r"/model/(?P<model>(?:[A-Za-z0-9._:~-]|%2[Ff]|%3[Aa])+)"
    r"/(?P<call>invoke|invoke-with-response-stream|converse|converse-stream|count-tokens)"
)
_MAKER = re.compile(
    r"(?:(?:us-gov|us|eu|apac|au|ca|jp|sa|global)\.)?(?P<name>[a-z0-9]+)\.(?=[a-z])"
)
_STREAMS = frozenset({"invoke-with-response-stream", "converse-stream"})


@frozen
class InvokePath:
    """A path to a model."""

    model: str
    """By AWS's name: of a model or a profile, or an ARN.  Or by one of a provider's own list."""
    call: str

    @property
    def streaming(self) -> bool:
        return self.call in _STREAMS

    @property
    def converses(self) -> bool:
        """Whether it is Converse's, which is the same for the models of all makers."""
        return self.call.startswith("converse")

    @property
    def route(self) -> str:
        """The path without the model."""
        return f"/model/*/{self.call}"

    def for_model(self, name: str) -> str:
        """The path to the same call of another model, or of this one."""
        return f"/model/{quote(name, safe='')}/{self.call}"


def invoked(rest: str) -> InvokePath | None:
    """Read a path; ``None`` when it leads to no model, or to one whose form nobody here reads.

    To invoke the model of another maker than Anthropic takes a body of that maker's form.
    """
    found = _PATH.fullmatch(rest)
    if found is None:
        return None
    path = InvokePath(unquote(found["model"]), found["call"])
    maker = _MAKER.match(path.model)
    if maker is not None and maker["name"] != "anthropic" and not path.converses:
        return None
    return path
