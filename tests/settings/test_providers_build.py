"""From the list to what the actors need: each provider judged by itself."""

from __future__ import annotations

from typing import Any

import pytest

from aigateway.actors.values.models import ModelList, parse_models
from aigateway.actors.values.provider_config import BedrockConfig, BreakerConfig, ProviderConfig
from aigateway.http.settings import (
    ProviderEntry,
    ProviderOutcome,
    Settings,
    all_failed,
    build_providers,
    finish_providers,
    provider_outcomes,
    provider_warnings,
    read_providers,
)

NO_BYOK = Settings(allow_byok=False)
OPENAI_FAMILY = ["openai", "azure", "google", "openai-compat", "openrouter", "vercel"]


def built(settings: Settings | None = None, **entry: Any) -> ProviderConfig:
    entry.setdefault("name", entry["type"])
    entry.setdefault("prefix", "P_0_")
    (config,) = build_providers([ProviderEntry(**entry)], settings or Settings())
    return config


# -- base URLs


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("openai", "https://api.openai.com/v1/"),
        ("anthropic", "https://api.anthropic.com/"),
        ("copilot", "https://api.individual.githubcopilot.com"),
    ],
)
def test_three_types_have_an_address_of_their_own(kind: str, url: str) -> None:
    assert built(type=kind).base_url == url
    assert built(type=kind, base_url="http://mine/v1").base_url == "http://mine/v1"


@pytest.mark.parametrize("kind", OPENAI_FAMILY[1:])
def test_the_other_types_need_one(kind: str) -> None:
    config = built(type=kind, keys=("k",))
    assert config.error == f'type "{kind}" has no default address, set P_0_BASE_URL'
    assert built(type=kind, base_url="https://h/v1").error is None


@pytest.mark.parametrize(
    "url",
    ["h/v1", "ftp://h", "http://", "https:///v1", "http://h:port/", "http://[::1", "http://a b/"],
)
def test_a_bad_address_names_its_variable(url: str) -> None:
    assert built(type="openai", base_url=url).error == (
        "P_0_BASE_URL: must be an address that starts with http:// or https:// and has a host"
    )


# -- keys


@pytest.mark.parametrize("kind", OPENAI_FAMILY)
def test_no_keys_and_no_byok_cannot_serve(kind: str) -> None:
    config = built(NO_BYOK, type=kind, base_url="https://h/v1")
    assert config.error == (f"{kind} provider has no api keys configured and BYOK is not enabled")
    assert built(NO_BYOK, type=kind, base_url="https://h/v1", keys=("k",)).error is None
    assert built(type=kind, base_url="https://h/v1").error is None


def test_no_keys_no_bedrock_and_no_byok_cannot_serve() -> None:
    assert built(NO_BYOK, type="anthropic").error == (
        "anthropic provider has no api keys, no bedrock credentials, and BYOK is not enabled"
    )
    assert built(NO_BYOK, type="anthropic", keys=("k",)).error is None


def test_copilot_always_takes_the_users_token() -> None:
    config = built(
        Settings(allow_byok=False, send_actor_headers=True), type="copilot", keys=("ignored",)
    )
    assert config.error is None
    assert config.allow_byok
    assert config.keys == ()
    assert config.actor_headers == {}


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (("a", "a"), "duplicate key"),
        ((" ",), "key at index 0 is empty"),
        (tuple("abcdef"), "too many keys (6), maximum is 5"),
    ],
)
def test_a_bad_key_pool_is_an_error(keys: tuple[str, ...], reason: str) -> None:
    base = "https://h/v1"
    assert built(type="azure", base_url=base, keys=keys).error == f"azure key pool: {reason}"
    assert built(type="anthropic", keys=keys).error == f"anthropic key pool: {reason}"


# -- Bedrock


def aws(**fields: str) -> BedrockConfig:
    return BedrockConfig(**{"model": "big", "small_fast_model": "small", **fields})


def test_bedrock_gets_its_address_from_the_region() -> None:
    config = built(type="bedrock", bedrock=aws(region="eu-west-1"))
    assert config.base_url == "https://bedrock-runtime.eu-west-1.amazonaws.com"
    assert config.error is None
    config = built(type="bedrock", bedrock=aws(region="cn-north-1"))
    assert config.base_url == "https://bedrock-runtime.cn-north-1.amazonaws.com.cn"


def test_bedrocks_own_address_beats_the_region() -> None:
    config = built(type="bedrock", base_url="http://b", bedrock=aws(region="r"))
    assert config.base_url == "http://b"


@pytest.mark.parametrize("bedrock", [None, BedrockConfig(), BedrockConfig(model="m")])
def test_bedrock_without_credentials_cannot_serve(bedrock: BedrockConfig | None) -> None:
    config = built(type="bedrock", base_url="http://b", bedrock=bedrock)
    assert config.error == "bedrock provider has no bedrock credentials configured"


