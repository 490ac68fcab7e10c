"""Dial what the gateway would dial: every provider with each of its keys, and coderd.

The way is the gateway's own (proxies, authorities, timeouts), the question costs nothing: a
provider is asked for its models.  Bedrock's runtime has no such route; it is sent a call
without content, which it refuses as such (400) once signature and model are accepted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import requests
from attrs import evolve, frozen

from aigateway.actors.interception.headers import Credential, centralized
from aigateway.actors.interception.vertex_paths import COUNTING
from aigateway.actors.providers.bedrock.making import BedrockMaker, standing_credential
from aigateway.actors.providers.bedrock.rewrite import invoke_path
from aigateway.actors.providers.making import maker_for
from aigateway.actors.providers.request import UpstreamRequest, url_for
from aigateway.actors.upstream.adapter import PlainSession
from aigateway.actors.upstream.errors import UpstreamError
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.http.settings import Settings

__all__ = ["Dialled", "dial_coderd", "dial_database", "dial_providers"]

ANSWER_TIMEOUT = 15.0
"""Seconds for the head of an answer: somebody is waiting at a terminal."""
AT_ONCE = 8
"""Providers dialled at the same time."""

_LONGEST_LIST = 4 * 1024 * 1024
"""Bytes of a list of models that are read."""
_MOST_MODELS = 1000
"""Of a provider that are told."""

_ANTHROPIC_VERSION = ("anthropic-version", "2023-06-01")
"""Without it Anthropic refuses any request."""
_MODELS = {"copilot": "/models", "gemini": "/v1beta/models"}
"""Where providers that do not have it at the usual place list their models."""


@frozen
class Dialled:
    """What came of one attempt."""

    target: str
    """The provider's name, or coderd."""
    what: str
    """The masked key, or which credential or model."""
    seconds: float
    status: int | None = None
    note: str = ""
    problem: str = ""
    """Empty when it is as it should be."""
    models: tuple[str, ...] = ()
    """What the provider says that it offers, where that was asked for."""


@frozen
class _Attempt:
    config: ProviderConfig
    what: str
    credential: Credential | None
    model: str = ""


def dial_providers(configs: Iterable[ProviderConfig], *, models: bool = False) -> list[Dialled]:
    """Dial each provider that serves, with each of its keys, in their order.

    ``models``: read which ones it offers, too.
    """
    attempts = [a for c in configs if c.enabled and c.error is None for a in _attempts(c)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(partial(_dial, models=models), attempts))


def _attempts(config: ProviderConfig) -> Sequence[_Attempt]:
    if config.bedrock is not None:
        hint = standing_credential(config).hint
        if not config.bedrock.invokes:
            return [_Attempt(config, hint, None)]
        models = dict.fromkeys((config.bedrock.model, config.bedrock.small_fast_model))
        return [_Attempt(config, f"{hint} {model}", None, model) for model in models]
    if config.vertex is not None:
        return [_Attempt(config, "google credentials", None, COUNTING)]
    if not config.keys:
        return [_Attempt(config, "no key", None)]
    credentials = [centralized(config.type, key) for key in config.keys]
    return [_Attempt(config, f"key {each.hint}", each) for each in credentials]


def _dial(attempt: _Attempt, models: bool) -> Dialled:
    config = attempt.config
    began = time.monotonic()
    try:
        status, offered = _asked(attempt, models)
    except (requests.RequestException, UpstreamError, ValueError) as ex:
        return Dialled(config.name, attempt.what, time.monotonic() - began, problem=str(ex))
    note, problem = _judge(attempt, status)
    if status in (404, 405) and not attempt.model:
        # Some providers have no list of models; others were given a wrong path.
        note, problem = _judge_path(attempt) or (note, problem)
    seconds = time.monotonic() - began
    return Dialled(config.name, attempt.what, seconds, status, note, problem, offered)


def _asked(attempt: _Attempt, models: bool) -> tuple[int, tuple[str, ...]]:
    """The answer's status, and the models in it if they are wanted."""
    config = attempt.config
    patience = min(ANSWER_TIMEOUT, config.first_byte_timeout)
    with PlainSession(proxy=config.proxy) as session:
        answer = session.send(
            _question(attempt),
            stream=True,
            timeout=(config.connect_timeout, patience),
            verify=config.ca_file or True,
        )
        try:
            wanted = models and answer.status_code == 200 and not attempt.model
            return answer.status_code, _models_in(answer) if wanted else ()
        finally:
            answer.close()


