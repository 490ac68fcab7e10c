"""Headers that the operator adds to the dial, for what stands before coderd.

They are written ``name=value``, in settings and by a command whose output is read at each dial:
what lets a gateway through is often good for minutes only.  Values are secrets: no text here
repeats them, nor what a command writes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

__all__ = ["BadHeader", "HeaderCommandFailed", "headers_of", "headers_of_command", "is_one_line"]

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_OURS = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-coder-ai-governance-gateway-key",
        "x-coder-build-version",
    }
)
"""What the dial sets itself."""


class BadHeader(ValueError):
    """It is not a header, or one that the dial sets itself; the text shows no value."""


class HeaderCommandFailed(Exception):
    """The command gave no headers; the text shows nothing that it wrote."""


def is_one_line(value: str) -> bool:
    """Whether a header can carry this value: ASCII text without control characters."""
    return value.isascii() and not _CONTROL.search(value)


def headers_of(lines: Iterable[str]) -> dict[str, str]:
    """The headers in ``name=value`` texts; the last of a name wins.  Raises BadHeader."""
    found: dict[str, tuple[str, str]] = {}
    for position, line in enumerate(lines, 1):
        name, equals, value = line.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not _NAME.fullmatch(name):
            raise BadHeader(f"number {position} is not name=value")
        if not is_one_line(value):
            raise BadHeader(f"{name}: its value must be one line of ASCII text")
        if name.lower() in _OURS or name.lower().startswith("sec-websocket-"):
            raise BadHeader(f"{name} is set by the gateway itself")
        found[name.lower()] = (name, value)
    return dict(found.values())


def headers_of_command(command: str, url: str, timeout: float) -> dict[str, str]:
    """Run ``command`` in a shell and read the headers that it writes, one a line.

    It finds the deployment's address in ``CODER_URL``, as the reference's does.  ``timeout`` in
    seconds.  Raises HeaderCommandFailed and BadHeader.
    """
    # Not at the top: hardly anybody has one.
    import subprocess

    try:
        done = subprocess.run(
            command,
            shell=True,
            env={**os.environ, "CODER_URL": url},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise HeaderCommandFailed(f"it did not end within {timeout:g} s") from None
    except (OSError, ValueError) as ex:
        raise HeaderCommandFailed(f"it could not be run: {type(ex).__name__}") from None
    if done.returncode:
        raise HeaderCommandFailed(f"it ended with exit code {done.returncode}")
    text = done.stdout.decode("utf-8", "replace")
    return headers_of(line for line in text.splitlines() if line.strip())
