"""``CODER_AI_GATEWAY_PROVIDER_<N>_<FIELD>``: every rule, every text."""

from __future__ import annotations

import random

import pytest

from aigateway.actors.values.provider_config import PROVIDER_TYPES
from aigateway.http.settings import ProviderEntry, SettingsError, read_providers

NEW, OLD = "CODER_AI_GATEWAY_PROVIDER_", "CODER_AIBRIDGE_PROVIDER_"
TYPES = (
    "[openai anthropic azure bedrock google openai-compat openrouter vercel copilot gemini vertex]"
)


def numbered(text: str, prefix: str = NEW) -> dict[str, str]:
    """``0_TYPE=openai 0_KEY=k`` as variables."""
    return {prefix + pair.partition("=")[0]: pair.partition("=")[2] for pair in text.split()}


def entries(text: str, prefix: str = NEW) -> tuple[ProviderEntry, ...]:
    return read_providers(numbered(text, prefix)).entries


# -- what makes the list unreadable


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("0=x", f"invalid env var: {NEW}0"),
        ("TYPE=x", f"invalid env var: {NEW}TYPE"),
        ("=x", f"invalid env var: {NEW}"),
        ("A_TYPE=x", f"parse number: {NEW}A_TYPE"),
        ("_TYPE=x", f"parse number: {NEW}_TYPE"),
        ("-1_TYPE=x", f"parse number: {NEW}-1_TYPE"),
        ("1.0_TYPE=x", f"parse number: {NEW}1.0_TYPE"),
        ("١_TYPE=x", f"parse number: {NEW}١_TYPE"),
        ("99999999999999999999_TYPE=x", f"parse number: {NEW}99999999999999999999_TYPE"),
        ("1_TYPE=openai", f"provider num 0 skipped: {NEW}1_TYPE"),
        ("0_TYPE=openai 2_TYPE=openai", f"provider num 1 skipped: {NEW}2_TYPE"),
        ("0_TYPE=openai 10_TYPE=openai 2_TYPE=x", f"provider num 1 skipped: {NEW}2_TYPE"),
        (
            "0_TYPE=openai 1_TYPE=openai",
            'providers 0 and 1 have duplicate NAME "openai" '
            "(multiple providers of the same type require unique NAME values)",
        ),
        (
            "0_TYPE=openai 0_NAME=a 1_TYPE=anthropic 1_NAME=b 2_TYPE=google 2_NAME=a",
            'providers 0 and 2 have duplicate NAME "a" '
            "(multiple providers of the same type require unique NAME values)",
        ),
        (
            "0_TYPE=openai 0_NAME=provider-1 1_KEY=k",
            'providers 0 and 1 have duplicate NAME "provider-1" '
            "(multiple providers of the same type require unique NAME values)",
        ),
    ],
)
def test_an_unreadable_list_stops_the_start(text: str, error: str) -> None:
    with pytest.raises(SettingsError) as caught:
        entries(text)
    assert str(caught.value) == error


def test_the_two_prefixes_do_not_mix() -> None:
    environ = {**numbered("0_TYPE=openai"), **numbered("0_TYPE=anthropic", OLD)}
    with pytest.raises(SettingsError) as caught:
        read_providers(environ)
    assert str(caught.value) == (
        "cannot mix CODER_AIBRIDGE_PROVIDER_* and CODER_AI_GATEWAY_PROVIDER_* environment "
        "variables, please consolidate onto CODER_AI_GATEWAY_PROVIDER_*"
    )


def test_each_prefix_is_read_by_itself_first() -> None:
    environ = {**numbered("0_TYPE=openai"), **numbered("1_TYPE=anthropic", OLD)}
    with pytest.raises(SettingsError, match=f"provider num 0 skipped: {OLD}1_TYPE"):
        read_providers(environ)


def test_the_old_prefix_works_alone() -> None:
    (entry,) = entries("0_TYPE=openai 0_KEY=k", OLD)
    assert (entry.name, entry.keys, entry.prefix) == ("openai", ("k",), f"{OLD}0_")


