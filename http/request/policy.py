"""What the policy of the embedded control plane lets a caller do.

A caller whom nothing is said of has no rules, and costs nothing here.  A refusal says what was
refused, by which rule, until when, and whom to ask; log line and metric name the rule and a reason.

Requests and tokens are counted in windows of a minute that begin with the first one.  All worker
processes of a gateway count together (:mod:`.shared_windows`), and all gateways where
``--rate-limit-storage`` is a Redis.  Tokens are known when an answer has ended, so a request is
let in as long as any are left.
"""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from aigateway.actors.codec.reading import items, members, text
from aigateway.actors.providers.request import model_for, model_refusal
from aigateway.actors.values.policy import CallerRules, Limit, Stated, Subject
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.actors.values.records import TokenUsage, UsageRecord
from aigateway.http.metrics.reasons import Reason
from aigateway.http.request.answers import Answer, plain
from aigateway.http.request.rate_limit import Counting, fixed_windows
from aigateway.http.settings import Settings

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.strategies import FixedWindowRateLimiter

__all__ = [
    "Windows",
    "check_models",
    "check_provider",
    "check_unread",
    "may_list",
    "models_beside",
    "without_forbidden",
]

_BESIDE = ("models", "fallbacks", "tools")
"""Members of requests that name further models: lists of names, or of objects with a ``model``."""

_MINUTE = 60
"""Seconds."""

Observer = Callable[[list[UsageRecord]], None]


def check_provider(rules: CallerRules, config: ProviderConfig) -> None:
    """Raise the Answer to a request for a provider that its caller may not use."""
    refused = rules.provider_refusal(config.name)
    if refused is not None:
        raise _forbidden(rules, f'the provider "{config.name}"', refused, Reason.POLICY_PROVIDER)


def check_models(rules: CallerRules, config: ProviderConfig, models: Iterable[str]) -> None:
    """Raise the Answer to a request for models of which its caller may not use one.

    ``models`` are the name that was asked for and those that it stands for.
    """
    for model in dict.fromkeys(models):
        refused = model_refusal(rules, config, model)
        if refused is not None:
            raise _forbidden(rules, f'the model "{model}"', refused, Reason.POLICY_MODEL)


def check_unread(rules: CallerRules) -> None:
    """Raise the Answer to a batch or its file where the policy lists models: nobody reads which
    ones it asks for."""
    if rules.models:
        what = "a batch or its file, of which nobody reads the models,"
        raise _forbidden(rules, what, Stated("", rules.models[0].rule), Reason.POLICY_MODEL)


def models_beside(body: bytes) -> Iterator[str]:
    """Models that a request names beside the one that it asks: those that are to answer in its
    place, and those that its tools call."""
    fields = members(body)
    for name in _BESIDE:
        for each in items(fields.get(name)):
            model = text(each) if name != "tools" else None
            model = model or text(members(each).get("model"))
            if model:
                yield model


def may_list(rules: CallerRules, config: ProviderConfig, model: str) -> bool:
    """Whether a list of models shows this one: whether it may be used."""
    names = {model, model_for(config, model, config.name) or model}
    return all(model_refusal(rules, config, name) is None for name in names)


def without_forbidden(rules: CallerRules, config: ProviderConfig, body: bytes) -> bytes:
    """A provider's list of models with those that the caller may use; the rest of it stays as it
    is, and so does what is no list."""
    fields = dict(members(body))
    for name in ("data", "models"):
        try:
            listed = msgspec.json.decode(fields.get(name, b""), type=list[msgspec.Raw])
        except msgspec.DecodeError:
            continue
        kept = [each for each in listed if may_list(rules, config, _id_of(each))]
        if len(kept) != len(listed):
            fields[name] = msgspec.Raw(msgspec.json.encode(kept))
            body = msgspec.json.encode(fields)
    return body


def _id_of(listed: msgspec.Raw) -> str:
    fields = members(bytes(listed))
    return text(fields.get("id")) or (text(fields.get("name")) or "").removeprefix("models/")


def _forbidden(rules: CallerRules, what: str, refused: Stated[str], reason: Reason) -> Answer:
    said = f"{what} is not allowed by the policy ({refused.rule}) until that is changed"
    return plain(403, said + _ask(rules), reason=reason, rule=refused.rule)


