"""May this key call?  IsAuthorized, then the budget, one look-up for all who ask at once."""

from __future__ import annotations

import calendar
import re
import time
import uuid
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import structlog
from attrs import define, evolve, field
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from aigateway.actors.control.coderd._calls import Calls, RpcCall
from aigateway.actors.control.coderd._session import Session
from aigateway.actors.control.coderd.versions import ApiVersion
from aigateway.actors.control.coderd.wire import coderd_pb2 as pb
from aigateway.actors.control.messages import Authorization, Authorize, Caller, Denied, Unavailable
from aigateway.actors.control.rpc_results import Failure, Refusal, RpcAnswer, RpcResult

__all__ = ["Authorizing", "coderd_away", "is_no"]

log = structlog.get_logger("ai-gateway.coderd")

_NO_CODES: Final = frozenset({1001, 1002})
"""coderd's codes for "not this user" and "not by this policy" (API 1.4)."""
_NO_TEXTS: Final = frozenset(
    {
        "both key and key_id set; exactly one required",
        "deleted user",
        "expired",
        "inactive user",
        "invalid key",
        "system user",
        "unknown key",
        "unknown user",
    }
)
"""How coderd says no before it had codes."""
_UNAUTHORIZED: Final = Denied("unauthorized")
_ANSWERED: Final = "coderd answered with an error, nobody is let in meanwhile"
_NOT_CHECKED: Final = "coderd could not check whether this request is allowed"
_BUDGET_NOT_CHECKED: Final = "internal server error checking user AI budget"
"""The reference's words."""
_BUDGET_CODES: Final = frozenset({1003, 1004})
"""coderd's codes for trouble with its budget service."""
_BUDGET: Final = (
    "AI budget of US${:.2f} exceeded. Please contact an administrator for more details."
)

_EXPECTED_AT_MOST: Final = 50_000
"""Tokens whose user is remembered: 10 MB of memory."""

_usual_uuid: Final = re.compile("[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}").fullmatch

Answerer = Callable[[Authorize, Authorization], None]


def is_no(refusal: Refusal) -> bool:
    """Whether coderd means no, and not that it could not tell."""
    last = refusal.text.rpartition(": ")[2]
    return refusal.code in _NO_CODES or refusal.text in _NO_TEXTS or last in _NO_TEXTS


@define(eq=False)
class _Lookup:
    """One question to coderd and everybody who waits for its answer."""

    token: str = field(repr=False)
    provider_name: str
    model: str
    askers: list[Authorize] = field(factory=list)
    expected: str = ""
    """The user whose budget was asked for at the same time; empty: nobody's."""
    caller: Caller | None = None
    """Who it is, once that is known, while the budget is not."""
    budget: RpcResult | None = None
    """What became of the question for the budget, while it is not known who it is."""

    def request(self, version: ApiVersion) -> bytes:
        message = pb.IsAuthorizedRequest(key=self.token)
        if version.has_model_authorization and self.provider_name and self.model:
            message.provider_name = self.provider_name
            message.model = self.model
        return message.SerializeToString()


