"""Whether a request comes in: who is asking, where its path leads, and whether there is room.

The Coder token is taken out of the request and shown to the control plane; the path leads to a
provider that can serve, as one kind of request or another; and a worker process serves so many
requests at once, with a short bounded queue before them.
"""

from __future__ import annotations

import re
import threading
from collections import deque

import structlog

from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.codec.headers import without_secrets
from aigateway.actors.control.messages import Authorization, Authorize, Caller, Denied, Unavailable
from aigateway.actors.interception.headers import (
    BYOK_HEADER,
    Presented,
    extract,
    with_query_key,
)
from aigateway.actors.interception.routes import (
    BEDROCK,
    Intercept,
    Passthrough,
    resolve,
    speaks_bedrock,
)
from aigateway.actors.values.frozen import frozen
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.http.metrics.reasons import Reason
from aigateway.http.request.answers import Answer, json_message, plain
from aigateway.http.request.inbound import BodyTooLarge, Call
from aigateway.http.request.runtime import NoAnswer, Runtime, retry_after
from aigateway.http.settings import Settings

__all__ = [
    "Admission",
    "Target",
    "authorize",
    "find_route",
    "parts_of",
    "present",
    "too_large",
]

log = structlog.get_logger("ai-gateway")

TOO_LARGE = "Request body too large. The maximum allowed request body size is {}."
BYOK_OFF = "Bring Your Own Key (BYOK) mode is not enabled."
BYOK_DETAIL = "Contact your administrator to enable it with --ai-gateway-allow-byok."

_KEY = re.compile(r"([A-Za-z0-9]{10})-[A-Za-z0-9]+")
"""``<id>-<secret>``, as Coder and the embedded control plane make them."""


def present(call: Call, settings: Settings) -> Presented:
    """Check what can be checked without asking anybody, and take out the token."""
    inbound = call.inbound
    if inbound.header(BYOK_HEADER):
        call.auth_mode = "byok"
        if not settings.allow_byok:
            raise json_message(403, BYOK_OFF, BYOK_DETAIL, reason=Reason.BYOK_OFF)
    try:
        inbound.check_length(settings.max_body_size)
    except BodyTooLarge as ex:
        raise too_large(settings.max_body_size) from ex
    presented = extract(with_query_key(inbound.headers, inbound.query))
    if presented is None:
        if inbound.method != "HEAD":
            log.warning(
                "no auth key provided",
                method=inbound.method,
                path=inbound.shown_path,
                client_ip=inbound.client_ip,
            )
        raise plain(400, "no authentication key provided", reason=Reason.NO_KEY)
    call.proxy_id = presented.request_id
    inbound.token = presented.token
    # APPSEC: from here on a query holds no secret, neither for providers nor where it is shown.
    inbound.query = without_secrets(inbound.query, presented.token)
    return presented


def authorize(call: Call, presented: Presented, runtime: Runtime, max_wait: float) -> Caller:
    """Ask the control plane; the answer is raised unless it is yes."""
    try:
        answer: Authorization = runtime.ask(
            "control-plane", lambda reply: Authorize(presented.token, reply), max_wait + 5.0
        )
    except NoAnswer as ex:
        answer = Unavailable(str(ex))
    if isinstance(answer, Unavailable):
        coded = {} if answer.code is None else {"code": answer.code}
        log.warning(answer.logged, error=answer.message, **coded)
        raise plain(
            answer.status,
            answer.said,
            reason=Reason.CONTROL_PLANE,
            retry_after=retry_after(answer.retry_after),
        )
    if isinstance(answer, Denied):
        call.caller = answer.caller
        log.warning(
            "user AI budget exceeded" if answer.over_budget else "key authorization check failed",
            reason=answer.reason,
            key_id=_key_id(presented.token),
            user_id=call.user_id,
            username=answer.caller.username if answer.caller is not None else "",
            method=call.inbound.method,
            path=call.inbound.shown_path,
            auth_mode=call.auth_mode,
            client_ip=call.inbound.client_ip,
        )
        raise plain(
            answer.status,
            answer.message,
            reason=Reason.OVER_BUDGET if answer.over_budget else Reason.UNAUTHORIZED,
            rule=answer.reason,
        )
    call.caller = answer
    return answer


def _key_id(token: str) -> str:
    """The part of a key that is no secret; empty for what does not look like a key.

    A client may have sent anything in the place of one: a provider's key, for example.
    """
    found = _KEY.fullmatch(token)
    return found[1] if found is not None else ""


def too_large(limit: int) -> Answer:
    """The answer to a body of more than ``limit`` bytes."""
    shown = f"{limit >> 20}MiB" if limit % (1 << 20) == 0 else f"{limit} bytes"
    return plain(413, TOO_LARGE.format(shown), reason=Reason.BODY_TOO_LARGE, close=True)


_PREFIXES = ("/api/v2/aibridge/", "/api/v2/ai-gateway/")
"""Where coderd mounts the same routes; a client may use either or none."""


def parts_of(path: str) -> tuple[str, str, str]:
    """A client's path without the prefix, the provider's name in that, and the path below."""
    for prefix in _PREFIXES:
        if path.startswith(prefix):
            path = path[len(prefix) - 1 :]
            break
    name, slash, rest = path[1:].partition("/")
    return path, name, slash + rest


