"""Tool calls of a completion that arrive in parts, and where one ends and another begins.

OpenAI numbers the calls of a choice and names each once, in its first part.  Others number all
of them 0 or none, leave their ids out, repeat the name in each part, or give each part an id of
its own.  So a part belongs to the call with its number, unless :meth:`OpenCall.ends_before` it.
"""

from __future__ import annotations

from attrs import define, field

from aigateway.actors.codec.reading import is_json
from aigateway.actors.interception._chat_chunk import CallPart
from aigateway.actors.interception._record_maker import Text

__all__ = ["OpenCall"]


@define
class OpenCall:
    """A tool call that is still arriving."""

    id: str = ""
    name: str = ""
    custom: bool = False
    arguments: Text = field(factory=Text)

    @property
    def is_whole(self) -> bool:
        """Whether what has come can be all; of a custom tool's text nobody can tell."""
        return self.custom or is_json(self.arguments.value().encode())

    def ends_before(self, part: CallPart) -> bool:
        """Whether a part with this call's number is the first one of another call."""
        name = part.name
        if not name or not self.name:
            return False
        if part.id and self.id and part.id != self.id:
            return True
        if name != self.name:
            return self.is_whole or not self.arguments.value().strip()
        if part.id and part.id == self.id:
            return False
        # The same name again: the same call, unless nothing can be added to it.
        return part.arguments.lstrip().startswith("{") and self.is_whole

    def add(self, part: CallPart) -> None:
        """Take what the part says."""
        self.id = self.id or part.id or ""
        self.name = self.name or part.name
        self.custom = self.custom or part.custom is not None
        self.arguments.write(part.arguments)