def test_an_address_alone_makes_a_single_bedrock_fail_and_a_numbered_anthropic_plain() -> None:
    (single,) = build_providers(
        read_providers({"CODER_AI_GATEWAY_BEDROCK_BASE_URL": "http://b"}).entries, Settings()
    )
    assert single.error == "bedrock provider has no bedrock credentials configured"
    environ = {
        "CODER_AI_GATEWAY_PROVIDER_0_TYPE": "anthropic",
        "CODER_AI_GATEWAY_PROVIDER_0_BEDROCK_BASE_URL": "http://b",
    }
    (numbered,) = build_providers(read_providers(environ).entries, Settings())
    assert (numbered.error, numbered.bedrock, numbered.base_url) == (None, None, "http://b")


@pytest.mark.parametrize(
    "bedrock",
    [
        aws(region="r"),
        aws(role_arn="arn", region="r"),
        aws(access_key="a", access_key_secret="s", region="r"),
    ],
)
def test_anthropic_with_bedrock_credentials_needs_no_keys(bedrock: BedrockConfig) -> None:
    config = built(NO_BYOK, type="anthropic", bedrock=bedrock)
    assert config.error is None
    assert config.bedrock == bedrock


@pytest.mark.parametrize(
    "bedrock", [BedrockConfig(access_key="a"), BedrockConfig(access_key_secret="s", region="r")]
)
def test_half_a_pair_of_aws_keys_cannot_serve(bedrock: BedrockConfig) -> None:
    assert built(type="bedrock", bedrock=bedrock).error == (
        "bedrock: both access key and access key secret must be provided together"
    )


def test_bedrock_needs_a_region_or_an_address() -> None:
    assert built(type="bedrock", bedrock=aws(role_arn="arn")).error == (
        "bedrock: region or base url required, set P_0_BEDROCK_REGION or P_0_BEDROCK_BASE_URL"
    )


def test_a_region_must_look_like_one() -> None:
    config = built(type="bedrock", bedrock=aws(region="evil.example/"))
    assert config.error == 'bedrock: P_0_BEDROCK_REGION: "evil.example/" is no AWS region'


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"model": ""}, "model required"),
        ({"small_fast_model": ""}, "small fast model required"),
        ({"protocol": "soap"}, 'unknown bedrock protocol "soap", use invoke-model or mantle'),
        (
            {"protocol": "mantle"},
            "base_url required for the protocol mantle, set P_0_BEDROCK_BASE_URL, as in "
            "https://bedrock-mantle.<region>.api.aws/anthropic",
        ),
    ],
)
def test_bedrock_needs_models_or_for_mantle_an_address(fields: dict[str, str], text: str) -> None:
    config = built(type="bedrock", bedrock=aws(region="r", **fields))
    assert config.error == f"bedrock: {text}"


def test_mantle_needs_no_models() -> None:
    bedrock = BedrockConfig(region="r", protocol="mantle")
    assert built(type="bedrock", base_url="https://m", bedrock=bedrock).error is None


def test_bedrock_without_botocore_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigateway.http.settings.provider_build.find_spec", lambda name: None)
    config = built(type="bedrock", bedrock=aws(region="r"))
    assert config.error == (
        "bedrock: botocore is not installed, run: pip install 'aigateway[bedrock]'"
    )


# -- what all have in common


def test_an_unsupported_type_cannot_serve() -> None:
    assert built(type="other").error == 'unsupported provider type: "other"'


def test_a_disabled_provider_is_not_judged() -> None:
    config = built(NO_BYOK, type="openai", enabled=False)
    assert (config.error, config.enabled) == (None, False)


def test_an_error_of_the_list_stays() -> None:
    assert built(type="", name="provider-0", error="told before").error == "told before"


def test_the_gateways_settings_reach_every_provider() -> None:
    settings = Settings(
        circuit_breaker_enabled=True,
        circuit_breaker_timeout=7.0,
        send_actor_headers=True,
        actor_header_username="X-User",
        actor_header_email="",
        dump_dir="/dumps",
        upstream_ca_file="/ca.pem",
        connect_timeout=1.0,
        first_byte_timeout=2.0,
        idle_timeout=3.0,
        max_retries=4,
    )
    config = built(settings, type="openai", extras={"idle_timeout": 9.0})
    assert config.breaker == BreakerConfig(
        failure_threshold=5, interval=10.0, timeout=7.0, max_requests=3
    )
    assert config.actor_headers == {"id": "X-AI-Bridge-Actor-ID", "username": "X-User"}
    assert config.dump_dir == "/dumps"
    assert config.ca_file == "/ca.pem"
    assert (config.connect_timeout, config.first_byte_timeout) == (1.0, 2.0)
    assert (config.idle_timeout, config.max_retries) == (9.0, 4)