@frozen
class Target:
    """The provider that is asked for, and the path below its name."""

    provider: ProviderConfig
    rest: str


STARTING_TIME = 5.0
"""Seconds that a request waits for a worker process that has just begun to know its providers: they
come milliseconds after the control plane that has let the request in."""


def find_route(
    call: Call, tree: ActorTree, max_wait: float
) -> tuple[Target, Intercept | Passthrough]:
    """Say what is asked for, and note it in ``call``.  Raises an Answer when that is nothing.

    A process that knows no providers yet is waited for, but not longer than ``max_wait`` seconds.
    """
    inbound = call.inbound
    path, name, rest = parts_of(inbound.path)
    config = tree.provider_config(name)
    if config is None and not tree.providers_loaded:
        tree.wait_for_providers(min(max_wait, STARTING_TIME))
        config = tree.provider_config(name)
    if config is None and not tree.providers_loaded:
        raise plain(
            503,
            "AI Gateway is starting up, retry shortly",
            reason=Reason.STARTING,
            retry_after=1,
        )
    if config is None:
        raise _no_route(inbound.method, inbound.shown_path, path, tree)
    if not config.enabled:
        raise _disabled(config)
    if config.error is not None:
        # Also where its type is unknown, and so are its routes.
        log.error("request for a misconfigured provider", provider=config.name)
        said = f'AI provider "{config.name}" is misconfigured: {config.error}'
        raise plain(503, said, reason=Reason.PROVIDER_MISCONFIGURED)
    # One of Anthropic's type may be Bedrock by its credentials.
    kind = BEDROCK if config.invokes_bedrock else config.type
    route = resolve(kind, inbound.method, rest)
    if config.type == BEDROCK and not config.invokes_bedrock and speaks_bedrock(rest):
        route = None
    if route is None:
        raise _no_route(inbound.method, inbound.shown_path, path, tree)
    call.provider, call.route = config, route.route
    return Target(config, rest), route


def _no_route(method: str, asked: str, path: str, tree: ActorTree) -> Answer:
    """The reference's words, and what was probably meant."""
    text = f"route not supported: {method} {asked}"
    configs = [config for config in tree.provider_configs() if config.enabled]
    if not configs:
        text += "; no AI provider is configured"
        return plain(404, text, reason=Reason.NO_ROUTE)
    likely = _likely_path(method, path, configs)
    if not likely:
        return plain(404, text, reason=Reason.NO_ROUTE)
    log.warning("a client uses a wrong base address", method=method, likely_path=likely)
    return plain(404, f"{text}; did you mean {likely}?", reason=Reason.NO_ROUTE)


def _likely_path(method: str, path: str, configs: list[ProviderConfig]) -> str:
    """The path with the provider's name in front, and with its version once; empty: not that
    either."""
    single = re.sub(r"/(v1(?:beta)?)(?:/\1)+/", r"/\1/", path)
    for config in configs:
        own = f"/{config.name}"
        rest = single.removeprefix(own) if single.startswith(f"{own}/") else single
        for tried in (rest, f"/v1{rest}", f"/v1beta{rest}"):
            if f"{own}{tried}" != path and isinstance(
                resolve(config.type, method, tried), Intercept
            ):
                return f"{own}{tried}"
    return ""


def _disabled(config: ProviderConfig) -> Answer:
    said = f'provider_disabled: AI provider "{config.name}" is disabled'
    return plain(503, said, reason=Reason.PROVIDER_DISABLED)


class Admission:
    """Counts requests; ``limit`` 0 means no cap.  Safe to use from many threads.

    The request that waits longest gets the next place: a place that becomes free is handed over, so
    nobody who comes later can take it.
    """

    def __init__(self, limit: int, depth: int, wait: float) -> None:
        """``depth`` requests may wait for a place, ``wait`` seconds each."""
        self._limit = limit
        self._depth = depth
        self._wait = wait
        self._lock = threading.Lock()
        self._queue: deque[threading.Event] = deque()
        self.running = 0

    @property
    def limited(self) -> bool:
        """Whether anybody may have to wait."""
        return bool(self._limit)

    @property
    def waiting(self) -> int:
        """Requests that wait for a place now."""
        return len(self._queue)

    def enter(self) -> bool:
        """Take a place; False when there is none in time."""
        with self._lock:
            if not self._limit or self.running < self._limit:
                self.running += 1
                return True
            if len(self._queue) >= self._depth or self._wait <= 0:
                return False
            turn = threading.Event()
            self._queue.append(turn)
        try:
            got = turn.wait(self._wait)
        except BaseException:
            # The request is being ended from outside, and with it its claim.
            if not self._withdraw(turn):
                self.leave()
            raise
        return got or not self._withdraw(turn)

    def leave(self) -> None:
        """Give the place back."""
        with self._lock:
            if self._queue:
                self._queue.popleft().set()
            else:
                self.running -= 1

    def _withdraw(self, turn: threading.Event) -> bool:
        """Stop waiting; False when the place was handed over at the last moment."""
        with self._lock:
            if turn.is_set():
                return False
            self._queue.remove(turn)
            return True
