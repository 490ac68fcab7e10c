"""From configured providers to what their actors need, each judged by itself.

:func:`build_providers` starts from the environment's list.  :func:`finish_providers` does the
same for providers that another source (coderd) made, so that the gateway's own settings
(bring your own key, breaker, timeouts, proxies …) apply to them too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from urllib.parse import urlsplit

from attrs import evolve, frozen

from aigateway.actors.providers.bedrock.models import geographies, stated_region
from aigateway.actors.upstream.endpoint import Proxy
from aigateway.actors.values.provider_config import (
    ANTHROPIC_TYPES,
    DEFAULT_BASE_URLS,
    OPENAI_TYPES,
    PROVIDER_TYPES,
    BedrockConfig,
    BreakerConfig,
    ProviderConfig,
)
from aigateway.http.settings._indexed_env import BEARER_TOKEN, MAX_KEYS
from aigateway.http.settings._option import OptionWarning
from aigateway.http.settings._proxies import proxy_for
from aigateway.http.settings.provider_entry import ProviderEntry
from aigateway.http.settings.provider_env import read_providers
from aigateway.http.settings.table import Settings

__all__ = [
    "ProviderOutcome",
    "all_failed",
    "build_providers",
    "configured_providers",
    "finish_providers",
    "provider_warnings",
    "provider_outcomes",
]

_ADD_KEY = "add a key, or start the gateway with --ai-gateway-allow-byok"

_OF_ALL = (
    "connect_timeout",
    "first_byte_timeout",
    "idle_timeout",
    "max_retries",
    "key_rest_max",
    "fallback_after",
)
"""Options that hold for each provider unless it has a value of its own."""


@frozen
class ProviderOutcome:
    """What became of one provider: ``status`` is enabled, disabled or error."""

    name: str
    type: str
    status: str
    error: str = ""


def provider_outcomes(providers: Iterable[ProviderConfig]) -> list[ProviderOutcome]:
    """Say for each provider whether it serves, in the order given."""
    outcomes = []
    for p in providers:
        status = "disabled" if not p.enabled else "error" if p.error else "enabled"
        outcomes.append(ProviderOutcome(p.name, p.type, status, p.error or ""))
    return outcomes


def all_failed(providers: Sequence[ProviderConfig]) -> bool:
    """Whether some provider should serve and none can."""
    wanted = [p for p in providers if p.enabled]
    return bool(wanted) and all(p.error for p in wanted)


@frozen
class _Names:
    """How error texts call the settings of one provider."""

    base_url: str = "its base URL"
    region: str = "its region"
    fallback: str = "its fallback"
    prefix: str = ""
    """What its variables begin with; empty: it is configured in the Coder deployment."""

    def way_out(self, what: str) -> str:
        """Where ``what`` is to be done."""
        if self.prefix:
            return f"{what}, in the variables that begin with {self.prefix}"
        return f"{what}, among the AI providers of the Coder deployment"


def configured_providers(settings: Settings) -> tuple[ProviderConfig, ...]:
    """All providers that the settings name.  Raises SettingsError when it is unclear which."""
    found = read_providers(settings.provider_environ, settings.provider_commands)
    return build_providers(found.entries, settings)


def build_providers(
    entries: Iterable[ProviderEntry], settings: Settings
) -> tuple[ProviderConfig, ...]:
    """Make each provider's configuration; one that cannot serve has ``error`` set."""
    built = []
    for entry in entries:
        timeouts = {name: getattr(settings, name) for name in _OF_ALL}
        config = ProviderConfig(
            name=entry.name,
            type=entry.type,
            base_url=entry.base_url,
            keys=entry.keys,
            key_command=entry.key_command,
            enabled=entry.enabled,
            error=entry.error,
            bedrock=entry.bedrock,
            vertex=entry.vertex,
            fallback=entry.fallback,
            **{**timeouts, **entry.extras},
        )
        field = "BEDROCK_BASE_URL" if entry.bedrock else "BASE_URL"
        names = _Names(
            f"{entry.prefix}{field}",
            f"{entry.prefix}BEDROCK_REGION",
            f"{entry.prefix}FALLBACK",
            entry.prefix,
        )
        built.append(_finish(config, settings, names))
    return _with_fallbacks(built)


