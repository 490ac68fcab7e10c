"""The versions of coderd's gateway API, and what came with each."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["NEWEST", "ApiVersion"]


class ApiVersion(NamedTuple):
    """A version that both sides have agreed on.

    coderd serves clients of its own major version and any minor up to its own.
    """

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @classmethod
    def parse(cls, text: str) -> ApiVersion | None:
        """Read ``major.minor``; nothing if the text is something else."""
        major, dot, minor = text.strip().partition(".")
        if dot and major.isdecimal() and minor.isdecimal() and len(text) < 20:
            return cls(int(major), int(minor))
        return None

    @property
    def has_providers(self) -> bool:
        """GetAIProviders."""
        return self >= (1, 1)

    @property
    def may_have_budgets(self) -> bool:
        """IsBudgetExceeded, which came after 1.1 without a version of its own."""
        return self >= (1, 1)

    @property
    def has_watch(self) -> bool:
        """WatchAIProviders."""
        return self >= (1, 2)

    @property
    def has_model_authorization(self) -> bool:
        """``provider_name`` and ``model`` in IsAuthorized."""
        return self >= (1, 4)


NEWEST = ApiVersion(1, 4)
