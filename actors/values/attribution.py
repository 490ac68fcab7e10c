"""For which work a request was made, as its client says."""

from __future__ import annotations

from attrs import frozen

__all__ = ["NO_ATTRIBUTION", "Attribution"]


@frozen
class Attribution:
    """What a client says of the work that a request is part of; None: it does not say.

    A session is a user and a session's id together: two users never share one, whatever their
    clients say.
    """

    session_id: str | None = None
    """The conversation as a whole; what subagents ask belongs to the session of who began them."""
    agent_id: str | None = None
    """The subagent that asks; None: the session itself."""
    parent_agent_id: str | None = None
    """The subagent that began this one; None: the session itself did, or nobody says."""
    project: str | None = None
    repository: str | None = None
    """``host/owner/name``, without a scheme, a user or a password."""
    branch: str | None = None
    commit: str | None = None
    """In hexadecimal, lower case."""


NO_ATTRIBUTION = Attribution()