# -- what is wrong with one provider


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("0_KEY=k", "provider 0: TYPE is required"),
        ("0_TYPE=", "provider 0: TYPE is required"),
        ("0_TYPE=x", f'provider 0: unknown TYPE "x" (must be one of: {TYPES})'),
        ("0_TYPE=OpenAI", f'provider 0: unknown TYPE "OpenAI" (must be one of: {TYPES})'),
        (
            "0_TYPE=openai 0_BEDROCK_REGION=r",
            'provider 0 (openai): BEDROCK_* fields are only supported with TYPE "anthropic" or '
            '"bedrock"',
        ),
        (
            "0_TYPE=copilot 0_BEDROCK_BASE_URL=http://b",
            'provider 0 (copilot): BEDROCK_* fields are only supported with TYPE "anthropic" or '
            '"bedrock"',
        ),
        (
            "0_TYPE=bedrock",
            'provider 0 (bedrock): TYPE "bedrock" requires BEDROCK_* fields to be configured',
        ),
        (
            "0_TYPE=bedrock 0_BEDROCK_MODEL=m",
            'provider 0 (bedrock): TYPE "bedrock" requires BEDROCK_* fields to be configured',
        ),
        (
            "0_TYPE=bedrock 0_BEDROCK_REGION=r 0_KEY=k",
            'provider 0 (bedrock): KEY/KEYS are not supported for TYPE "bedrock" '
            "(use BEDROCK_* fields)",
        ),
        (
            "0_TYPE=copilot 0_KEYS=k",
            'provider 0 (copilot): KEY/KEYS are not supported for TYPE "copilot"',
        ),
        (
            "0_TYPE=anthropic 0_KEY=k 0_BEDROCK_REGION=r",
            "provider 0 (anthropic): KEY/KEYS and BEDROCK_* fields are mutually exclusive",
        ),
        (
            "0_TYPE=openai 0_KEYS=a,b,c,d,e,f",
            "provider 0 (openai): too many keys (6), maximum is 5",
        ),
        ("0_TYPE=openai 0_KEYS=a,,c", "provider 0 (openai): key at index 1 is empty"),
        ("0_TYPE=openai 0_KEYS=a,", "provider 0 (openai): key at index 1 is empty"),
        ("0_TYPE=openai 0_KEY=", "provider 0 (openai): key at index 0 is empty"),
        ("0_TYPE=openai 0_KEYS=a,b,a", "provider 0 (openai): duplicate key at index 2"),
        (
            "0_TYPE=bedrock 0_BEDROCK_ACCESS_KEYS=a,b 0_BEDROCK_ACCESS_KEY_SECRET=s",
            "provider 0 (bedrock): BEDROCK_ACCESS_KEYS count (2) must match "
            "BEDROCK_ACCESS_KEY_SECRETS count (1)",
        ),
        (
            "0_TYPE=anthropic 0_BEDROCK_ACCESS_KEY=a",
            "provider 0 (anthropic): BEDROCK_ACCESS_KEYS count (1) must match "
            "BEDROCK_ACCESS_KEY_SECRETS count (0)",
        ),
        (
            "0_TYPE=bedrock 0_BEDROCK_ACCESS_KEYS=a,a 0_BEDROCK_ACCESS_KEY_SECRETS=s,t",
            "provider 0 (bedrock): duplicate key at index 1",
        ),
        (
            "0_TYPE=bedrock 0_BEDROCK_ACCESS_KEYS=a,b 0_BEDROCK_ACCESS_KEY_SECRETS=s,",
            "provider 0 (bedrock): key at index 1 is empty",
        ),
        (
            "0_TYPE=openai 0_KEY=k 0_KEYS=k",
            "provider 0: KEY and KEYS are mutually exclusive, use one or the other",
        ),
        (
            "0_TYPE=bedrock 0_BEDROCK_ACCESS_KEY=k 0_BEDROCK_ACCESS_KEYS=k",
            "provider 0: BEDROCK_ACCESS_KEY and BEDROCK_ACCESS_KEYS are mutually exclusive, "
            "use one or the other",
        ),
        (
            "0_TYPE=bedrock 0_BEDROCK_ACCESS_KEY_SECRET=k 0_BEDROCK_ACCESS_KEY_SECRETS=k",
            "provider 0: BEDROCK_ACCESS_KEY_SECRET and BEDROCK_ACCESS_KEY_SECRETS are mutually "
            "exclusive, use one or the other",
        ),
        (
            "0_TYPE=openai 0_NAME=Bad_Name",
            'invalid AI provider name "Bad_Name": must match ^[a-z0-9]+(-[a-z0-9]+)*$',
        ),
        (
            "0_TYPE=openai 0_NAME=a--b",
            'invalid AI provider name "a--b": must match ^[a-z0-9]+(-[a-z0-9]+)*$',
        ),
        (
            "0_TYPE=openai 0_MAX_RETRIES=many",
            f"provider 0: {NEW}0_MAX_RETRIES must be a whole number of at least 0",
        ),
        (
            "0_TYPE=openai 0_IDLE_TIMEOUT=10",
            f"provider 0: {NEW}0_IDLE_TIMEOUT must be a duration above zero with its unit, "
            "such as 10s, 5m or 1h30m",
        ),
        (
            "0_TYPE=openai 0_PROXY=host:3128",
            f"provider 0: {NEW}0_PROXY must be the address of a proxy (the proxy's address begins "
            "with none of http://, https://, socks5://, socks5h://)",
        ),
    ],
)
def test_a_wrong_provider_has_its_error_and_the_others_run(text: str, error: str) -> None:
    environ = numbered(text + " 1_TYPE=google 1_NAME=other 1_KEY=k")
    wrong, other = sorted(read_providers(environ).entries, key=lambda e: e.prefix)
    assert wrong.error == error
    assert other.error is None


