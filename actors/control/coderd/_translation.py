"""What coderd says of its providers."""

from __future__ import annotations

import re
from typing import Final

from aigateway.actors.control.coderd.wire import coderd_pb2 as pb
from aigateway.actors.values.models import ModelList
from aigateway.actors.values.provider_config import BedrockConfig, ProviderConfig

__all__ = ["names_given_twice", "provider_configs"]

_NAME: Final = "^[a-z0-9]+(-[a-z0-9]+)*$"


def provider_configs(response: pb.GetAIProvidersResponse) -> tuple[ProviderConfig, ...]:
    """What coderd says of its providers; a wrong one has ``error`` set."""
    found: dict[str, ProviderConfig] = {}
    for provider in response.providers:
        config = _provider_config(provider)
        if config.name in found:
            # The first wins, as in a list that is searched.
            continue
        found[config.name] = config
    return tuple(found.values())


def names_given_twice(response: pb.GetAIProvidersResponse) -> dict[str, str]:
    """Names of which :func:`provider_configs` takes the first provider only, with the types of
    the others."""
    seen: set[str] = set()
    again: dict[str, str] = {}
    for provider in response.providers:
        if provider.name in seen:
            again[provider.name] = provider.type
        seen.add(provider.name)
    return again


def _provider_config(provider: pb.AIProvider) -> ProviderConfig:
    error, what = None, ""
    if not re.fullmatch(_NAME, provider.name):
        error = f'invalid AI provider name "{provider.name}": must match {_NAME}'
        what = "rename it"
    elif provider.HasField("claude_platform_aws"):
        # Its key is one of AWS's: it must not be sent to anybody else.
        region = provider.claude_platform_aws.region
        error = f'Claude Platform on AWS (region "{region}") is not supported by this gateway'
        what = "use Anthropic's own API or AWS Bedrock"
    return ProviderConfig(
        name=provider.name,
        type=provider.type,
        base_url=provider.base_url,
        keys=tuple(provider.keys),
        enabled=provider.enabled,
        error=error,
        way_out=f"{what}, among the AI providers of the Coder deployment" if what else "",
        bedrock=_bedrock(provider.bedrock) if provider.HasField("bedrock") else None,
    )


def _bedrock(bedrock: pb.AIProviderBedrock) -> BedrockConfig:
    pairs = (
        (bedrock.model, bedrock.resolved_model),
        (bedrock.small_fast_model, bedrock.resolved_small_fast_model),
    )
    resolved = {profile: model for profile, model in pairs if profile and model}
    return BedrockConfig(
        region=bedrock.region,
        access_key=bedrock.access_key,
        access_key_secret=bedrock.access_key_secret,
        model=bedrock.model or bedrock.resolved_model,
        small_fast_model=bedrock.small_fast_model or bedrock.resolved_small_fast_model,
        resolved=ModelList(resolved) if resolved else None,
        role_arn=bedrock.role_arn,
        external_id=bedrock.external_id,
        protocol=bedrock.protocol or "invoke-model",
    )
