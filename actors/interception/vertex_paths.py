"""Paths of Claude on Google's Vertex AI, which name a project, a place and the model.

Project and place are those of the provider that answers, whatever a client writes.
"""

from __future__ import annotations

import re

from attrs import frozen

__all__ = ["COUNTING", "VertexPath", "vertex_name", "vertex_path"]

COUNTING = "count-tokens"
"""What stands in the place of a model to count tokens; the model is in the body then."""

_NAME = r"[A-Za-z0-9._-]+"
_PATH = re.compile(
    rf"/v1/projects/{_NAME}/locations/{_NAME}/publishers/anthropic/models/"
    r"(?P<model>[A-Za-z0-9._@-]+):(?P<call>rawPredict|streamRawPredict)"
)
_DATE = re.compile(r"-(?=\d{8}$)")


@frozen
class VertexPath:
    """A call of a model."""

    model: str
    streaming: bool = False

    @property
    def call(self) -> str:
        return "streamRawPredict" if self.streaming else "rawPredict"

    @property
    def route(self) -> str:
        """The path without names."""
        model = self.model if self.model == COUNTING else "*"
        return f"/v1/projects/*/locations/*/publishers/anthropic/models/{model}:{self.call}"

    def below(self, project: str, region: str) -> str:
        """The path in a project and a place."""
        place = f"/v1/projects/{project}/locations/{region}"
        return f"{place}/publishers/anthropic/models/{self.model}:{self.call}"


def vertex_path(rest: str) -> VertexPath | None:
    """Read the path below a provider's name; ``None`` when it is none of Vertex's."""
    found = _PATH.fullmatch(rest)
    if found is None:
        return None
    return VertexPath(found["model"], found["call"] == "streamRawPredict")


def vertex_name(model: str) -> str:
    """Google's name of one of Anthropic's models: dates stand behind an ``@`` there."""
    return _DATE.sub("@", model)
