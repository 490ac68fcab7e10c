"""One provider of each kind by its own variables, and both ways together."""

from __future__ import annotations

from typing import Any

import pytest

from aigateway.http.settings import ProviderEntry, SettingsError, load_from_argv, read_providers


def single(text: str, prefix: str = "CODER_AI_GATEWAY_") -> tuple[ProviderEntry, ...]:
    pairs = (pair.partition("=") for pair in text.split())
    return read_providers({prefix + name: value for name, _, value in pairs}).entries


@pytest.mark.parametrize("prefix", ["CODER_AI_GATEWAY_", "CODER_AIBRIDGE_"])
def test_an_openai_key_gives_openai(prefix: str) -> None:
    (entry,) = single("OPENAI_KEY=k", prefix)
    assert (entry.name, entry.type, entry.keys) == ("openai", "openai", ("k",))
    assert entry.base_url == "https://api.openai.com/v1/"
    (entry,) = single("OPENAI_KEY=k OPENAI_BASE_URL=http://o/v1", prefix)
    assert entry.base_url == "http://o/v1"


@pytest.mark.parametrize("prefix", ["CODER_AI_GATEWAY_", "CODER_AIBRIDGE_"])
def test_an_anthropic_key_gives_anthropic(prefix: str) -> None:
    (entry,) = single("ANTHROPIC_KEY=k", prefix)
    assert (entry.name, entry.type, entry.keys) == ("anthropic", "anthropic", ("k",))
    assert entry.base_url == "https://api.anthropic.com/"


@pytest.mark.parametrize(
    "text",
    [
        "BEDROCK_REGION=r",
        "BEDROCK_BASE_URL=http://b",
        "BEDROCK_ACCESS_KEY=a",
        "BEDROCK_ACCESS_KEY_SECRET=s",
    ],
)
def test_any_bedrock_variable_but_a_model_gives_bedrock_named_anthropic(text: str) -> None:
    (entry,) = single(text)
    assert (entry.name, entry.type, entry.keys) == ("anthropic", "bedrock", ())
    assert entry.bedrock is not None
    assert entry.bedrock.model == "global.anthropic.claude-sonnet-4-5-20250929-v1:0"
    assert entry.bedrock.small_fast_model == "global.anthropic.claude-haiku-4-5-20251001-v1:0"
    assert entry.base_url == ("http://b" if "BASE_URL" in text else "")


@pytest.mark.parametrize(
    "text", ["", "BEDROCK_MODEL=m", "OPENAI_BASE_URL=http://o", "OPENAI_KEY= ANTHROPIC_KEY="]
)
def test_models_addresses_and_empty_values_give_nothing(text: str) -> None:
    assert single(text) == ()


def test_the_newer_name_wins() -> None:
    environ = {"CODER_AI_GATEWAY_OPENAI_KEY": "new", "CODER_AIBRIDGE_OPENAI_KEY": "old"}
    assert read_providers(environ).entries[0].keys == ("new",)


def test_an_anthropic_key_beside_bedrock_stops_the_start() -> None:
    with pytest.raises(SettingsError) as caught:
        single("ANTHROPIC_KEY=k BEDROCK_REGION=r")
    assert str(caught.value) == (
        "CODER_AIBRIDGE_ANTHROPIC_KEY and CODER_AIBRIDGE_BEDROCK_* are mutually exclusive"
    )


def test_flags_and_yaml_reach_the_list_under_the_variables_names(tmp_path: Any) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("aibridge: {openai_base_url: 'http://yaml/v1'}")
    settings = load_from_argv(
        ["--local", "--ai-gateway-openai-key", "flag", "-c", str(file)],
        {"CODER_AIBRIDGE_OPENAI_KEY": "old", "HTTPS_PROXY": "http://p", "PATH": "/bin"},
    )
    assert settings.provider_environ == {
        "CODER_AI_GATEWAY_OPENAI_KEY": "flag",
        "CODER_AI_GATEWAY_OPENAI_BASE_URL": "http://yaml/v1",
        "HTTPS_PROXY": "http://p",
    }
    (entry,) = read_providers(settings.provider_environ).entries
    assert (entry.keys, entry.base_url) == (("flag",), "http://yaml/v1")


# -- both ways together


def test_both_ways_make_one_list_by_name() -> None:
    found = single("OPENAI_KEY=k PROVIDER_0_TYPE=anthropic PROVIDER_1_TYPE=vercel")
    assert [e.name for e in found] == ["anthropic", "openai", "vercel"]


def test_a_name_of_both_ways_stops_the_start_even_if_equal() -> None:
    with pytest.raises(SettingsError) as caught:
        single("OPENAI_KEY=k PROVIDER_0_TYPE=openai PROVIDER_0_KEY=k")
    assert str(caught.value) == (
        'indexed AI provider "openai" conflicts with the legacy env var of the same name; '
        "remove one or the other"
    )
