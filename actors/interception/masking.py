"""What an error answer tells of the provider's account, made unrecognisable.

Answers to the gateway's own key go to users who have no business with the account behind it:
ids of organisations, projects and cloud accounts, and the ends of keys, are masked in error
bodies.  Answers that succeed are never edited, only some headers stay here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from attrs import frozen

from aigateway.actors.codec.decoding import DecodingError, decode
from aigateway.actors.codec.headers import Headers, joined

__all__ = ["MASK", "mask_body", "mask_headers", "mask_text", "without_secrets"]

MASK = "***"

_OF_THE_BYTES = frozenset(
    {"content-digest", "content-md5", "digest", "etag", "repr-digest", "content-encoding"}
)
"""Headers that an edited body no longer fits."""

_MASK = MASK.encode()
# Three dots in any way of writing them, JSON's escapes included.
_DOTS = rb"(?:\.{2,}|\xe2\x80\xa6|\\u2026)"
_UUID = rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
# A word begins here.  In JSON an escape (\n, \u003c) may end in a letter, and is kept whole.
_ESCAPED = rb"(?<=\\[bfnrt])|(?<=\\u[0-9a-fA-F]{4})"
_BEFORE = rb"(?:(?<![A-Za-z0-9_\\-])|" + _ESCAPED + rb")"


@frozen
class _Kind:
    """Something that tells of an account."""

    needles: tuple[bytes, ...]
    """In lower case.  PERF: without one of them the pattern, which is slow, is not tried."""
    pattern: re.Pattern[bytes]
    """Its group is kept, what is outside of it masked."""


def _kind(needles: bytes, pattern: bytes) -> _Kind:
    return _Kind(tuple(needles.split()), re.compile(pattern))


_KINDS = (
    # Keys, whole or abbreviated: sk-…abcd, sk-proj-****abcd, AKIA….
    _kind(b"sk- sk_", _BEFORE + rb"()sk[-_](?:[A-Za-z0-9_*-]|" + _DOTS + rb")+"),
    _kind(
        b"gsk_ xai- pplx- hf_ r8_ absk bedrock-api-key-",
        _BEFORE
        + rb"()(?:gsk_|xai-|pplx-|hf_|r8_|ABSK|bedrock-api-key-)(?:[A-Za-z0-9_*+/=-]|"
        + _DOTS
        + rb"){6,}",
    ),
    # Access tokens: JSON Web Tokens, and Google's.
    _kind(b"eyj", _BEFORE + rb"()eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+)*"),
    _kind(b"ya29.", _BEFORE + rb"()ya29\.[A-Za-z0-9._-]{8,}"),
    _kind(b"aiza", _BEFORE + rb"()AIza[A-Za-z0-9_-]{16,}"),
    _kind(
        b"akia asia aroa aida agpa anpa",
        _BEFORE + rb"()A(?:KIA|SIA|ROA|IDA|GPA|NPA)[A-Z0-9]{12,}",
    ),
    # Any other key that its provider has abbreviated itself: abcd****wxyz.  Anchored and
    # possessive: a long word is gone through once.
    _kind(b"***", _BEFORE + rb"()[A-Za-z0-9_-]*+\*{3,}[A-Za-z0-9_-]*"),
    _kind(
        b"key token secret",
        rb"(?i)("
        + _BEFORE
        + rb"(?:key|token|secret)s?\s(?:id\s)?(?:that\s)?end(?:s|ing)\s(?:in|with)"
        + rb"[^A-Za-z0-9]{1,6})[A-Za-z0-9_-]{2,12}",
    ),
    # Organisations, projects, workspaces: with a digit or a capital, or long, since org-wide and
    # proj_name are words.
    _kind(
        b"org- org_ proj- proj_ project- project_ wrkspc_ workspace_ acct_ acct-",
        _BEFORE
        + rb"()(?:org|proj|project|wrkspc|workspace|acct)[-_]"
        + rb"(?:(?=[A-Za-z]*[0-9A-Z])[A-Za-z0-9_]{4,}|[A-Za-z0-9]{12,})",
    ),
    _kind(b"user-", _BEFORE + rb"()user-[A-Za-z0-9]{16,}"),
    _kind(
        b"organi org project workspace account tenant team subscription",
        rb"(?i)("
        + _BEFORE
        + rb"(?:organi[sz]ation|org|project|workspace|account|tenant|team|subscription)s?"
        + rb"(?:[_ -]?id)?[^A-Za-z0-9]{1,8}(?:id[^A-Za-z0-9]{1,8})?)"
        + _UUID,
    ),
    _kind(
        # Google's errors also have a project's number alone, as `containerInfo`.
        b"project containerinfo",
        rb"(?i)("
        + _BEFORE
        + rb"(?:projects?(?:[_ -]?number)?[^A-Za-z0-9]{1,4}|containerInfo[^A-Za-z0-9]{1,8}))"
        + rb"[0-9]{6,}",
    ),
)
_DIGITS = re.compile(rb"[0-9]{12,}")
_PART_OF_A_NAME = re.compile(rb"[A-Za-z0-9_-]|\.[0-9]")
_ENDS_IN_NAME = re.compile(rb"[A-Za-z0-9._-]\Z")
_ENDS_IN_ESCAPE = re.compile(rb"(?:\\[bfnrt]|\\u[0-9a-fA-F]{4})\Z")
_VALUE_BEGINS = re.compile(rb":\s*\Z")
_VALUE_ENDS = re.compile(rb"\s*[,}]")


def mask_text(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` with what tells of the account masked."""
    return _masked(text.encode("utf-8", "surrogateescape"), secrets).decode(
        "utf-8", "surrogateescape"
    )


