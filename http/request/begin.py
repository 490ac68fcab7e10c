"""Begin: the first record of an interception, without which no provider is called."""

from __future__ import annotations

import time

import structlog

from aigateway.actors.codec.decoding import decode
from aigateway.actors.control.messages import Accepted, Unavailable
from aigateway.actors.interception.headers import AgentFirewall, Credential, identify
from aigateway.actors.interception.interface import Interception
from aigateway.actors.recorder.policy import RecordPolicy
from aigateway.actors.recorder.recorder import Begin
from aigateway.actors.values import records
from aigateway.http.request.answers import plain
from aigateway.http.request.call import Call
from aigateway.http.request.inbound import Inbound
from aigateway.http.request.runtime import NoAnswer, Runtime, retry_after

__all__ = ["begin", "readable_body"]

log = structlog.get_logger("ai-gateway")


def begin(
    runtime: Runtime,
    call: Call,
    interception: Interception,
    credential: Credential,
    firewall: AgentFirewall | None,
    *,
    policy: RecordPolicy,
    max_wait: float,
) -> None:
    """Have the start recorded; raises an Answer when that fails, after ``max_wait`` seconds."""
    inbound, caller, config = call.inbound, call.caller, call.provider
    assert caller is not None
    assert config is not None
    info = identify(inbound.headers, lambda: readable_body(inbound))
    call.client, call.session_id = info.client, info.session_id
    record = records.Interception(
        id=interception.id,
        initiator_id=caller.user_id,
        username=caller.username,
        api_key_id=caller.api_key_id,
        provider="openai" if config.speaks_openai else config.type,
        provider_name=config.name,
        model=call.model,
        client=info.client,
        user_agent=inbound.header("User-Agent"),
        started_at=time.time(),
        client_session_id=info.session_id,
        correlating_tool_call_id=interception.correlating_tool_call_id,
        credential_kind=credential.kind,
        credential_hint=credential.hint,
        agent_firewall_session_id=firewall.session_id if firewall else None,
        agent_firewall_sequence_number=firewall.sequence if firewall else None,
        workspace_id=caller.workspace_id,
    )
    try:
        answer = runtime.ask("recorder", lambda reply: Begin(record, reply), max_wait + 5.0)
    except NoAnswer as ex:
        answer = Unavailable(str(ex))
    if isinstance(answer, Accepted):
        call.recorded = True
        policy.log(record)
        return
    log.warning("failed to record interception", interception_id=record.id, error=answer.message)
    if isinstance(answer, Unavailable):
        raise plain(
            503,
            "failed to record interception",
            headers=(("Retry-After", str(retry_after(answer.retry_after))),),
        )
    raise plain(500, "failed to record interception")


def readable_body(inbound: Inbound) -> bytes:
    """The body without its content encoding; it was read and decoded once before."""
    coding = inbound.header("Content-Encoding")
    return decode(inbound.body, coding) if coding else inbound.body
