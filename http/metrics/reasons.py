"""Why the gateway itself refuses requests: the words of the log line and of the metric."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["REASONS", "Reason"]


class Reason(StrEnum):
    """Why a request got an error of the gateway's instead of a provider's answer."""

    BAD_REQUEST = "bad_request"
    BODY_TOO_LARGE = "body_too_large"
    BODY_TOO_SLOW = "body_too_slow"
    BYOK_OFF = "byok_off"
    CAP = "cap"
    CAP_BUSY = "cap_busy"
    CAPACITY = "capacity"
    CONTROL_PLANE = "control_plane"
    FAULT = "fault"
    NO_CREDENTIAL = "no_credential"
    NO_KEY = "no_key"
    NO_ROUTE = "no_route"
    NOT_RECORDED = "not_recorded"
    OVER_BUDGET = "over_budget"
    POLICY_MODEL = "policy_model"
    POLICY_PROVIDER = "policy_provider"
    POLICY_REQUESTS = "policy_requests"
    POLICY_TOKENS = "policy_tokens"
    PROVIDER = "provider"
    PROVIDER_DISABLED = "provider_disabled"
    PROVIDER_MISCONFIGURED = "provider_misconfigured"
    RATE_LIMITED = "rate_limited"
    STARTING = "starting"
    STOPPING = "stopping"
    STORED_ID = "stored_id"
    UNAUTHORIZED = "unauthorized"
    UNKNOWN_MODEL = "unknown_model"
    UNPRICED = "unpriced"
    WEBSOCKET = "websocket"


REASONS: Final[dict[Reason, str]] = {
    Reason.BAD_REQUEST: "the request is malformed, or asks for what cannot be done",
    Reason.BODY_TOO_LARGE: "over --max-body-size",
    Reason.BODY_TOO_SLOW: "over --body-timeout or under --body-least-rate",
    Reason.BYOK_OFF: "a key of the user's own, without --ai-gateway-allow-byok",
    Reason.CAP: "all that a cap allows is spent",
    Reason.CAP_BUSY: "calls that run held what is left of a cap for all of --max-wait",
    Reason.CAPACITY: "no place under --ai-gateway-max-concurrency within --queue-wait, "
    "or more than --max-bodies-size of bodies at once",
    Reason.CONTROL_PLANE: "the control plane cannot be asked, or failed",
    Reason.FAULT: "a fault of the gateway's own; the log has the traceback",
    Reason.NO_CREDENTIAL: "neither the provider nor the user has a key for it",
    Reason.NO_KEY: "no token in the request",
    Reason.NO_ROUTE: "no provider of that name, or no such path of it",
    Reason.NOT_RECORDED: "the begin of the record was not accepted",
    Reason.OVER_BUDGET: "the user's budget is spent",
    Reason.POLICY_MODEL: "the policy does not allow the model, as asked for or as the provider is "
    "asked for it",
    Reason.POLICY_PROVIDER: "the policy does not allow the provider",
    Reason.POLICY_REQUESTS: "over the policy's requests per minute",
    Reason.POLICY_TOKENS: "over the policy's tokens per minute",
    Reason.PROVIDER: "no provider answered: not reached, its keys rest, its circuit is open, or "
    "its error stood for an answer",
    Reason.PROVIDER_DISABLED: "the provider is switched off",
    Reason.PROVIDER_MISCONFIGURED: "the provider's settings are wrong",
    Reason.RATE_LIMITED: "over --ai-gateway-rate-limit",
    Reason.STARTING: "providers are not known yet",
    Reason.STOPPING: "the gateway is about to stop",
    Reason.STORED_ID: "the request names what another user has stored",
    Reason.UNAUTHORIZED: "the token is not, or no longer, good",
    Reason.UNKNOWN_MODEL: "the provider's list has no such model",
    Reason.UNPRICED: "there is no price for it, and caps hold for the caller",
    Reason.WEBSOCKET: "a WebSocket where HTTP is to be used, or one that is too old",
}
"""Which rule each is."""
