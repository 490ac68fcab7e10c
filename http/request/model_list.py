"""Answers about a provider's models that need no provider: the list, and "there is no such"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from aigateway.actors.interception.error_bodies import error_body, is_anthropic
from aigateway.actors.interception.routes import GEMINI
from aigateway.actors.values.policy import CallerRules
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.http.metrics.reasons import Reason
from aigateway.http.request.answers import Answer
from aigateway.http.request.policy import check_models, may_list

__all__ = ["listed_models", "no_such_model"]

_NEVER = "1970-01-01T00:00:00Z"
"""What Anthropic's API says of a model whose release is not known."""


def listed_models(
    config: ProviderConfig, method: str, rest: str, rules: CallerRules | None = None
) -> Answer | None:
    """The answer to ``GET …/models`` or ``GET …/models/<name>`` by the provider's own list.

    None when the provider has no list, or something else is asked.  Names that only a pattern
    allows are not listed, since nobody here knows them; asked for by name they are there.
    """
    _, found, name = rest.rpartition("/models")
    if config.models is None or not found or method != "GET" or (name and name[0] != "/"):
        return None
    name = unquote(name[1:])
    if not name:
        names = config.models.names
        if rules is not None:
            names = tuple(each for each in names if may_list(rules, config, each))
        return _answer(_list(config, [_model(config, each) for each in names]))
    upstream = config.models.upstream(name)
    if upstream is None:
        return no_such_model(config, config.type, name)
    if rules is not None:
        check_models(rules, config, (name, upstream))
    return _answer(_model(config, name))


def no_such_model(config: ProviderConfig, dialect: str, model: str) -> Answer:
    """404 in the shape of the API or provider type ``dialect``."""
    text = f'the provider "{config.name}" has no model "{model}"'
    body = error_body(dialect, 404, text, code="model_not_found")
    return Answer(404, body, "application/json", reason=Reason.UNKNOWN_MODEL)


def _answer(document: Mapping[str, Any]) -> Answer:
    return Answer(200, msgspec.json.encode(document), "application/json")


def _model(config: ProviderConfig, name: str) -> dict[str, Any]:
    if config.type == GEMINI:
        return {
            "name": f"models/{name}",
            "displayName": name,
            "supportedGenerationMethods": ["generateContent", "countTokens"],
        }
    if is_anthropic(config.type):
        return {"type": "model", "id": name, "display_name": name, "created_at": _NEVER}
    return {"id": name, "object": "model", "created": 0, "owned_by": config.name}


def _list(config: ProviderConfig, models: list[dict[str, Any]]) -> dict[str, Any]:
    if config.type == GEMINI:
        # All of them are on one page: no nextPageToken.
        return {"models": models}
    if not is_anthropic(config.type):
        return {"object": "list", "data": models}
    first, last = (models[0]["id"], models[-1]["id"]) if models else (None, None)
    return {"data": models, "has_more": False, "first_id": first, "last_id": last}