def test_a_name_with_a_trailing_newline_is_refused() -> None:
    environ = {**numbered("0_TYPE=openai"), f"{NEW}0_NAME": "a\n"}
    (entry,) = read_providers(environ).entries
    assert entry.error is not None
    assert entry.error.startswith("invalid AI provider name")


def test_the_first_rule_that_is_broken_is_the_one_told() -> None:
    (entry,) = entries("0_TYPE=openai 0_BEDROCK_REGION=r 0_KEYS=a,a")
    assert entry.error is not None
    assert "BEDROCK_*" in entry.error


def test_a_provider_without_type_and_name_can_still_be_named() -> None:
    (entry,) = entries("0_KEY=k")
    assert entry.name == "provider-0"


# -- what is read


def test_numbers_may_come_in_any_order_and_have_several_digits() -> None:
    pairs = [f"{n}_TYPE=openai {n}_NAME=p{n}" for n in range(12)]
    random.Random(5).shuffle(pairs)
    found = entries(" ".join(pairs))
    assert {e.name: e.prefix for e in found} == {f"p{n}": f"{NEW}{n}_" for n in range(12)}


def test_the_list_is_sorted_by_name() -> None:
    found = entries("0_TYPE=vercel 1_TYPE=anthropic 2_TYPE=openai")
    assert [e.name for e in found] == ["anthropic", "openai", "vercel"]


def test_field_names_match_in_any_case() -> None:
    (entry,) = entries("0_Type=openai 0_Name=mine 0_key=k")
    assert (entry.type, entry.name, entry.keys) == ("openai", "mine", ("k",))


def test_one_key_is_not_split_and_several_are_and_all_are_trimmed() -> None:
    environ = numbered("0_TYPE=openai 1_TYPE=anthropic")
    environ |= {f"{NEW}0_KEY": " a,b ", f"{NEW}1_KEYS": " a , b "}
    anthropic, openai = read_providers(environ).entries
    assert openai.keys == ("a,b",)
    assert anthropic.keys == ("a", "b")


def test_five_keys_are_allowed() -> None:
    (entry,) = entries("0_TYPE=openai 0_KEYS=a,b,c,d,e")
    assert entry.keys == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize("kind", PROVIDER_TYPES)
