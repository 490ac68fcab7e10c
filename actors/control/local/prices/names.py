"""The names one model goes by: dated, pinned, in a region, behind a path.

What a provider is asked for is seldom the name on its page of prices.  ``claude-sonnet-4-5`` is
``claude-sonnet-4-5-20250929``, ``claude-sonnet-4-5@20250929`` on Vertex, and
``us.anthropic.claude-sonnet-4-5-20250929-v1:0`` on Bedrock, alone or at the end of an ARN.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

__all__ = ["is_same_model", "spellings"]

_PATH = re.compile(r"^(?:arn:[^/]*/|(?:projects/.*/)?(?:publishers/[^/]*/)?models/|google/)")
"""AWS's inference profiles and foundation models; Google's resource names."""
_AT = re.compile(r"@(?=\d{8}$)")
_BEHIND = re.compile(
    r"(?:-v\d+(?::\d+(?::\w+)?)?"  # Bedrock: a version, perhaps with a size of context
    r"|[-@]\d{8}|-\d{4}-\d{2}-\d{2}"  # a date: Anthropic's, OpenAI's
    r"|[-@]latest|@default"
    r"|\[1m\])$"  # Claude Code's mark of a long context
)
_REGION = re.compile(r"^(?:us-gov|us|eu|apac|au|ca|jp|sa|global)\.")
_MAKER = re.compile(r"^[a-z0-9-]+\.(?=[a-z])")
"""Bedrock: who made the model."""


def is_same_model(one: str, other: str) -> bool:
    """Whether two names are of one model, whatever its date and region."""
    return _bare(one) == _bare(other)


# PERF: the same few models come again and again; some 6 us less for each record.
@lru_cache(maxsize=1000)
def _bare(model: str) -> str:
    *_, shortest = spellings(model)
    return _MAKER.sub("", shortest)


def spellings(model: str) -> Iterator[str]:
    """The names that may stand in a table for ``model``, the most exact first, in lower case.

    A dated name comes before the one without its date, a regional one before the one of all
    regions, since a table may know a price of their own for them.
    """
    name = model.strip().lower()
    given = {name: None}
    if (short := _PATH.sub("", name)) != name:
        given[short] = None
    for each in list(given):
        given[_AT.sub("-", each)] = None
    for each in list(given):
        while (shorter := _BEHIND.sub("", each)) != each and shorter:
            given[shorter] = None
            each = shorter
    for each in list(given):
        if (anywhere := _REGION.sub("", each)) != each:
            given[anywhere] = None
    yield from given
