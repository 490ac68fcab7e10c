"""Signatures, checked by a second implementation, and where their credentials come from."""

from __future__ import annotations

import builtins
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aws_imitation import signature_problem, sts_script
from imitation_provider import ReceivedRequest, ScriptedProvider, answer
from waiting import wait_until

from aigateway.actors.providers.bedrock.credentials import (
    AwsKeys,
    BotocoreMissing,
    keeper_for,
)
from aigateway.actors.providers.bedrock.making import standing_credential
from aigateway.actors.providers.bedrock.signing import Signer, region_of, sign
from aigateway.actors.providers.credentials import CredentialKeeper, NoCredentials
from aigateway.actors.values.provider_config import BedrockConfig, ProviderConfig

KEYS = AwsKeys("AKIAFORTESTS", "the-secret", "the-token")
URL = "http://127.0.0.1:9/model/m.v1%3A0/invoke"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """No credentials of whoever runs the tests, and no instance metadata."""
    for name in list(__import__("os").environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def as_received(method: str, url: str, headers: Any, body: bytes) -> ReceivedRequest:
    host, _, target = url.removeprefix("http://").partition("/")
    pairs = [("Host", host), *headers]
    return ReceivedRequest(1, b"", f"{method} /{target} HTTP/1.1", pairs, body)


def provider(base_url: str = "http://h", **bedrock: Any) -> ProviderConfig:
    return ProviderConfig(
        name="aws", type="bedrock", base_url=base_url, bedrock=BedrockConfig(**bedrock)
    )


# -- signatures


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "http://host/anthropic/v1/messages?beta=true&a=b",
        "http://host:80/v1/messages",
        "http://[::1]:8080/model/arn%3Aaws%2Fx/invoke",
    ],
)
@pytest.mark.parametrize("body", [b"", b'{"a":"\xc3\xa9"}', b"x" * 100_000])
def test_a_signature_holds(url: str, body: bytes) -> None:
    own = [("Content-Type", "application/json"), ("User-Agent", "changed by proxies")]
    added = sign(
        KEYS, region="eu-west-1", service="bedrock", method="POST", url=url, headers=own, body=body
    )
    request = as_received("POST", url, [*own, *added], body)
    request.headers[0] = ("Host", request.headers[0][1].removesuffix(":80"))
    check = {"region": "eu-west-1", "service": "bedrock"}
    assert signature_problem(request, "the-secret", **check) is None
    assert request.header("X-Amz-Security-Token") == "the-token"
    assert "user-agent" not in (request.header("Authorization") or "")
    assert signature_problem(request, "another", **check) == "the signature is wrong"
    request.body += b" "
    assert signature_problem(request, "the-secret", **check) == "the signature is wrong"


def test_without_a_session_there_is_no_token() -> None:
    added = sign(
        AwsKeys("AK", "s"), region="r", service="s", method="GET", url=URL, headers=(), body=b""
    )
    assert [name for name, _ in added] == ["X-Amz-Date", "Authorization"]


def test_a_request_is_signed_and_nothing_says_the_secret() -> None:
    config = provider(region="us-west-2", access_key="AKIAIOSFODNN7EXAMPLE",
                      access_key_secret="the-secret")  # fmt: skip
    signer = Signer(config)
    found = signer.signature("POST", URL, [("Content-Type", "text/x")], b"{}")
    standing = standing_credential(config)
    assert (standing.kind, standing.hint) == ("centralized", "AKIA...MPLE")
    assert "the-secret" not in repr(found) + repr(signer.config) + repr(standing)
    request = as_received("POST", URL, [("Content-Type", "text/x"), *found], b"{}")
    problem = signature_problem(request, "the-secret", region="us-west-2", service="bedrock")
    assert problem is None
    signer.keeper.close()


def test_mantle_is_another_service() -> None:
    keys = {"access_key": "AKIAIOSFODNN7EXAMPLE", "access_key_secret": "s"}
    signer = Signer(provider(region="us-west-2", protocol="mantle", **keys))
    headers = signer.signature("POST", URL, (), b"")
    assert "/us-west-2/bedrock-mantle/aws4_request" in dict(headers)["Authorization"]


