"""Caps on money, at the edge: what a call may cost is said before it is made, and what the control
plane answers to that becomes what the client gets."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from typing import TypeAlias
from zoneinfo import ZoneInfo

from attrs import evolve

from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.control.messages import Caller, CapBusy, CapFull, NoPrice
from aigateway.actors.interception.estimate import most_used
from aigateway.actors.interception.headers import BYOK, Credential
from aigateway.actors.interception.routes import Api
from aigateway.actors.providers.request import chain_of, has_path, model_for
from aigateway.actors.values.caps import CapShare, Hold, Payee
from aigateway.actors.values.money import dollars
from aigateway.actors.values.policy import CallerRules
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.http.metrics.reasons import Reason
from aigateway.http.request.answers import Answer, api_error
from aigateway.http.request.runtime import retry_after

__all__ = [
    "WARNING_HEADER",
    "capped",
    "hold_for",
    "is_free",
    "passed_refusal",
    "refusal_of",
    "said_of",
    "warning_of",
]

WARNING_HEADER = "X-AI-Gateway-Cap-Warning"
"""How full the fullest cap is, from 75 % on."""
_LEVELS = (95, 75)
_NO_RETRY = ("x-should-retry", "false")
_WINDOWS = {"day": "day's", "week": "week's", "month": "month's"}
_BUSY_PAUSE = 5.0
"""Seconds after which to ask again where calls that run hold what is left."""

_FREE_ROUTES = frozenset(
    {
        "/v1/messages/count_tokens",
        "/models/*:countTokens",
        "/model/*/count-tokens",
        "/v1/projects/*/locations/*/publishers/anthropic/models/count-tokens:rawPredict",
        "/responses/",
        "/conversations",
        "/conversations/",
        "/api/event_logging/",
    }
)
"""Passed routes of any method that cost nothing.  Of the others only reading and deleting do."""
_FREE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})


def capped(caller: Caller | None, credential: Credential | None) -> CallerRules | None:
    """The rules of a caller for whom caps hold; None with a key of the caller's own, whose cost is
    recorded and never capped."""
    rules = caller.rules if caller is not None else None
    if rules is None or not rules.caps:
        return None
    return None if credential is not None and credential.kind == BYOK else rules


def hold_for(
    caller: Caller,
    rules: CallerRules,
    config: ProviderConfig,
    tree: ActorTree,
    *,
    api: Api,
    model: str,
    recorded: str,
    readable: bytes,
    streaming: bool,
    path: str = "",
) -> Hold:
    """What a call may cost at most.

    The client asks for ``model`` at ``path``, and ``recorded`` is what that is recorded as;
    ``readable`` is the body without its content coding.
    """
    most = most_used(api, readable)
    others: list[ProviderConfig] = []
    if config.group or config.fallback:
        others = _known(tree, chain_of(config, tree))
        members = _known(tree, [name for name, _ in config.group])
        payees = _payees((config, *members, *others), rules, config, model, recorded, path)
    else:
        payees = _only_payee(rules, config, model, recorded, path)
    # An attempt that is given up because it takes too long may be billed all the same.
    slow = streaming and config.fallback_after > 0
    return Hold(
        caps=rules.caps,
        payees=payees,
        input_tokens=most.input_tokens,
        output_tokens=most.output_tokens,
        username=caller.username,
        zone=rules.timezone,
        metadata=most.metadata,
        attempts=1 + len(others) if slow else 1,
        unpriced=rules.unpriced.value == "allow",
    )


def _payees(
    who: Iterable[ProviderConfig],
    rules: CallerRules,
    asked: ProviderConfig,
    model: str,
    recorded: str,
    path: str,
) -> tuple[Payee, ...]:
    """Those of ``who`` that may answer."""
    found: dict[Payee, None] = {}
    for each in who:
        named = model_for(each, model, asked.name, path=path) if has_path(each, path) else None
        if named is not None and _may(rules, each, (model, named)):
            kind = "openai" if each.speaks_openai else each.type
            found[Payee(kind, each.name, recorded, named if named != recorded else "")] = None
    return tuple(found)


_Alone: TypeAlias = tuple[CallerRules, ProviderConfig, tuple[Payee, ...]]
_alone: dict[tuple[int, str, str, str, str], _Alone] = {}
_ALONE_AT_MOST = 4096


def _only_payee(
    rules: CallerRules, config: ProviderConfig, model: str, recorded: str, path: str
) -> tuple[Payee, ...]:
    """Who may answer for a provider that nobody stands in for."""
    # PERF: the same callers ask for the same few models; a third of what an estimate takes.  Rules
    # and provider are these objects until there are others.
    name = (id(rules), config.name, model, recorded, path)
    found = _alone.get(name)
    if found is None or found[0] is not rules or found[1] is not config:
        if len(_alone) >= _ALONE_AT_MOST:
            _alone.clear()
        payees = _payees((config,), rules, config, model, recorded, path)
        found = _alone[name] = rules, config, payees
    return found[2]


def _may(rules: CallerRules, config: ProviderConfig, models: Iterable[str]) -> bool:
    # Who is not allowed to stand in does not answer.
    return not (rules.provider_refusal(config.name) or any(map(rules.model_refusal, models)))


def _known(tree: ActorTree, names: Iterable[str]) -> list[ProviderConfig]:
    found = map(tree.provider_config, names)
    return [each for each in found if each is not None]


def said_of(answer: CapFull | CapBusy | NoPrice, rules: CallerRules) -> tuple[int, str, int | None]:
    """Status, one sentence, and seconds after which to ask again."""
    whom = f"; {rules.contact}" if rules.contact else ""
    if isinstance(answer, NoPrice):
        said = f"there is no price for {answer.detail}, and your spending has a cap"
        return 403, f"{said} ({_unpriced_rule(rules)}): refused until there is one{whom}", None
    share = answer.share
    cap = f"the {_WINDOWS[share.cap.cap.every]} cap of {dollars(share.cap.cap.nano_usd)}"
    cap += f" for {_whose(share)} ({share.cap.rule})"
    if isinstance(answer, CapBusy):
        said = f"requests that are running hold what is left of {cap} until they end"
        return 503, said + whom, retry_after(_BUSY_PAUSE)
    said = f"{cap} is spent ({dollars(share.spent)}) until {_moment(share, rules)}"
    seconds = retry_after(share.resets_at - time.time())
    return 429, said + whom, seconds


def refusal_of(api: str, answer: CapFull | CapBusy | NoPrice, rules: CallerRules) -> Answer:
    """What the client gets when a call may not be made."""
    status, said, seconds = said_of(answer, rules)
    if isinstance(answer, NoPrice):
        refused = api_error(api, status, said, reason=Reason.UNPRICED)
        return evolve(refused, rule=_unpriced_rule(rules))
    cap = answer.share.cap
    rule = f"{cap.rule}: {cap.subject}"
    if isinstance(answer, CapBusy):
        refused = api_error(api, status, said, reason=Reason.CAP_BUSY, retry_after=seconds)
        return evolve(refused, rule=rule)
    refused = api_error(api, status, said, reason=Reason.CAP, retry_after=seconds)
    return evolve(refused, rule=rule, headers=(*refused.headers, _NO_RETRY))


def passed_refusal(rules: CallerRules, config: ProviderConfig, method: str, route: str) -> Answer:
    """What the client gets for a passed route that may cost money."""
    rule = rules.caps[0].rule
    said = f"{method} {route} may cost money that is not counted, and your spending has a cap"
    said += f" ({rule}): refused until that is changed"
    if rules.contact:
        said += f"; {rules.contact}"
    return evolve(api_error(config.type, 403, said, reason=Reason.UNPRICED), rule=rule)


def _unpriced_rule(rules: CallerRules) -> str:
    """What says that things without a price are refused; nothing need say it but a cap."""
    return rules.unpriced.rule or rules.caps[0].rule


def is_free(method: str, route: str) -> bool:
    """Whether a passed route costs nothing."""
    return method in _FREE_METHODS or route in _FREE_ROUTES


def warning_of(share: CapShare, rules: CallerRules) -> tuple[str, str]:
    """The header that says how full a cap is."""
    level = next((level for level in _LEVELS if share.part * 100 >= level), _LEVELS[-1])
    cap = share.cap
    said = (
        f'{level}; cap="{_whose(share)}"; spent="{dollars(share.spent)}";'
        f' of="{dollars(cap.cap.nano_usd)}"; every={cap.cap.every};'
        f" resets={_moment(share, rules)}"
    )
    return WARNING_HEADER, said.encode("ascii", "replace").decode()


def _whose(share: CapShare) -> str:
    subject = share.cap.subject
    if subject.per in ("user", "key"):
        return "you" if subject.per == "user" else "this key"
    name = "".join(each for each in subject.id if each.isprintable() and each not in '"\\')
    return f"the {subject.per} {name}"


def _moment(share: CapShare, rules: CallerRules) -> str:
    """When a cap's next window begins, as the policy's clocks show it."""
    zone: tzinfo = UTC
    with contextlib.suppress(LookupError, OSError, ValueError):
        zone = ZoneInfo(rules.timezone)
    return datetime.fromtimestamp(share.resets_at, zone).isoformat(timespec="seconds")