def _ask(rules: CallerRules) -> str:
    return f"; {rules.contact}" if rules.contact else ""


class Windows:
    """Counts requests and tokens per minute.  Safe to use from many threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._counting: Counting[FixedWindowRateLimiter] | None = None

    def enter(self, rules: CallerRules) -> None:
        """Count a request; raises the Answer (429) when its caller has no more in this minute."""
        if not rules.limits:
            return
        refused = self._counters().ask(lambda windows: _enter(windows, rules.limits))
        if refused is not None:
            raise _too_many(rules, *refused)

    def watching(self, rules: CallerRules, observe: Observer | None) -> Observer | None:
        """``observe`` and the counting of tokens, where they are limited."""
        limits = [limit for limit in rules.limits if limit.what == "tokens"]
        if not limits:
            return observe

        def watch(found: list[UsageRecord]) -> None:
            if observe is not None:
                observe(found)
            tokens = sum(_counted(each) for each in found if isinstance(each, TokenUsage))
            if tokens:
                self._counters().ask(lambda windows: _count(windows, limits, tokens))

        return watch

    def _counters(self) -> Counting[FixedWindowRateLimiter]:
        counting = self._counting
        if counting is None:
            # Late: what is imported for it is nothing that a gateway without limits needs.
            counting = self._counting = _counting(self._settings)
        return counting


def _counting(settings: Settings) -> Counting[FixedWindowRateLimiter]:
    local, address = fixed_windows("memory://"), settings.rate_limit_storage
    if not address.startswith("memory:"):
        return Counting(local, lambda: fixed_windows(address))
    from aigateway.http.request.shared_windows import windows_in

    return Counting(local, lambda: windows_in(Path(settings.runtime_dir), settings.local_db))


def _enter(
    windows: FixedWindowRateLimiter, limits: tuple[Limit, ...]
) -> tuple[Limit, float] | None:
    """Count a request; the limit that it is over, and when that begins again (Unix seconds)."""
    items = [(limit, _item(limit)) for limit in limits]
    # First look: what is refused for one limit must not count for the others.
    for limit, item in items:
        if not windows.test(item, _key(limit.subject)):
            return limit, windows.get_window_stats(item, _key(limit.subject)).reset_time
    for limit, item in items:
        if limit.what == "requests" and not windows.hit(item, _key(limit.subject)):
            return limit, windows.get_window_stats(item, _key(limit.subject)).reset_time
    return None


def _count(windows: FixedWindowRateLimiter, limits: list[Limit], tokens: int) -> None:
    for limit in limits:
        windows.hit(_item(limit), _key(limit.subject), cost=tokens)


def _item(limit: Limit) -> RateLimitItem:
    from limits import RateLimitItemPerMinute

    return RateLimitItemPerMinute(limit.count, namespace=f"aigateway-{limit.what}")


@functools.lru_cache(maxsize=4096)
def _key(subject: Subject) -> str:
    """By what it is counted: a Redis need not know who is who."""
    return hashlib.sha256(str(subject).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _counted(usage: TokenUsage) -> int:
    """What a cache has answered is left out: it would be most of all, again with each turn."""
    return usage.input_tokens + usage.cache_write_input_tokens + usage.output_tokens


def _too_many(rules: CallerRules, limit: Limit, until: float) -> Answer:
    seconds = max(1, math.ceil(until - time.time()))
    again = datetime.fromtimestamp(until, UTC).strftime("%H:%M:%S")
    one = limit.count == 1
    what = limit.what.removesuffix("s") if one else limit.what
    said = f"the policy allows {limit.count} {what} per minute ({limit.rule})"
    said += f", and {'it is' if one else 'they are'} used up until {again} UTC"
    if not limit.count:
        # No minute is better than this one.
        said = f"the policy allows no {what} ({limit.rule}) until that is changed"
        seconds = _MINUTE
    reason = Reason.POLICY_REQUESTS if limit.what == "requests" else Reason.POLICY_TOKENS
    return plain(429, said + _ask(rules), reason=reason, rule=limit.rule, retry_after=seconds)
