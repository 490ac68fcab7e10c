"""What the recorder tells itself."""

from __future__ import annotations

from attrs import frozen

__all__ = ["BeginsTooLate", "Claim", "Step", "Tick", "Wake", "Write"]


@frozen
class Write:
    """All that was in the inbox before this is written together."""


@frozen
class Wake:
    """A pause is over, or a refused record may be tried again."""


@frozen
class Tick:
    """Time for house-keeping."""


@frozen
class Step:
    """Go on with work that is done in small steps."""


@frozen
class Claim:
    """Look for a spool again: the disk had no room for one."""


@frozen
class BeginsTooLate:
    """No control plane has come in time."""