def finish_providers(
    providers: Iterable[ProviderConfig], settings: Settings
) -> tuple[ProviderConfig, ...]:
    """Apply the gateway's settings to providers that only know their own fields."""
    return _with_fallbacks(
        [
            _finish(
                evolve(p, **{name: getattr(settings, name) for name in _OF_ALL}),
                settings,
                _Names(),
            )
            for p in providers
        ]
    )


class _CannotServeError(ValueError):
    """Why a provider cannot serve, and what to do."""

    def __init__(self, text: str, what: str = "change that") -> None:
        super().__init__(text)
        self.what = what


def _finish(config: ProviderConfig, settings: Settings, names: _Names) -> ProviderConfig:
    config = evolve(
        config,
        allow_byok=settings.allow_byok,
        breaker=_breaker(settings),
        actor_headers=_actor_headers(config, settings),
        quoted=settings.content != "none",
        dump_dir="" if settings.content == "none" else settings.dump_dir,
        ca_file=config.ca_file or settings.upstream_ca_file,
    )
    if not config.enabled:
        return config
    if config.error is not None:
        errors = [config.error, *_address_errors(config, names)]
        way_out = config.way_out or names.way_out("change that")
        return evolve(config, error="; ".join(errors), way_out=way_out)
    try:
        if config.type in OPENAI_TYPES or config.type == "gemini":
            config = _with_keys(config, names)
        elif config.type == "vertex":
            config = _vertex(config, names)
        elif config.type in ANTHROPIC_TYPES:
            config = _anthropic(_with_bearer_token(config, settings), names)
        elif config.type == "copilot":
            config = evolve(config, base_url=_base_url(config, names), keys=(), allow_byok=True)
        else:
            raise _CannotServeError(
                f'unsupported provider type: "{config.type}"',
                f"choose one of {', '.join(PROVIDER_TYPES)}",
            )
        return evolve(config, proxy=_proxy(config, settings))
    except _CannotServeError as ex:
        return evolve(config, error=str(ex), way_out=names.way_out(ex.what))


def _address_errors(config: ProviderConfig, names: _Names) -> list[str]:
    """What is wrong with the address that was given, where something else is wrong already."""
    if not config.base_url.strip():
        return []
    try:
        _base_url(config, names)
    except _CannotServeError as ex:
        return [str(ex)]
    return []


def _proxy(config: ProviderConfig, settings: Settings) -> str:
    proxy = config.proxy or proxy_for(config.base_url, settings.provider_environ)
    if not proxy:
        return ""
    try:
        Proxy.of(proxy)
    except ValueError as ex:
        raise _CannotServeError(
            f"{ex}: correct HTTPS_PROXY, or set NO_PROXY to the provider's host"
        ) from None
    return proxy


def _breaker(settings: Settings) -> BreakerConfig | None:
    if not settings.circuit_breaker_enabled:
        return None
    return BreakerConfig(
        failure_threshold=settings.circuit_breaker_failure_threshold,
        interval=settings.circuit_breaker_interval,
        timeout=settings.circuit_breaker_timeout,
        max_requests=settings.circuit_breaker_max_requests,
    )


def _actor_headers(config: ProviderConfig, settings: Settings) -> dict[str, str]:
    if not settings.send_actor_headers or config.type == "copilot":
        return {}
    headers = {
        "id": settings.actor_header_id,
        "username": settings.actor_header_username,
        "email": settings.actor_header_email,
    }
    return {attribute: header for attribute, header in headers.items() if header}


# -- by type


def _with_keys(config: ProviderConfig, names: _Names) -> ProviderConfig:
    if not (config.keys or config.no_key or config.allow_byok):
        raise _CannotServeError(
            f"{config.type} provider has no api keys configured and BYOK is not enabled",
            _ADD_KEY,
        )
    return evolve(config, base_url=_pool_and_base_url(config, config.type, names))


