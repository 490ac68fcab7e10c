"""Token records of an answer that came from elsewhere say so: their price depends on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aigateway.actors.interception.interface import Interception
from aigateway.actors.providers.recording import Ledger, Recording
from aigateway.actors.providers.request import Opened
from aigateway.actors.values.records import PromptUsage, TokenUsage, UsageRecord

REGIONAL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
TOLD = "claude-sonnet-4-5-20250929"


def recorded(
    metadata: Mapping[str, Any], *, provider: str, model: str, asked: tuple[str, str]
) -> list[Mapping[str, Any]]:
    """The metadata of a prompt's and a token record, as they go to the ledger."""
    prompt = PromptUsage(interception_id="i", msg_id="m", prompt="p", created_at=0)
    tokens = TokenUsage(
        interception_id="i", msg_id="m", input_tokens=1, output_tokens=1, created_at=0,
        metadata=metadata,
    )  # fmt: skip
    kept: list[UsageRecord] = []

    def receive_data(data: bytes, now: float) -> bytes:
        return data

    def add(records: Sequence[UsageRecord]) -> None:
        kept.extend(records)

    interception = SimpleNamespace(
        begin_answer=lambda status, headers: None,
        receive_data=receive_data,
        take_records=lambda: [prompt, tokens],
    )
    recording = Recording(
        cast("Interception", interception), cast("Ledger", SimpleNamespace(add=add))
    )
    opened = SimpleNamespace(
        provider_name=provider,
        model=model,
        credential_hint="",
        converted=False,
        exchange=SimpleNamespace(status=200, headers=()),
    )
    recording.begin_answer(cast("Opened", opened), asked=asked)
    recording.data(b"")
    return [record.metadata for record in kept]


@pytest.mark.parametrize(
    ("told", "provider", "model", "asked", "kept"),
    [
        ({}, "a", "m", ("a", "m"), {}),
        ({"provider_model": TOLD}, "a", "m", ("a", "m"), {"provider_model": TOLD}),
        ({}, "a", "other", ("a", "m"), {"provider_model": "other"}),
        (
            {"provider_model": TOLD},
            "a",
            REGIONAL,
            ("a", "claude-sonnet-4-5"),
            {"provider_model": TOLD, "upstream_model": REGIONAL},
        ),
        ({}, "b", "m", ("a", "m"), {"provider_name": "b"}),
        (
            {},
            "b",
            REGIONAL,
            ("a", "claude-sonnet-4-5"),
            {"provider_name": "b", "provider_model": REGIONAL},
        ),
    ],
)
def test_the_answering_provider_and_both_its_names_for_the_model_are_kept(
    told: dict[str, Any],
    provider: str,
    model: str,
    asked: tuple[str, str],
    kept: dict[str, Any],
) -> None:
    assert recorded(told, provider=provider, model=model, asked=asked) == [{}, kept]