# -- regions


@pytest.mark.parametrize(
    ("base_url", "region"),
    [
        ("https://bedrock-runtime.eu-central-1.amazonaws.com", "eu-central-1"),
        ("https://bedrock-runtime.us-gov-west-1.amazonaws.com/x", "us-gov-west-1"),
        ("https://bedrock-mantle.ap-southeast-2.api.aws/anthropic", "ap-southeast-2"),
        ("https://vpce-0a-b.bedrock-runtime.us-east-1.vpce.amazonaws.com", "us-east-1"),
    ],
)
def test_the_region_is_read_from_the_address(base_url: str, region: str) -> None:
    assert region_of(provider(base_url)) == region
    assert region_of(provider(base_url, region="eu-west-3")) == "eu-west-3"


def test_else_the_region_is_that_of_awss_own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoCredentials, match="region required"):
        region_of(provider("http://127.0.0.1:9"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    assert region_of(provider("http://127.0.0.1:9")) == "eu-north-1"


# -- credentials


class _Source:
    """Gives what it is told to, one fetch for each ``go``."""

    def __init__(self, *results: AwsKeys | Exception) -> None:
        self.results = list(results)
        self.fetched = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.has_expired = False
        self.forgotten = 0
        self.expiry_fails = False

    def fetch(self) -> AwsKeys:
        self.go.acquire()
        result = self.results.pop(0)
        self.fetched.release()
        if isinstance(result, Exception):
            raise result
        return result

    def forget(self) -> None:
        self.forgotten += 1

    def expired(self) -> bool:
        if self.expiry_fails:
            raise ValueError("cannot say")
        return self.has_expired


@pytest.fixture
def keeper() -> Iterator[Callable[[_Source], CredentialKeeper[AwsKeys]]]:
    made: list[tuple[CredentialKeeper[AwsKeys], _Source]] = []

    def make(source: _Source) -> CredentialKeeper[AwsKeys]:
        keeper = CredentialKeeper(source, name="p", renew_every=0.001, retry_every=0.001)
        made.append((keeper, source))
        return keeper

    yield make
    for each, source in made:
        each.close()
        source.results.append(KEYS)
        source.go.release()


def current_is(keeper: CredentialKeeper[AwsKeys], keys: AwsKeys) -> Callable[[], bool]:
    def there() -> bool:
        try:
            return keeper.current(0.0) == keys
        except NoCredentials:
            return False

    return there


def test_the_first_request_waits_and_later_ones_do_not(
    keeper: Callable[[_Source], CredentialKeeper[AwsKeys]],
) -> None:
    source = _Source(KEYS, AwsKeys("second", "s"))
    kept = keeper(source)
    with pytest.raises(NoCredentials, match=r"no AWS credentials within 0\.01 s"):
        kept.current(0.01)
    source.go.release()
    assert kept.current(10) == KEYS
    # Renewing goes on in the background, and until it is done the old ones serve.
    assert kept.current(0) == KEYS
    source.go.release()
    wait_until(current_is(kept, AwsKeys("second", "s")), "the second keys", 10.0)


def test_a_failure_is_told_at_once_and_mended_later(
    keeper: Callable[[_Source], CredentialKeeper[AwsKeys]],
) -> None:
    source = _Source(NoCredentials("none to be had"), KEYS)
    kept = keeper(source)
    source.go.release()
    with pytest.raises(NoCredentials, match="none to be had"):
        kept.current(10)
    source.go.release()
    wait_until(current_is(kept, KEYS), "the keys", 10.0)


@pytest.mark.parametrize("expiry_fails", [False, True])
def test_keys_serve_until_they_expire_when_renewing_fails(
    keeper: Callable[[_Source], CredentialKeeper[AwsKeys]], expiry_fails: bool
) -> None:
    source = _Source(KEYS, OSError("no route"), OSError("no route"))
    kept = keeper(source)
    source.go.release(2)
    assert kept.current(10) == KEYS
    for _ in range(2):
        assert source.fetched.acquire(timeout=10)
    assert kept.current(0) == KEYS
    source.has_expired = True
    source.expiry_fails = expiry_fails
    source.go.release()
    wait_until(lambda: kept._keys is None, "the keys are forgotten", 10.0)
    with pytest.raises(NoCredentials, match="OSError: no route"):
        kept.current(10)


def test_refused_credentials_are_fetched_anew_once_for_all_who_used_them() -> None:
    second = AwsKeys("second", "s")
    source = _Source(KEYS, second)
    kept = CredentialKeeper(source, name="p", renew_every=60, retry_every=60)
    source.go.release()
    assert kept.current(10) == KEYS
    used_at = time.monotonic()
    assert kept.renew(used_at)
    assert kept.renew(used_at)
    source.go.release()
    assert kept.current(10) == second
    # Whoever learns only now that the first ones are bad has better ones already.
    assert kept.renew(used_at)
    assert kept.current(0) == second
    assert source.forgotten == 1
    kept.close()


def test_a_pair_from_the_settings_needs_nobody() -> None:
    kept = keeper_for(BedrockConfig(access_key="a", access_key_secret="s"), "r")
    assert kept.current() == AwsKeys("a", "s")
    assert not kept.renew(0.0)
    kept.close()


def test_the_chain_finds_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "env-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "env-token")
    kept = keeper_for(BedrockConfig(region="r"), "r")
    assert kept.current() == AwsKeys("AKIAENV", "env-secret", "env-token")
    kept.close()


def test_an_empty_chain_is_told() -> None:
    kept = keeper_for(BedrockConfig(region="r"), "r")
    with pytest.raises(NoCredentials, match="no AWS credentials found: neither"):
        kept.current()
    kept.close()


# -- roles

ROLE = "arn:aws:iam::123456789012:role/bedrock"


@pytest.mark.parametrize("pair", [True, False])
def test_a_role_is_assumed_with_its_external_id(
    monkeypatch: pytest.MonkeyPatch, scripted_provider: ScriptedProvider, pair: bool
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", scripted_provider.url)
    more = {"access_key": "AKIAOWN", "access_key_secret": "own-secret"} if pair else {}
    if not pair:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOWN")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "own-secret")
    expires = "2099-01-01T00:00:00Z"
    scripted_provider.play(sts_script("ASIAROLE", "role-secret", "role-token", expires=expires))
    config = provider(region="eu-west-1", role_arn=ROLE, external_id="ext-7", **more)
    signer = Signer(config)
    headers = dict(signer.signature("POST", URL, (), b""))
    assert headers["X-Amz-Security-Token"] == "role-token"
    assert "Credential=ASIAROLE/" in headers["Authorization"]
    asked = scripted_provider.requests[0]
    for part in (b"Action=AssumeRole", b"ExternalId=ext-7", b"role%2Fbedrock"):
        assert part in asked.body
    assert signature_problem(asked, "own-secret", region="eu-west-1", service="sts") is None
    signer.keeper.close()


def test_a_role_that_may_not_be_assumed_is_told(
    monkeypatch: pytest.MonkeyPatch, scripted_provider: ScriptedProvider
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", scripted_provider.url)
    denied = (
        "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code>"
        "<Message>User is not authorized</Message></Error></ErrorResponse>"
    )
    scripted_provider.otherwise = answer(denied, 403, content_type="text/xml")
    config = BedrockConfig(access_key="AK", access_key_secret="own-secret", role_arn=ROLE)
    kept = keeper_for(config, "eu-west-1")
    with pytest.raises(NoCredentials, match="AccessDenied") as caught:
        kept.current()
    assert "own-secret" not in str(caught.value)
    kept.close()


# -- without botocore


def test_without_botocore_the_text_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("botocore"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    install = r"pip install 'aigateway\[bedrock\]'"
    with pytest.raises(BotocoreMissing, match=install):
        sign(KEYS, region="r", service="s", method="GET", url=URL, headers=(), body=b"")
    with pytest.raises(BotocoreMissing, match=install):
        region_of(provider("http://127.0.0.1:9"))
    kept = keeper_for(BedrockConfig(region="r"), "r")
    with pytest.raises(NoCredentials, match=install):
        kept.current()
    kept.close()
