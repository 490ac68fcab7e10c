"""How classes of values are declared that do not change once they are made.

PERF: a class that attrs freezes refuses assignments while it runs, and so has to make its own go
round that: making an instance takes 1.6 to 1.9 times as long.  A request is told of by some thirty
values, records and messages, which makes 30 us, 3 % of its CPU.  Here the type checker alone
refuses them, which reads all of the code.  All else is as with attrs' own: compared and hashed by
what is in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

__all__ = ["frozen"]

if TYPE_CHECKING:
    from attrs import frozen
else:

    def frozen(cls: type | None = None, **options: Any) -> Any:
        """The same as ``attrs.frozen``."""
        # What is compared as itself is hashed as itself.
        options.setdefault("unsafe_hash", options.get("eq", True) or None)
        return attrs.define(cls, **options)
