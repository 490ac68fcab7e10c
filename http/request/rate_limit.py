"""The rate limit at the edge: so many requests per second and client, in fixed windows.

A client is who it says it is by its token, before anybody has looked whether that is true:
the limit has to be cheap.  Only a hash of the token is kept or sent to the storage.

Where requests are counted (``--rate-limit-storage``): in this process, or in a Redis that
gateways share.  A Redis that is away, or slower than a quarter of a second, refuses nobody:
the process counts for itself until it is back.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import structlog

from aigateway.actors.codec.headers import first_of, values_of
from aigateway.actors.interception.headers import (
    BYOK_HEADER,
    GOOGLE_KEY_HEADER,
    with_query_key,
)
from aigateway.http.metrics.reasons import Reason
from aigateway.http.request.answers import json_message
from aigateway.http.request.inbound import Inbound
from aigateway.http.settings import Settings

if TYPE_CHECKING:
    from limits.strategies import FixedWindowRateLimiter

__all__ = [
    "RATE_LIMITED",
    "Counter",
    "Counting",
    "RateLimit",
    "client_key",
    "fixed_windows",
    "make_rate_limit",
]

RATE_LIMITED = "You've been rate limited. Please try again later."
STORAGE_TIMEOUT = 0.25
"""Seconds for one question to the shared storage: what a request may lose by it."""
RETRY_EVERY = 5.0
"""Seconds after a failure of the shared storage before it is asked again."""
WARN_EVERY = 60.0
"""Seconds between two warnings about it."""

log = structlog.get_logger("ai-gateway.limits")

Counter = Callable[[str], bool]
"""Counts a request of this client; says whether it is within the limit.  May raise."""

T = TypeVar("T")
R = TypeVar("R")


class Counting(Generic[T]):
    """Where something is counted: together with others, or for this process as long as that is
    away.  Safe to use from many threads if what counts is."""

    def __init__(
        self,
        local: T,
        connect: Callable[[], T] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``connect`` makes what others share, and may raise; None: there is no such thing."""
        self._local = local
        self._connect = connect
        self._clock = clock
        self._shared: T | None = None
        self._ask_again_at = 0.0
        self._warn_again_at = 0.0
        self._lock = threading.Lock()

    def ask(self, question: Callable[[T], R]) -> R:
        """Put a question, which may be put twice if something is wrong the first time."""
        if self._connect is None or self._clock() < self._ask_again_at:
            return question(self._local)
        try:
            shared = self._shared
            if shared is None:
                shared = self._shared = self._connect()
            return question(shared)
        except Exception as ex:
            # Whatever is wrong with the storage, it is no fault of the client's.
            self._failed(ex)
            return question(self._local)

    def _failed(self, ex: Exception) -> None:
        with self._lock:
            now = self._clock()
            self._ask_again_at = now + RETRY_EVERY
            warn = now >= self._warn_again_at
            if warn:
                self._warn_again_at = now + WARN_EVERY
        if warn:
            log.warning(
                "the rate limit's storage is away, counting per process meanwhile",
                error=f"{type(ex).__name__}: {ex}",
            )


class RateLimit:
    """Refuses requests over the limit.  Safe to use from many threads."""

    def __init__(
        self,
        limit: int,
        local: Counter,
        connect: Callable[[], Counter] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``limit`` requests per second; ``connect`` makes the shared counter and may raise."""
        self._limit = limit
        self._counting = Counting(local, connect, clock)

    def check(self, inbound: Inbound) -> None:
        """Count the request; raise an Answer (429) when it is over the limit."""
        key = client_key(inbound)
        if not self._counting.ask(lambda count: count(key)):
            raise json_message(
                429,
                RATE_LIMITED,
                reason=Reason.RATE_LIMITED,
                headers=(
                    ("Retry-After", "1"),
                    ("X-RateLimit-Limit", str(self._limit)),
                    ("X-RateLimit-Remaining", "0"),
                    ("X-RateLimit-Reset", str(int(time.time()) + 1)),
                ),
            )


def client_key(inbound: Inbound) -> str:
    """Whose requests are counted together: the hash of a token, else of the client's address.

    With a key of the user's own ("BYOK") it is that key, as in the reference, not the Coder
    token.
    """
    headers = inbound.headers
    for value in values_of(headers, "authorization"):
        fields = value.split()
        if len(fields) == 2 and fields[0].lower() == "bearer":
            return _hashed("token", fields[1])
    token = (
        first_of(headers, "x-api-key")
        or first_of(with_query_key(headers, inbound.query), GOOGLE_KEY_HEADER)
        or first_of(headers, BYOK_HEADER)
    )
    return _hashed("token", token) if token else _hashed("address", inbound.client_ip)


def _hashed(kind: str, text: str) -> str:
    digest = hashlib.sha256(f"{kind}\0{text}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def make_rate_limit(settings: Settings) -> RateLimit | None:
    """The limit that the settings ask for; None when there is none."""
    if settings.rate_limit <= 0:
        return None
    limit, address = settings.rate_limit, settings.rate_limit_storage
    local = _counter(limit, "memory://")
    if address.startswith("memory:"):
        return RateLimit(limit, local)
    return RateLimit(limit, local, lambda: _counter(limit, address))


def _counter(limit: int, address: str) -> Counter:
    from limits import RateLimitItemPerSecond

    limiter = fixed_windows(address)
    item = RateLimitItemPerSecond(limit, namespace="aigateway")
    return lambda key: bool(limiter.hit(item, key))


def fixed_windows(address: str) -> FixedWindowRateLimiter:
    """What counts in windows at ``address``, as --rate-limit-storage names it.  May raise."""
    # Not at the top: most gateways limit nothing.
    from limits.storage import storage_from_string
    from limits.strategies import FixedWindowRateLimiter

    options = {} if address.startswith("memory:") else _impatient()
    return FixedWindowRateLimiter(storage_from_string(address, **options))


def _impatient() -> dict[str, Any]:
    """Options for a Redis client that gives up at once: its own way is to try for seconds."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return {
        "socket_timeout": STORAGE_TIMEOUT,
        "socket_connect_timeout": STORAGE_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
    }