def _anthropic(config: ProviderConfig, names: _Names) -> ProviderConfig:
    if _effective(config.bedrock):
        return _bedrock(config, names)
    if config.type == "bedrock":
        raise _CannotServeError(
            "bedrock provider has no bedrock credentials configured",
            "set a region, a role to assume or a pair of access keys",
        )
    if not (config.keys or config.no_key or config.allow_byok):
        raise _CannotServeError(
            "anthropic provider has no api keys, no bedrock credentials, and BYOK is not enabled",
            _ADD_KEY,
        )
    return evolve(config, base_url=_pool_and_base_url(config, "anthropic", names), bedrock=None)


def _effective(bedrock: BedrockConfig | None) -> bool:
    """Whether there is enough to call Bedrock; an address alone is not."""
    return bedrock is not None and bool(
        bedrock.region
        or bedrock.role_arn
        or bedrock.access_key
        or bedrock.access_key_secret
        or bedrock.bearer_token
    )


def _with_bearer_token(config: ProviderConfig, settings: Settings) -> ProviderConfig:
    """AWS's own variable for Bedrock's API key counts where nothing else was configured."""
    bedrock = config.bedrock
    token = settings.provider_environ.get(BEARER_TOKEN, "").strip()
    if not token or not _effective(bedrock):
        return config
    assert bedrock is not None
    if bedrock.bearer_token or bedrock.access_key or bedrock.role_arn:
        return config
    return evolve(config, bedrock=evolve(bedrock, bearer_token=token))


def _bedrock(config: ProviderConfig, names: _Names) -> ProviderConfig:
    bedrock = config.bedrock
    assert bedrock is not None
    if bool(bedrock.access_key) != bool(bedrock.access_key_secret):
        raise _CannotServeError(
            "bedrock: both access key and access key secret must be provided together",
            "set both, or neither for the credentials of the machine",
        )
    _check_protocol(bedrock, config.base_url, names)
    if not bedrock.bearer_token and find_spec("botocore") is None:
        raise _CannotServeError(
            "bedrock: botocore is not installed, run: pip install 'aigateway[bedrock]'"
        )
    if config.base_url:
        return evolve(config, base_url=_base_url(config, names), keys=())
    if not bedrock.region:
        raise _CannotServeError(
            f"bedrock: region or base url required, set {names.region} or {names.base_url}",
            "set the region or the base URL",
        )
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", bedrock.region):
        raise _CannotServeError(f'bedrock: {names.region}: "{bedrock.region}" is no AWS region')
    suffix = ".cn" if bedrock.region.startswith("cn-") else ""
    url = f"https://bedrock-runtime.{bedrock.region}.amazonaws.com{suffix}"
    return evolve(config, base_url=url, keys=())


def _vertex(config: ProviderConfig, names: _Names) -> ProviderConfig:
    vertex = config.vertex
    if vertex is None:
        raise _CannotServeError(
            "vertex: project and region are required", "configure it by numbered variables"
        )
    if find_spec("google") is None or find_spec("google.auth") is None:
        raise _CannotServeError(
            "vertex: google-auth is not installed, run: pip install 'aigateway[vertex]'"
        )
    if config.base_url.strip():
        return evolve(config, base_url=_base_url(config, names))
    host = f"{vertex.region}-aiplatform.googleapis.com"
    if vertex.region == "global":
        host = "aiplatform.googleapis.com"
    elif vertex.region in ("eu", "us"):
        # Groups of places have an endpoint of their own kind.
        host = f"aiplatform.{vertex.region}.rep.googleapis.com"
    return evolve(config, base_url=f"https://{host}")


def _check_protocol(bedrock: BedrockConfig, base_url: str, names: _Names) -> None:
    if bedrock.protocol == "mantle":
        if not base_url:
            raise _CannotServeError(
                f"bedrock: base_url required for the protocol mantle, set {names.base_url}, as in "
                "https://bedrock-mantle.<region>.api.aws/anthropic"
            )
    elif bedrock.protocol not in ("", "invoke-model"):
        raise _CannotServeError(
            f'bedrock: unknown bedrock protocol "{bedrock.protocol}", use invoke-model or mantle',
            "choose the protocol invoke-model or mantle",
        )
    elif not bedrock.model:
        raise _CannotServeError("bedrock: model required", "set the model")
    elif not bedrock.small_fast_model:
        raise _CannotServeError("bedrock: small fast model required", "set the small fast model")


