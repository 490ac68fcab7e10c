"""Anthropic's names as Bedrock's profiles, for a provider that stands in."""

from __future__ import annotations

from typing import Any

import pytest

from aigateway.actors.providers.bedrock.models import bare_names, profile_of, stated_region
from aigateway.actors.providers.request import model_for
from aigateway.actors.values.models import parse_models
from aigateway.actors.values.provider_config import BedrockConfig, ProviderConfig

SONNET = "anthropic.claude-sonnet-4-5-20250929-v1:0"


@pytest.mark.parametrize(
    ("asked", "region", "profile"),
    [
        ("claude-sonnet-4-5", "eu-central-1", f"eu.{SONNET}"),
        ("claude-sonnet-4-5-20250929", "us-west-2", f"us.{SONNET}"),
        ("claude-sonnet-4-5", "ca-central-1", f"us.{SONNET}"),
        ("claude-sonnet-4-5", "ap-northeast-1", f"jp.{SONNET}"),
        ("claude-sonnet-4-5", "ap-southeast-2", f"au.{SONNET}"),
        ("claude-sonnet-4-0", "ap-northeast-1", "apac.anthropic.claude-sonnet-4-20250514-v1:0"),
        ("claude-sonnet-4-20250514", "eu-west-1", "eu.anthropic.claude-sonnet-4-20250514-v1:0"),
        ("claude-opus-4-6", "us-east-1", "us.anthropic.claude-opus-4-6-v1"),
        ("claude-opus-5", "eu-west-1", "eu.anthropic.claude-opus-5"),
        # A snapshot that Bedrock does not have, a model that nobody knows, no Claude at all.
        ("claude-sonnet-4-5-20990101", "us-west-2", None),
        ("claude-opus-9", "us-west-2", None),
        ("gpt-5", "us-west-2", None),
        ("", "us-west-2", None),
        # Known, but not in this geography; and a region of none.
        ("claude-opus-4-1", "eu-central-1", None),
        ("claude-sonnet-4-5", "sa-east-1", None),
        ("claude-sonnet-4-5", "us-gov-west-1", None),
        ("claude-sonnet-4-5", "", None),
    ],
)
def test_anthropics_names_have_profiles_in_the_regions_geography(
    asked: str, region: str, profile: str | None
) -> None:
    assert profile_of(asked, region) == profile


def aws(models: str = "", **fields: Any) -> ProviderConfig:
    bedrock = BedrockConfig(**{"model": "big", "small_fast_model": "small", **fields})
    return ProviderConfig(
        name="aws",
        type="bedrock",
        base_url="https://bedrock-runtime.eu-west-1.amazonaws.com",
        bedrock=bedrock,
        models=parse_models(models),
    )


def test_the_region_is_the_configured_one_or_that_of_the_address() -> None:
    assert stated_region(aws()) == "eu-west-1"
    assert stated_region(aws(region="us-east-1")) == "us-east-1"


def test_asked_itself_bedrock_has_its_model_for_all_and_standing_in_the_one_asked_for() -> None:
    assert model_for(aws(), "claude-sonnet-4-5", "aws") == "big"
    assert model_for(aws(), "claude-haiku-4-5", "aws") == "small"
    assert model_for(aws(), "claude-sonnet-4-5", "anthropic") == f"eu.{SONNET}"
    assert model_for(aws(), "claude-opus-9", "anthropic") is None


def test_a_list_says_it_for_both() -> None:
    config = aws("claude-a = eu.a")
    for provider in ("aws", "anthropic"):
        assert model_for(config, "claude-a", provider) == "eu.a"
        assert model_for(config, "claude-sonnet-4-5", provider) is None


def test_the_newer_endpoint_stands_in_only_with_a_list() -> None:
    assert model_for(aws(protocol="mantle"), "claude-a", "aws") == "claude-a"
    assert model_for(aws(protocol="mantle"), "claude-a", "anthropic") is None
    listed = aws("claude-a = anthropic.claude-a", protocol="mantle")
    assert model_for(listed, "claude-a", "anthropic") == "anthropic.claude-a"


@pytest.mark.parametrize(
    ("id", "bare"),
    [
        ("eu.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5"),
        ("anthropic.claude-opus-4-6-v1", "claude-opus-4-6"),
        ("us.anthropic.claude-sonnet-5", "claude-sonnet-5"),
        (
            "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-haiku-4-5-20251001-v1:0",
            "claude-haiku-4-5",
        ),
        ("arn:aws:bedrock:us-east-1:1:application-inference-profile/abc123", "abc123"),
        ("amazon.nova-pro-v1:0:300k", "nova-pro"),
        ("claude-opus-5", "claude-opus-5"),
    ],
)
def test_ids_have_the_names_of_what_they_are_made_of(id: str, bare: str) -> None:
    assert bare_names(id)[-1] == bare
    assert all(bare in name for name in bare_names(id))