def test_without_the_settings_there_is_no_breaker_and_no_actor_header() -> None:
    config = built(type="openai")
    assert config.breaker is None
    assert config.actor_headers == {}


def test_a_proxy_comes_from_the_provider_or_the_environment() -> None:
    settings = Settings(provider_environ={"HTTPS_PROXY": "http://p:1", "NO_PROXY": "inside"})
    assert built(settings, type="openai").proxy == "http://p:1"
    assert built(settings, type="openai", extras={"proxy": "http://own:1"}).proxy == "http://own:1"
    assert built(settings, type="openai", base_url="https://h.inside/v1").proxy == ""


@pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h"])
def test_a_proxy_may_be_spoken_to_by_tls_and_socks(scheme: str) -> None:
    settings = Settings(provider_environ={"ALL_PROXY": f"{scheme}://p:1"})
    assert built(settings, type="openai").proxy == f"{scheme}://p:1"


def test_a_providers_own_proxy_may_be_of_each_kind_too() -> None:
    numbered = {
        "CODER_AI_GATEWAY_PROVIDER_0_TYPE": "openai",
        "CODER_AI_GATEWAY_PROVIDER_0_KEY": "k",
        "CODER_AI_GATEWAY_PROVIDER_0_PROXY": "socks5h://me:pw@p:1080",
    }
    (good,) = build_providers(read_providers(numbered).entries, Settings())
    assert (good.proxy, good.error) == ("socks5h://me:pw@p:1080", None)
    numbered["CODER_AI_GATEWAY_PROVIDER_0_PROXY"] = "socks4://me:planted@p"
    (bad,) = build_providers(read_providers(numbered).entries, Settings())
    assert "CODER_AI_GATEWAY_PROVIDER_0_PROXY" in bad.error
    assert "socks5h://" in bad.error
    assert "planted" not in bad.error


@pytest.mark.parametrize(
    ("proxy", "why"),
    [
        (
            "socks4://user:planted@p:1",
            "a proxy by socks4:// is not supported, only by http://, https://, socks5://, "
            "socks5h://: correct HTTPS_PROXY, or set NO_PROXY to the provider's host",
        ),
        (
            "https://user:planted@p:port",
            "the proxy's address has no valid host and port: correct HTTPS_PROXY, or set NO_PROXY "
            "to the provider's host",
        ),
    ],
)
def test_a_proxy_that_cannot_be_used_is_an_error_without_its_password(proxy: str, why: str) -> None:
    settings = Settings(provider_environ={"ALL_PROXY": proxy})
    assert built(settings, type="openai").error == why


def test_providers_of_coderd_are_finished_by_the_same_rules() -> None:
    settings = Settings(allow_byok=False, idle_timeout=3.0)
    good, bad, off = finish_providers(
        [
            ProviderConfig(name="a", type="openai", base_url="", keys=("k",)),
            ProviderConfig(name="b", type="azure", base_url="", keys=("k",)),
            ProviderConfig(name="c", type="openai", base_url="", enabled=False),
        ],
        settings,
    )
    assert (good.base_url, good.idle_timeout) == ("https://api.openai.com/v1/", 3.0)
    assert bad.error == 'type "azure" has no default address, set its base URL'
    assert provider_outcomes([good, bad, off]) == [
        ProviderOutcome("a", "openai", "enabled"),
        ProviderOutcome("b", "azure", "error", bad.error),
        ProviderOutcome("c", "openai", "disabled"),
    ]


@pytest.mark.parametrize(
    ("errors", "enabled", "failed"),
    [
        ([], [], False),
        (["e"], [True], True),
        ([None], [False], False),
        (["e", None], [True, False], True),
        (["e", None], [True, True], False),
    ],
)
def test_it_is_known_when_none_can_serve(
    errors: list[str | None], enabled: list[bool], failed: bool
) -> None:
    providers = [
        ProviderConfig(name=f"p{at}", type="openai", base_url="", error=error, enabled=on)
        for at, (error, on) in enumerate(zip(errors, enabled, strict=True))
    ]
    assert all_failed(providers) is failed


# -- fallbacks


def pair(fallback: str, kind: str = "openai", other: str = "azure") -> ProviderConfig:
    first, _second = build_providers(
        [
            ProviderEntry(name="one", type=kind, base_url="http://h/v1", fallback=(fallback,)),
            ProviderEntry(name="two", type=other, base_url="http://h/v1"),
        ],
        Settings(),
    )
    return first


def test_a_fallback_is_another_provider_of_the_same_api() -> None:
    assert pair("two").error is None
    assert pair("two").fallback == ("two",)