def _check_pool(config: ProviderConfig, family: str) -> None:
    if len(config.keys) > MAX_KEYS:
        raise _CannotServeError(
            f"{family} key pool: too many keys ({len(config.keys)}), maximum is {MAX_KEYS}",
            "take keys out",
        )
    for at, key in enumerate(config.keys):
        if not key.strip():
            raise _CannotServeError(
                f"{family} key pool: key at index {at} is empty", "take the empty key out"
            )
        if key in config.keys[:at]:
            raise _CannotServeError(f"{family} key pool: duplicate key", "take one of them out")


def _pool_and_base_url(config: ProviderConfig, family: str, names: _Names) -> str:
    """The address; what is wrong with the keys and with it is told together."""
    url, found = "", []
    try:
        _check_pool(config, family)
    except _CannotServeError as ex:
        found.append(ex)
    try:
        url = _base_url(config, names)
    except _CannotServeError as ex:
        found.append(ex)
    if found:
        what = " and ".join(ex.what for ex in found)
        raise _CannotServeError("; ".join(map(str, found)), what)
    return url


def _base_url(config: ProviderConfig, names: _Names) -> str:
    """The address with the type's default filled in."""
    url = config.base_url.strip() or DEFAULT_BASE_URLS.get(config.type, "")
    if not url:
        raise _CannotServeError(
            f'type "{config.type}" has no default address, set {names.base_url}',
            "set the base URL",
        )
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        sound = False
    if not sound or re.search(r"[\s\x00-\x1f]", url):
        raise _CannotServeError(
            f"{names.base_url}: must be an address that starts with http:// or https:// "
            "and has a host",
            "correct the base URL",
        )
    return url


# -- fallbacks


def _with_fallbacks(providers: Sequence[ProviderConfig]) -> tuple[ProviderConfig, ...]:
    by_name = {p.name: p for p in providers}
    return tuple(_checked_fallbacks(p, by_name) for p in providers)


def provider_warnings(providers: Sequence[ProviderConfig]) -> list[OptionWarning]:
    """What a provider that serves will not do, though its settings look as if it would."""
    by_name = {p.name: p for p in providers}
    warnings = []
    for p in providers:
        names = (*p.fallback, *(name for name, _ in p.group if name != p.name))
        for name in dict.fromkeys(names) if p.error is None else ():
            other = by_name[name]
            if other.bedrock is None or other.models is not None or other.error is not None:
                continue
            if other.bedrock.invokes and geographies(stated_region(other)):
                continue
            text = (
                f'never stands in for "{p.name}": nobody here knows what its region calls '
                "Anthropic's models, set MODELS"
            )
            warnings.append(OptionWarning(text, f'provider "{name}"'))
    return warnings


def _checked_fallbacks(p: ProviderConfig, by_name: Mapping[str, ProviderConfig]) -> ProviderConfig:
    errors = list(dict.fromkeys(_wrong_fallbacks(p, by_name)))
    if not errors:
        return p
    if p.error is not None:
        # What is to be done about the first mistake says where to look for these.
        return evolve(p, error="; ".join([p.error, *errors]))
    return evolve(p, error="; ".join(errors), way_out="correct FALLBACK or GROUP of this provider")


def _wrong_fallbacks(p: ProviderConfig, by_name: Mapping[str, ProviderConfig]) -> Iterator[str]:
    named = [("FALLBACK", name) for name in p.fallback]
    named += [("GROUP", name) for name, _ in p.group]
    for setting, name in named:
        other = by_name.get(name)
        if other is None:
            yield f'{setting} "{name}" is not the name of a provider'
        elif other is p and setting == "FALLBACK":
            yield f'{setting} "{name}" is the provider itself'
        elif _has_known_type(p) and _has_known_type(other) and other.speaks != p.speaks:
            yield f'{setting} "{name}" speaks another API than "{p.name}"'
    if len(set(p.fallback)) < len(p.fallback):
        yield "FALLBACK names a provider twice"


def _has_known_type(p: ProviderConfig) -> bool:
    return p.type in PROVIDER_TYPES
