"""Anthropic's names of models and Bedrock's, for a Bedrock provider that stands in for another.

Bedrock serves today's models through *inference profiles*: the model's id with the geography
in front in which the request may be computed.  A request never leaves the geography of the
provider's region by this table; who wants ``global.`` says so in the provider's own list.

From AWS's model cards (docs.aws.amazon.com/bedrock/latest/userguide/model-cards.html) as of
September 2026.  A model that is missing here is not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from attrs import frozen

from aigateway.actors.values.provider_config import ProviderConfig

__all__ = ["bare_names", "foundation_id", "geographies", "profile_of", "stated_region"]

_REGION_IN_HOST = re.compile(r"[./]([a-z]{2,3}(?:-[a-z]+)+-\d)\.")


@frozen
class _Model:
    id: str
    geographies: frozenset[str]


def _model(id: str, geographies: str) -> _Model:
    return _Model(f"anthropic.{id}", frozenset(geographies.split()))


_MODELS: Mapping[str, _Model] = MappingProxyType(
    {
        "claude-sonnet-4": _model("claude-sonnet-4-20250514-v1:0", "us eu apac"),
        "claude-opus-4-1": _model("claude-opus-4-1-20250805-v1:0", "us"),
        "claude-sonnet-4-5": _model("claude-sonnet-4-5-20250929-v1:0", "us eu au jp"),
        "claude-haiku-4-5": _model("claude-haiku-4-5-20251001-v1:0", "us eu au jp"),
        "claude-opus-4-5": _model("claude-opus-4-5-20251101-v1:0", "us eu"),
        "claude-opus-4-6": _model("claude-opus-4-6-v1", "us eu au"),
        "claude-sonnet-4-6": _model("claude-sonnet-4-6", "us eu au jp"),
        "claude-opus-4-7": _model("claude-opus-4-7", "us eu au jp"),
        "claude-opus-4-8": _model("claude-opus-4-8", "us eu au jp"),
        "claude-opus-5": _model("claude-opus-5", "us eu au"),
        "claude-sonnet-5": _model("claude-sonnet-5", "us eu au"),
        "claude-fable-5": _model("claude-fable-5", "us"),
        "claude-fable-5-1": _model("claude-fable-5-1", "us"),
    }
)

_DATED = re.compile(r"(claude-[a-z]+(?:-\d{1,2}){1,2}?)(?:-0)?(?:-(\d{8}))?", re.ASCII)
"""One of Anthropic's names: an alias (``claude-sonnet-4-0``), or with the date of a snapshot."""

_PREFIX = re.compile(r"^(?:.*/)?(?:[a-z0-9-]+\.)*(?=[a-z])", re.ASCII)
_VERSION = re.compile(r"-v\d+(?::\w+)*\Z", re.ASCII)
_DATE = re.compile(r"-\d{8}\Z", re.ASCII)

_BY_REGION: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("ap-northeast-1", "ap-northeast-3"), ("jp", "apac")),
        **dict.fromkeys(("ap-southeast-2", "ap-southeast-4"), ("au", "apac")),
        **dict.fromkeys(
            ("ap-northeast-2", "ap-south-1", "ap-south-2", "ap-southeast-1"), ("apac",)
        ),
    }
)


def stated_region(config: ProviderConfig) -> str:
    """The region as configured or in the address; empty where neither says one."""
    if config.bedrock is not None and config.bedrock.region:
        return config.bedrock.region
    found = _REGION_IN_HOST.search(config.base_url)
    return found[1] if found else ""


def geographies(region: str) -> tuple[str, ...]:
    """The geographies of profiles that a region may call, the narrowest first."""
    if region.startswith("us-gov-"):
        return ()
    if region.startswith(("us-", "ca-")):
        return ("us",)
    if region.startswith("eu-"):
        return ("eu",)
    return _BY_REGION.get(region, ())


def foundation_id(asked: str) -> str | None:
    """Bedrock's id for one of Anthropic's names; None where none is known."""
    model = _model_of(asked)
    return model.id if model is not None else None


def bare_names(id: str) -> tuple[str, ...]:
    """What a model is called behind Bedrock's id of it or of a profile: without geography and
    maker, then without version, then without date."""
    name = _PREFIX.sub("", id)
    plain = _VERSION.sub("", name)
    return name, plain, _DATE.sub("", plain)


def _model_of(asked: str) -> _Model | None:
    match = _DATED.fullmatch(asked)
    model = _MODELS.get(match[1]) if match is not None else None
    if match is None or model is None:
        return None
    # Otherwise a snapshot that Bedrock calls by another name, or does not have.
    return model if match[2] is None or match[2] in model.id else None


def profile_of(asked: str, region: str) -> str | None:
    """Bedrock's inference profile for one of Anthropic's names; None where none is known."""
    model = _model_of(asked)
    if model is None:
        return None
    return next(
        (f"{place}.{model.id}" for place in geographies(region) if place in model.geographies),
        None,
    )