@pytest.mark.parametrize(
    ("fallback", "other", "error"),
    [
        ("three", "azure", 'FALLBACK "three" is not the name of a provider'),
        ("one", "azure", 'FALLBACK "one" is the provider itself'),
        ("two", "anthropic", 'FALLBACK "two" speaks another API than "one"'),
        ("two", "copilot", 'FALLBACK "two" speaks another API than "one"'),
    ],
)
def test_a_wrong_fallback_is_an_error_before_the_bad_day(
    fallback: str, other: str, error: str
) -> None:
    assert pair(fallback, other=other).error == error


def test_a_group_is_of_providers_of_the_same_api() -> None:
    def first(*group: tuple[str, int]) -> ProviderConfig:
        return build_providers(
            [
                ProviderEntry(
                    name="one", type="openai", base_url="http://h/v1", extras={"group": group}
                ),
                ProviderEntry(name="two", type="azure", base_url="http://h/v1"),
                ProviderEntry(name="three", type="anthropic"),
            ],
            Settings(),
        )[0]

    assert first(("one", 3), ("two", 1)).error is None
    assert first(("four", 1)).error == 'GROUP "four" is not the name of a provider'
    assert first(("three", 1)).error == 'GROUP "three" speaks another API than "one"'


def numbered(**fields: str) -> str:
    """What is wrong with one provider that the environment describes."""
    prefix = "CODER_AI_GATEWAY_PROVIDER_0_"
    listed = read_providers({f"{prefix}{name}": value for name, value in fields.items()})
    (config,) = build_providers(listed.entries, Settings())
    return config.error or ""


@pytest.mark.parametrize(
    ("fields", "mistakes"),
    [
        (
            {"TYPE": "openai", "KEYS": "a,,b", "FALLBACK": "nowhere"},
            ["key at index 1 is empty", 'FALLBACK "nowhere" is not the name of a provider'],
        ),
        (
            {"TYPE": "openai", "NO_KEY": "true", "KEY": "k", "BASE_URL": "ftp://x"},
            ["NO_KEY and KEY/KEYS are mutually exclusive", "BASE_URL: must be an address"],
        ),
        (
            {"TYPE": "openai", "BASE_URL": "ftp://x", "FALLBACK": "a,b", "GROUP": "c:1"},
            ["BASE_URL: must be an address", 'FALLBACK "a"', 'FALLBACK "b"', 'GROUP "c"'],
        ),
        (
            {"TYPE": "anthropic", "MODELS": "a=b=c*d*", "BASE_URL": "h", "FALLBACK": "nowhere"},
            ["MODELS", "BASE_URL: must be an address", 'FALLBACK "nowhere"'],
        ),
        (
            {"TYPE": "wrong", "BASE_URL": "ftp://x", "GROUP": "nowhere:1"},
            ['unknown TYPE "wrong"', "BASE_URL: must be an address", 'GROUP "nowhere"'],
        ),
    ],
)
def test_all_mistakes_of_a_provider_are_named_together_and_each_once(
    fields: dict[str, str], mistakes: list[str]
) -> None:
    error = numbered(**fields)
    assert [error.count(mistake) for mistake in mistakes] == [1] * len(mistakes), error
    assert error.count(";") == len(mistakes) - 1


def test_bad_keys_and_a_bad_address_are_named_together() -> None:
    error = built(type="anthropic", keys=("a", "a"), base_url="ftp://h").error or ""
    assert "duplicate key" in error
    assert "P_0_BASE_URL" in error


def test_a_fallback_that_can_never_stand_in_is_warned_of() -> None:
    def warnings(models: ModelList | None = None, **fields: Any) -> list[str]:
        found = build_providers(
            [
                ProviderEntry(name="a", type="anthropic", fallback=("aws",)),
                ProviderEntry(
                    name="aws",
                    type="bedrock",
                    base_url="http://h",
                    bedrock=aws(**fields),
                    extras={"models": models},
                ),
            ],
            Settings(),
        )
        assert found[1].error is None
        return [f"{each.setting}: {each.message}" for each in provider_warnings(found)]

    assert warnings(region="eu-west-1") == []
    (warning,) = warnings(region="sa-east-1")
    assert warning.startswith('provider "aws": never stands in for "a"')
    assert "MODELS" in warning
    assert warnings(parse_models("a = b"), region="sa-east-1") == []
    assert warnings(region="eu-west-1", protocol="mantle")


def test_anthropic_may_fall_back_to_bedrock() -> None:
    anthropic, _bedrock = build_providers(
        [
            ProviderEntry(name="anthropic", type="anthropic", fallback=("aws",)),
            ProviderEntry(name="aws", type="bedrock", bedrock=BedrockConfig(region="r")),
        ],
        Settings(),
    )
    assert anthropic.error is None
