"""Gateways with a Redis count a policy's requests and tokens together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from servers import redis

from aigateway.actors.values.policy import CallerRules, Limit, Subject
from aigateway.actors.values.records import TokenUsage
from aigateway.http.request.answers import Answer
from aigateway.http.request.policy import Windows
from aigateway.http.settings import Settings


def limited(count: int, what: Any, id: str) -> CallerRules:
    return CallerRules(limits=(Limit(count, what, Subject("user", id), "the rule"),))


def test_two_gateways_count_requests_and_tokens_in_one_place(tmp_path: Path) -> None:
    with redis(tmp_path / "redis") as address:
        one, two = (
            Windows(Settings(rate_limit_storage=address, runtime_dir=str(tmp_path / name)))
            for name in ("one", "two")
        )
        requests = limited(2, "requests", "ada")
        one.enter(requests)
        two.enter(requests)
        with pytest.raises(Answer) as refused:
            one.enter(requests)
        assert 1 <= int(dict(refused.value.headers)["Retry-After"]) <= 60
        tokens = limited(5, "tokens", "bob")
        watch = one.watching(tokens, None)
        assert watch is not None
        watch(
            [
                TokenUsage(
                    interception_id="i",
                    msg_id="m",
                    created_at=1.0,
                    input_tokens=2,
                    output_tokens=3,
                )
            ]
        )
        with pytest.raises(Answer):
            two.enter(tokens)
        two.enter(limited(5, "tokens", "eve"))
        assert not (tmp_path / "one").exists()
