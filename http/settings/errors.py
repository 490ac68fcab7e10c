"""The one error of this room."""

from __future__ import annotations

__all__ = ["SettingsError"]


class SettingsError(Exception):
    """The configuration is wrong; the text is one line that names the setting and the way out."""
