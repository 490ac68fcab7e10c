"""Names on spans are those of OpenTelemetry's semantic conventions."""

from __future__ import annotations

import warnings

import pytest

from aigateway.actors.interception.routes import (
    COMPACTION,
    GEMINI,
    GEMINI_EMBEDDING,
    MESSAGES,
    MODEL_CALL,
    MODERATION,
    RESPONSES,
    Api,
)
from aigateway.actors.values.provider_config import PROVIDER_TYPES
from aigateway.actors.values.records import TokenUsage
from aigateway.http.tracing import conventions


def test_every_name_is_one_of_the_conventions() -> None:
    with warnings.catch_warnings():
        # Those of generative AI have moved to a repository of their own, without a package yet.
        warnings.simplefilter("ignore", DeprecationWarning)
        from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
    from opentelemetry.semconv.attributes import (
        error_attributes,
        http_attributes,
        url_attributes,
        user_agent_attributes,
    )

    known = {
        value
        for module in (
            gen_ai_attributes,
            error_attributes,
            http_attributes,
            url_attributes,
            user_agent_attributes,
        )
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str)
    }
    ours = {
        value
        for name, value in vars(conventions).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, str)
    }
    ours -= {conventions.COST, conventions.DETAILS, GEMINI_EMBEDDING, MODEL_CALL, MODERATION}
    assert len(ours) > 12
    assert ours <= known


@pytest.mark.parametrize("kind", PROVIDER_TYPES)
def test_every_type_of_provider_has_a_name(kind: str) -> None:
    assert conventions.provider_of(kind)
    assert conventions.provider_of("bedrock") == "aws.bedrock"


@pytest.mark.parametrize(
    ("kind", "api", "route", "operation"),
    [
        ("anthropic", MESSAGES, "/v1/messages", "chat"),
        ("openai", RESPONSES, "/v1/responses", "chat"),
        ("openai", COMPACTION, "/v1/responses/compact", "chat"),
        ("gemini", GEMINI, "/models/*:generateContent", "generate_content"),
        ("gemini", GEMINI_EMBEDDING, "/models/*:embedContent", "embeddings"),
        ("openai", MODEL_CALL, "/v1/embeddings", "embeddings"),
        ("copilot", MODEL_CALL, "/embeddings", "embeddings"),
        ("openai", MODEL_CALL, "/v1/images/edits", "image_generation"),
        ("openai", MODEL_CALL, "/v1/audio/speech", "audio"),
        ("openai", MODEL_CALL, "/v1/rerank", "rerank"),
        ("openai", MODERATION, "/v1/moderations", "moderation"),
    ],
)
def test_each_kind_of_call_has_an_operation(
    kind: str, api: Api, route: str, operation: str
) -> None:
    assert conventions.operation_of(kind, api, route) == operation


def test_what_a_cache_holds_counts_as_input_and_parts_of_an_answer_are_added_up() -> None:
    part = TokenUsage(
        interception_id="i",
        msg_id="msg_1",
        input_tokens=10,
        output_tokens=5,
        cache_read_input_tokens=100,
        cache_write_input_tokens=1000,
        created_at=0.0,
    )
    other = TokenUsage(
        interception_id="i",
        msg_id="",
        input_tokens=1,
        output_tokens=2,
        created_at=0.0,
        metadata={"provider_model": "another"},
    )
    assert conventions.usage_of([part, other]) == {
        "gen_ai.usage.input_tokens": 1111,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 100,
        "gen_ai.usage.cache_creation.input_tokens": 1000,
        "gen_ai.response.id": "msg_1",
        "gen_ai.response.model": "another",
    }
    assert conventions.usage_of([]) == {}
