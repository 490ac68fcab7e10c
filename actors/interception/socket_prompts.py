"""What the prompts on a connection are made of, also of those that go on from earlier responses.

A request on a WebSocket names the response before it and sends only what is new.  What the model
reads then is that one's prompt, its output, and the new.  All of it went through this connection,
so the checksums of it are here: six bytes for each item.
"""

from __future__ import annotations

from typing import Final

from aigateway.actors.interception.conversation import Prompt
from aigateway.actors.interception.fingerprint import MOST_MESSAGES, parts_behind, parts_of
from aigateway.actors.interception.responses_socket import SocketResponse
from aigateway.actors.values.prompt_parts import PromptParts, encoded

__all__ = ["SocketPrompts"]

_KEPT: Final = 16
"""Responses from which a request may go on and be compared: a few in each lane."""


class SocketPrompts:
    """The prompts of one connection.

    :meth:`fingerprint` is called by the one who reads the client, :meth:`answered` by the one who
    reads the provider, before the client sees the end of that answer.
    """

    def __init__(self) -> None:
        self._behind: dict[str, PromptParts] = {}
        """For each response its prompt and its output."""

    def fingerprint(self, key: bytes, prompt: Prompt, response: SocketResponse) -> bytes:
        """The checksums of a prompt that ``response`` will answer, for a record; empty where
        they are not known, for a prompt that is too long, and for what is not a turn."""
        if not prompt.compared:
            return b""
        if not prompt.follows:
            parts = parts_of(key, prompt)
        elif (before := self._behind.get(prompt.follows)) is not None:
            parts = parts_behind(key, before, prompt)
        else:
            return b""
        # Beside tools and system prompt.
        if len(parts) - 2 > MOST_MESSAGES:
            return b""
        response.remember(key, parts)
        return encoded(parts) if response.generates and parts.first_message else b""

    def answered(self, response: SocketResponse) -> None:
        """A response has ended in good order."""
        if response.parts is None or not response.msg_id:
            return
        self._behind[response.msg_id] = response.parts
        while len(self._behind) > _KEPT:
            del self._behind[next(iter(self._behind))]