def _models_in(answer: requests.Response) -> tuple[str, ...]:
    """The ids in a list of models; none when it is not one, too long, or not there in time."""
    body = bytearray()
    until = time.monotonic() + ANSWER_TIMEOUT
    for piece in answer.iter_content(65_536):
        body += piece
        if len(body) > _LONGEST_LIST or time.monotonic() > until:
            return ()
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return ()
    # OpenAI and Anthropic have ``data``, Google has ``models``; some of the others a bare list.
    listed = told.get("data", told.get("models")) if isinstance(told, Mapping) else told
    if not isinstance(listed, list):
        return ()
    names = (each.get("id", each.get("name")) for each in listed if isinstance(each, Mapping))
    found = {name.removeprefix("models/") for name in names if isinstance(name, str) and name}
    return tuple(sorted(found)[:_MOST_MODELS])


def _question(attempt: _Attempt) -> requests.PreparedRequest:
    config = attempt.config
    headers = [("Accept", "application/json"), ("User-Agent", "aigateway-check")]
    if config.vertex is not None:
        headers.append(("Content-Type", "application/json"))
        rest = "/v1/messages/count_tokens"
        asked = UpstreamRequest(method="POST", rest=rest, headers=headers, body=b"{}")
        making = maker_for(config)
        try:
            return making.make(asked, "", making.standing)
        finally:
            making.close()
    if attempt.model:
        url = url_for(config, invoke_path(attempt.model, streaming=False))
        headers.append(("Content-Type", "application/json"))
        signing = BedrockMaker(config)
        try:
            return signing.signed("POST", url, headers, b"{}")
        finally:
            signing.close()
    if config.speaks == "anthropic":
        headers.append(_ANTHROPIC_VERSION)
    rest = _MODELS.get(config.type, "/v1/models")
    request = UpstreamRequest(method="GET", rest=rest, headers=headers, body=b"")
    maker = maker_for(config)
    try:
        return maker.make(request, "", attempt.credential)
    finally:
        maker.close()


def _judge(attempt: _Attempt, status: int) -> tuple[str, str]:
    """A note and a problem, either may be empty."""
    if 200 <= status < 300:
        return "", ""
    if attempt.model and status == 400:
        return "credentials and model are accepted", ""
    own = attempt.credential is None and attempt.config.bedrock is None
    if own and not attempt.config.no_key and status in (401, 403):
        return "reachable; users bring their own keys", ""
    # So Google answers to a key that it does not know.
    refused = (400, 401, 403) if attempt.config.type == "gemini" else (401, 403)
    if status in refused:
        return "", "the credentials were refused"
    if status == 429:
        return "reachable, and rate-limited", ""
    if attempt.model and status == 404:
        return "", "there is no such model"
    if status in (404, 405):
        return "reachable; it has no list of models, so the key was not tried", ""
    return "", f"it answered with HTTP status {status}"


def _judge_path(attempt: _Attempt) -> tuple[str, str] | None:
    """A problem if the provider's address answers with the other spelling of its path."""
    config = attempt.config
    given = config.base_url.rstrip("/")
    version = "/v1beta" if config.type == "gemini" else "/v1"
    other = given.removesuffix(version) if given.endswith(version) else f"{given}{version}"
    try:
        status, _ = _asked(evolve(attempt, config=evolve(config, base_url=other)), False)
    except (requests.RequestException, UpstreamError, ValueError):
        return None
    if 200 <= status < 300 or status in (401, 403, 429):
        return "", f"nothing is at this path, but {other} answers: use that as the base URL"
    return None


def dial_coderd(settings: Settings) -> Dialled:
    """Open a session with the Coder deployment, and close it."""
    from aigateway.actors.control.coderd.dial import Dialer, DialError
    from aigateway.http.request.control_planes import dial_settings

    began = time.monotonic()
    try:
        channel, version = Dialer(dial_settings(settings)).dial()
    except DialError as ex:
        return Dialled("coderd", "gateway key", time.monotonic() - began, problem=str(ex))
    seconds = time.monotonic() - began
    channel.close()
    channel.release()
    return Dialled("coderd", "gateway key", seconds, 101, f"API version {version}")


def dial_database(address: str) -> Dialled:
    """Connect to the local database at ``address``, and look at its schema."""
    from aigateway.actors.control.local.address import LocalDatabaseError
    from aigateway.actors.control.local.opening import state_of

    began = time.monotonic()
    try:
        state = state_of(address)
    except LocalDatabaseError as ex:
        return Dialled("local database", "schema", time.monotonic() - began, problem=str(ex))
    return Dialled(
        "local database", "schema", time.monotonic() - began, note=f"version {state.version}"
    )