class Authorizing:
    """Answers :class:`Authorize`; used in the actor's thread only."""

    def __init__(self, calls: Calls, answer: Answerer, timeout: float) -> None:
        self._calls = calls
        self._answer = answer
        self._timeout = timeout
        self._lookups: dict[tuple[str, str, str], _Lookup] = {}
        self._expected: dict[int, str] = {}
        """Whose token it was the last time, by the token's hash."""
        self._without_budgets: Session | None = None
        """A session whose coderd has no budgets."""

    def authorize(self, message: Authorize) -> None:
        key = (message.token, message.provider_name, message.model)
        lookup = self._lookups.get(key)
        if lookup is not None:
            lookup.askers.append(message)
            return
        try:
            message.token.encode()
        except UnicodeEncodeError:
            self._answer(message, evolve(_UNAUTHORIZED, reason="not a token: it is not text"))
            return
        lookup = self._lookups[key] = _Lookup(*key, [message])
        self._calls.ask(
            RpcCall(
                rpc="/proto.Authorizer/IsAuthorized",
                request=lookup.request,
                done=lambda outcome: self._authorized(lookup, outcome),
                timeout=self._timeout,
            )
        )
        # PERF: whose token it was it mostly is, so both questions leave together and are answered
        # together: a round trip less.  Should it be somebody else's by now, their budget is asked
        # for then.
        lookup.expected = self._expected.get(hash(lookup.token), "")
        if lookup.expected and self._has_budgets():
            self._ask_budget(lookup, lookup.expected)
        else:
            lookup.expected = ""

    def _conclude(self, lookup: _Lookup, answer: Authorization) -> None:
        del self._lookups[lookup.token, lookup.provider_name, lookup.model]
        for message in lookup.askers:
            self._answer(message, answer)

    def _authorized(self, lookup: _Lookup, outcome: RpcResult) -> None:
        if not isinstance(outcome, RpcAnswer):
            self._conclude(lookup, _not_authorized(outcome))
            return
        try:
            found = pb.IsAuthorizedResponse.FromString(outcome.data)
        except DecodeError as ex:
            broken = Unavailable(f"IsAuthorized: {ex}", said=_NOT_CHECKED, logged=_ANSWERED)
            self._conclude(lookup, broken)
            return
        caller = _caller(found)
        if isinstance(caller, Denied):
            self._conclude(lookup, caller)
        else:
            self._check_budget(lookup, caller)

    def _check_budget(self, lookup: _Lookup, caller: Caller) -> None:
        if not self._has_budgets():
            self._conclude(lookup, caller)
            return
        lookup.caller = caller
        if lookup.expected != caller.user_id:
            self._expect(lookup.token, caller.user_id)
            lookup.expected, lookup.budget = caller.user_id, None
            self._ask_budget(lookup, caller.user_id)
        elif lookup.budget is not None:
            self._budget_known(lookup, caller, lookup.budget)

    def _has_budgets(self) -> bool:
        """Whether the coderd that is asked now may have budgets."""
        session = self._calls.session
        return session is None or (
            session is not self._without_budgets and session.version.may_have_budgets
        )

    def _expect(self, token: str, user_id: str) -> None:
        self._expected[hash(token)] = user_id
        if len(self._expected) > _EXPECTED_AT_MOST:
            del self._expected[next(iter(self._expected))]

    def _ask_budget(self, lookup: _Lookup, user_id: str) -> None:
        self._calls.ask(
            RpcCall(
                rpc="/proto.Authorizer/IsBudgetExceeded",
                request=lambda _version: _budget_request(user_id),
                done=lambda outcome: self._budget_answered(lookup, user_id, outcome),
                timeout=self._timeout,
            )
        )

    def _budget_answered(self, lookup: _Lookup, user_id: str, outcome: RpcResult) -> None:
        key = (lookup.token, lookup.provider_name, lookup.model)
        if self._lookups.get(key) is not lookup or lookup.expected != user_id:
            # It is nobody's token, or another's.
            return
        if lookup.caller is None:
            lookup.budget = outcome
        else:
            self._budget_known(lookup, lookup.caller, outcome)

    def _budget_known(self, lookup: _Lookup, caller: Caller, outcome: RpcResult) -> None:
        answer: Denied | Unavailable | None = None
        if isinstance(outcome, RpcAnswer):
            try:
                budget = pb.IsBudgetExceededResponse.FromString(outcome.data)
                answer = _judge_budget(budget, caller)
            except DecodeError as ex:
                answer = Unavailable(
                    f"IsBudgetExceeded: {ex}", said=_BUDGET_NOT_CHECKED, logged=_ANSWERED
                )
        elif isinstance(outcome, Refusal) and "unknown rpc" in outcome.text:
            # This coderd is older than budgets.
            self._without_budgets = self._calls.session
        else:
            answer = _cannot_tell(
                outcome, f"the user's AI budget is not known: {outcome.text}", _BUDGET_NOT_CHECKED
            )
        if isinstance(answer, Unavailable):
            log.warning("user AI budget check failed", user_id=caller.user_id, error=answer.message)
        self._conclude(lookup, answer or caller)


def coderd_away(message: str) -> Unavailable:
    """The answer while there is no connection."""
    return Unavailable(
        message, said="could not connect to coderd", logged="failed to connect to coderd"
    )


def _not_authorized(outcome: Refusal | Failure) -> Authorization:
    if isinstance(outcome, Refusal) and is_no(outcome):
        return evolve(_UNAUTHORIZED, reason=outcome.text or f"code {outcome.code}")
    said = _NOT_CHECKED
    if isinstance(outcome, Refusal) and outcome.code in _BUDGET_CODES:
        said = _BUDGET_NOT_CHECKED
    return _cannot_tell(outcome, outcome.text, said)


def _cannot_tell(outcome: Refusal | Failure, message: str, said: str) -> Unavailable:
    """``said`` if coderd is there and has answered, else that it cannot be reached."""
    if isinstance(outcome, Refusal):
        return Unavailable(message, said=said, logged=_ANSWERED, code=outcome.code)
    if not outcome.away:
        return evolve(coderd_away(message), said="coderd did not answer in time")
    return coderd_away(message)


def _caller(found: pb.IsAuthorizedResponse) -> Caller | Denied:
    """No if coderd names a user in a way that records could not be stored under."""
    if not _is_uuid(found.owner_id):
        log.warning("failed to parse user ID", user_id=found.owner_id)
        return evolve(_UNAUTHORIZED, reason="coderd named a user without a UUID")
    if found.workspace_id and not _is_uuid(found.workspace_id):
        log.warning("invalid authorization attribution", workspace_id=found.workspace_id)
        return evolve(_UNAUTHORIZED, reason="coderd named a workspace without a UUID")
    return Caller(
        user_id=found.owner_id,
        username=found.username,
        api_key_id=found.api_key_id,
        email=found.email,
        workspace_id=found.workspace_id,
        websocket=found.responses_websocket_enabled,
    )


def _is_uuid(text: str) -> bool:
    # PERF: as they are usually written.
    if _usual_uuid(text):
        return True
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _budget_request(user_id: str) -> bytes:
    now = time.gmtime()
    # The first servers with this call refuse it without the field, later ones ignore it.
    message = pb.IsBudgetExceededRequest(
        user_id=user_id, period_start=_month(now.tm_year, now.tm_mon)
    )
    return message.SerializeToString()


@lru_cache(maxsize=1)
def _month(year: int, month: int) -> Timestamp:
    return Timestamp(seconds=calendar.timegm((year, month, 1, 0, 0, 0)))


def _judge_budget(budget: pb.IsBudgetExceededResponse, caller: Caller) -> Denied | None:
    if not budget.exceeded:
        return None
    text = _BUDGET.format(budget.spend_limit_micros / 1e6)
    return Denied(text, reason=text, caller=caller, over_budget=True)