def test_every_type_is_known(kind: str) -> None:
    extra = {
        "bedrock": "0_BEDROCK_REGION=eu-west-1",
        "vertex": "0_VERTEX_PROJECT=p 0_VERTEX_REGION=eu",
    }
    (entry,) = entries(f"0_TYPE={kind} {extra.get(kind, '')}")
    assert (entry.name, entry.type, entry.error) == (kind, kind, None)


def test_an_unknown_field_is_ignored_with_one_warning() -> None:
    listed = read_providers(numbered("0_TYPE=openai 0_KEYZ=k 0_KEY=k"))
    assert listed.entries[0].error is None
    assert [(w.message, w.setting) for w in listed.warnings] == [
        ("ignoring unknown AI provider field (check for typos)", f"{NEW}0_KEYZ")
    ]


def test_other_variables_are_not_looked_at() -> None:
    assert read_providers({"PATH": "/bin", "CODER_AI_GATEWAY_PROVIDERS": "x"}).entries == ()


def test_bedrock_fields_give_bedrock_and_drop_the_generic_address() -> None:
    (entry,) = entries(
        "0_TYPE=anthropic 0_BASE_URL=http://dropped 0_BEDROCK_REGION=eu-west-1 "
        "0_BEDROCK_ACCESS_KEYS=a,b 0_BEDROCK_ACCESS_KEY_SECRETS=s,t 0_BEDROCK_MODEL=m "
        "0_BEDROCK_SMALL_FAST_MODEL=n 0_BEDROCK_ROLE_ARN=arn 0_BEDROCK_EXTERNAL_ID=x "
        "0_BEDROCK_PROTOCOL=mantle"
    )
    assert (entry.type, entry.base_url) == ("anthropic", "")
    bedrock = entry.bedrock
    assert bedrock is not None
    assert (bedrock.region, bedrock.access_key, bedrock.access_key_secret) == (
        "eu-west-1",
        "a",
        "s",
    )
    assert (bedrock.model, bedrock.small_fast_model) == ("m", "n")
    assert (bedrock.role_arn, bedrock.external_id) == ("arn", "x")
    assert bedrock.protocol == "mantle"


def test_bedrock_models_have_defaults() -> None:
    (entry,) = entries("0_TYPE=bedrock 0_BEDROCK_BASE_URL=http://b")
    assert entry.base_url == "http://b"
    assert entry.bedrock is not None
    assert entry.bedrock.protocol == "invoke-model"
    assert entry.bedrock.model == "global.anthropic.claude-sonnet-4-5-20250929-v1:0"
    assert entry.bedrock.small_fast_model == "global.anthropic.claude-haiku-4-5-20251001-v1:0"


def test_a_bedrock_model_on_another_type_is_silently_ignored() -> None:
    listed = read_providers(numbered("0_TYPE=openai 0_BEDROCK_MODEL=m"))
    assert listed.entries[0].bedrock is None
    assert listed.entries[0].error is None
    assert listed.warnings == ()


def test_fallback_and_own_limits_are_read_and_empty_ones_are_not_set() -> None:
    (entry,) = entries(
        "0_TYPE=openai 0_FALLBACK=spare 0_MAX_RETRIES=2 0_CONNECT_TIMEOUT=1s "
        "0_FIRST_BYTE_TIMEOUT=2m 0_IDLE_TIMEOUT= 0_MAX_CONNECTIONS=9 0_PROXY=http://p:1 "
        "0_CA_FILE=/ca.pem"
    )
    assert entry.fallback == ("spare",)
    assert entry.extras == {
        "max_retries": 2,
        "connect_timeout": 1.0,
        "first_byte_timeout": 120.0,
        "max_connections": 9,
        "proxy": "http://p:1",
        "ca_file": "/ca.pem",
    }


def test_keys_do_not_show_in_reprs() -> None:
    listed = read_providers(
        numbered(
            "0_TYPE=openai 0_KEY=planted 1_TYPE=bedrock 1_BEDROCK_ACCESS_KEY=planted "
            "1_BEDROCK_ACCESS_KEY_SECRET=planted"
        )
    )
    assert "planted" not in repr(listed)
