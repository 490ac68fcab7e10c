"""Who is asking: the Coder token is taken out of the request and shown to the control plane."""

from __future__ import annotations

import re

import structlog

from aigateway.actors.codec.headers import without_secrets
from aigateway.actors.control.messages import Authorize, Caller, Denied, Unavailable
from aigateway.actors.interception.headers import BYOK_HEADER, Presented, extract
from aigateway.http.request.answers import Answer, json_message, plain
from aigateway.http.request.call import Call
from aigateway.http.request.inbound import BodyTooLarge
from aigateway.http.request.runtime import NoAnswer, Runtime, retry_after
from aigateway.http.settings import Settings

__all__ = ["authorize", "present", "too_large"]

TOO_LARGE = "Request body too large. The maximum allowed request body size is {}."
BYOK_OFF = "Bring Your Own Key (BYOK) mode is not enabled."
BYOK_DETAIL = "Contact your administrator to enable it with --ai-gateway-allow-byok."

_KEY = re.compile(r"([A-Za-z0-9]{10})-[A-Za-z0-9]+")
"""``<id>-<secret>``, as Coder and the embedded control plane make them."""

log = structlog.get_logger("ai-gateway")


def present(call: Call, settings: Settings) -> Presented:
    """Check what can be checked without asking anybody, and take out the token."""
    inbound = call.inbound
    if inbound.header(BYOK_HEADER):
        call.auth_mode = "byok"
        if not settings.allow_byok:
            raise json_message(403, BYOK_OFF, BYOK_DETAIL)
    try:
        inbound.check_length(settings.max_body_size)
    except BodyTooLarge as ex:
        raise too_large(settings.max_body_size) from ex
    presented = extract(inbound.headers)
    if presented is None:
        if inbound.method == "HEAD":
            log.info("unauthenticated HEAD request", path=inbound.shown_path)
        else:
            log.warning("no auth key provided", method=inbound.method, path=inbound.shown_path)
        raise plain(400, "no authentication key provided")
    call.proxy_id = presented.request_id
    inbound.token = presented.token
    # APPSEC: from here on a query holds no secret, neither for providers nor for whoever shows it.
    inbound.query = without_secrets(inbound.query, presented.token)
    return presented


def authorize(call: Call, presented: Presented, runtime: Runtime, max_wait: float) -> Caller:
    """Ask the control plane; the answer is raised unless it is yes."""
    try:
        answer = runtime.ask(
            "control-plane", lambda reply: Authorize(presented.token, reply), max_wait + 5.0
        )
    except NoAnswer as ex:
        answer = Unavailable(str(ex))
    if isinstance(answer, Unavailable):
        if answer.answered:
            log.warning(
                "coderd answered with an error, nobody is let in meanwhile",
                error=answer.message,
                code=answer.code,
            )
        else:
            log.warning("failed to connect to coderd", error=answer.message)
        raise plain(
            answer.status,
            answer.said,
            headers=(("Retry-After", str(retry_after(answer.retry_after))),),
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
        )
        raise plain(answer.status, answer.message)
    assert isinstance(answer, Caller)
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
    return plain(413, TOO_LARGE.format(shown), close=True)