def mask_body(
    body: bytes, headers: Headers, secrets: Iterable[str] = ()
) -> tuple[bytes, Headers] | None:
    """An error's body and the headers that fit it; None when there is nothing to mask.

    An encoded body is edited decoded and sent so.  One that cannot be decoded has nothing that
    a client could read.  ``secrets`` are masked wherever they stand.
    """
    try:
        readable = decode(body, joined(headers, "content-encoding"))
    except DecodingError:
        return None
    masked = _masked(readable, secrets)
    if masked == readable:
        return None
    kept = []
    for name, value in headers:
        lower = name.lower()
        if lower == "content-length":
            kept.append((name, str(len(masked))))
        elif lower not in _OF_THE_BYTES:
            kept.append((name, value))
    return masked, kept


def mask_headers(headers: Headers) -> list[tuple[str, str]]:
    """The headers of an error answer, masked where they repeat its text, as AWS has them."""
    return [(name, mask_text(value) if _is_text(name) else value) for name, value in headers]


def _is_text(name: str) -> bool:
    name = name.lower()
    return "error" in name or "message" in name


def without_secrets(data: bytes, secrets: Iterable[str]) -> bytes:
    """``data`` with these secrets masked wherever they stand, and nothing else."""
    for secret in secrets:
        # Shorter ones are placeholders such as "none", which may be words of any text.
        if len(secret) >= 8:
            data = data.replace(secret.encode(), _MASK)
    return data


def _masked(data: bytes, secrets: Iterable[str]) -> bytes:
    data = without_secrets(data, secrets)
    lower = data.lower()
    for kind in _KINDS:
        if any(needle in lower for needle in kind.needles):
            data = kind.pattern.sub(rb"\g<1>" + _MASK, data)
    return _DIGITS.sub(_account_masked, data)


def _account_masked(match: re.Match[bytes]) -> bytes:
    """An AWS account stands by itself, or in an ARN.  A JSON number stays a number."""
    digits, text = match[0], match.string
    before, end = text[max(0, match.start() - 8) : match.start()], match.end()
    if len(digits) != 12 or _PART_OF_A_NAME.match(text, end):
        return digits
    if _ENDS_IN_NAME.search(before) and not _ENDS_IN_ESCAPE.search(before):
        return digits
    if _VALUE_BEGINS.search(before) and _VALUE_ENDS.match(text, end):
        return b"0"
    return _MASK
