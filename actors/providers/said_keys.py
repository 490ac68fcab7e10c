"""What a command says a provider's key is: running it, and reading what it writes.

NOTE: settings are read with it before gevent patches anything, so it imports no client and no lock.
"""

from __future__ import annotations

import base64
import binascii
import shlex
import subprocess
from datetime import datetime
from typing import Any

import msgspec
from attrs import field, frozen

__all__ = ["COMMAND_TIMEOUT", "KeyCommandFailed", "SaidKey", "output_of", "said_key"]

COMMAND_TIMEOUT = 30.0
"""Seconds for a command that says a secret."""

_KEYS = ("accessToken", "access_token", "token", "key")
_ENDS = ("expires_on", "expires_at", "expiration")


class KeyCommandFailed(Exception):
    """The command has said nothing.

    APPSEC: neither what it writes nor its arguments are in the text.
    """


@frozen
class SaidKey:
    """What a command said."""

    key: str = field(repr=False)
    expires_at: float | None = field(default=None, eq=False)
    """Unix seconds; None: nobody knows."""


def output_of(command: str) -> str:
    """What the command writes, without the space around it.  No shell has a hand in it.

    Raises KeyCommandFailed.
    """
    try:
        argv = shlex.split(command)
    except ValueError as ex:
        raise KeyCommandFailed(f"it is not a command: {str(ex).lower()}") from ex
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_TIMEOUT
        )
    except subprocess.TimeoutExpired as ex:
        raise KeyCommandFailed(f"no answer within {COMMAND_TIMEOUT:g} s") from ex
    except (OSError, ValueError, IndexError) as ex:
        reason = getattr(ex, "strerror", None) or "it is not a command"
        raise KeyCommandFailed(f"the command cannot be run: {reason}") from ex
    if done.returncode != 0:
        raise KeyCommandFailed(f"the command failed with code {done.returncode}")
    text = done.stdout.decode("utf-8", "replace").strip()
    if not text:
        raise KeyCommandFailed("the command wrote nothing")
    return text


def said_key(text: str, now: float) -> SaidKey:
    """The key in what a command wrote: all of it, or a member of a JSON object, such as the one
    that ``az account get-access-token`` writes; and when it ends, where that or the key itself
    says so.

    ``now`` is Unix seconds.  Raises KeyCommandFailed for an object without a key.
    """
    if not text.startswith("{"):
        return SaidKey(text, _end_of_token(text))
    try:
        told = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as ex:
        raise KeyCommandFailed("the command wrote JSON that cannot be read") from ex
    key = next((told[name] for name in _KEYS if told.get(name)), None)
    if not isinstance(key, str):
        raise KeyCommandFailed(f"the command wrote JSON without a key ({', '.join(_KEYS)})")
    ends = [_moment(told[name]) for name in _ENDS if name in told]
    if isinstance(seconds := told.get("expires_in"), int | float):
        ends.append(now + seconds)
    end = next((each for each in ends if each is not None), None)
    return SaidKey(key, _end_of_token(key) if end is None else end)


def _moment(told: Any) -> float | None:
    """Unix seconds, as a number or as text, or RFC 3339."""
    try:
        return float(told)
    except (TypeError, ValueError):
        pass
    try:
        return datetime.fromisoformat(told).timestamp()
    except (TypeError, ValueError):
        return None


def _end_of_token(key: str) -> float | None:
    """When a JSON Web Token ends, by its own claim (RFC 7519, ``exp``)."""
    parts = key.split(".")
    if len(parts) != 3 or not key.startswith("eyJ"):
        return None
    try:
        claims = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        end = msgspec.json.decode(claims, type=dict[str, Any]).get("exp")
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return None
    return float(end) if isinstance(end, int | float) else None
