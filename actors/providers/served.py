"""Which model a provider is asked for when a client asks for one, and who may stand in."""

from __future__ import annotations

from aigateway.actors.providers.bedrock.models import profile_of, stated_region
from aigateway.actors.providers.bedrock.rewrite import model_behind, replacement_model
from aigateway.actors.providers.request import UpstreamRequest
from aigateway.actors.values.provider_config import ProviderConfig

__all__ = ["can_stand_in", "model_for", "recorded_model"]


def model_for(config: ProviderConfig, asked: str, provider: str) -> str | None:
    """The name by which ``config``'s provider knows the model that a client asks for.

    ``provider`` is the one that the client named.  None: there is no such model here, and
    another one never answers in its place.
    """
    if config.models is not None:
        return config.models.upstream(asked)
    bedrock = config.bedrock
    if bedrock is None:
        return asked
    if config.name != provider:
        return profile_of(asked, stated_region(config)) if bedrock.invokes else None
    return replacement_model(asked, bedrock) if bedrock.invokes else asked


def recorded_model(config: ProviderConfig, asked: str) -> str:
    """The model that is recorded as the one that was asked for.

    Where Bedrock has one model in the place of all, that is the one.
    """
    if config.models is None and config.bedrock is not None and config.bedrock.invokes:
        return model_behind(config.bedrock, replacement_model(asked, config.bedrock))
    return asked


def can_stand_in(other: ProviderConfig, own: ProviderConfig, request: UpstreamRequest) -> bool:
    """Whether ``other`` can answer a request that ``own`` was asked for.

    Copilot is called with the user's own token only.
    """
    return (
        bool(other.keys or other.bedrock or other.no_key)
        and other.error is None
        and own.speaks_openai == other.speaks_openai
        and "copilot" not in (own.type, other.type)
        and model_for(other, request.model, request.provider) is not None
    )
