"""The imitation provider speaks both APIs, blocking and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import anthropic
import openai
import pytest
import requests

from bench.upstream import Behaviour, Upstream

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with Upstream(tmp_path_factory.mktemp("upstream"), processes=2) as imitation:
        imitation.behave(Behaviour(answer_bytes=300, events=5, interval_us=1000))
        yield imitation


def test_openais_sdk_understands_it(upstream: Upstream) -> None:
    with openai.OpenAI(api_key="k", base_url=f"{upstream.urls[0]}/v1") as client:
        answer = client.chat.completions.create(model="m", messages=MESSAGES)  # type: ignore[call-overload]
        assert len(answer.choices[0].message.content) == 300
        assert answer.usage.completion_tokens == 75
        chunks = list(
            client.chat.completions.create(  # type: ignore[call-overload]
                model="m",
                messages=MESSAGES,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    texts = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert [text[:8] for text in texts] == [f"#{n:06d}." for n in range(5)]
    assert chunks[-1].usage.completion_tokens == 5


def test_anthropics_sdk_understands_it(upstream: Upstream) -> None:
    with anthropic.Anthropic(api_key="k", base_url=upstream.urls[0]) as client:
        answer = client.messages.create(model="m", max_tokens=9, messages=MESSAGES)  # type: ignore[call-overload]
        assert len(answer.content[0].text) == 300
        with client.messages.stream(model="m", max_tokens=9, messages=MESSAGES) as stream:  # type: ignore[arg-type]
            texts = list(stream.text_stream)
            final = stream.get_final_message()
    assert [text[:8] for text in texts] == [f"#{n:06d}." for n in range(5)]
    assert final.usage.output_tokens == 5


def test_usage_is_sent_to_those_who_ask(upstream: Upstream) -> None:
    url = f"{upstream.urls[0]}/v1/chat/completions"
    plain = requests.post(url, json={"stream": True, "messages": MESSAGES}, timeout=10).text
    assert "usage" not in plain
    assert plain.rstrip().endswith("[DONE]")


def test_bodies_may_come_in_chunks_and_in_any_size(upstream: Upstream, tmp_path: Path) -> None:
    url = f"{upstream.urls[0]}/v1/messages"
    large = json.dumps({"messages": [{"role": "user", "content": "x" * 700_000}]}).encode()
    before = upstream.settled()
    for body in (large, iter([large[:10], large[10:]])):
        assert requests.post(url, data=body, timeout=10).json()["type"] == "message"
    seen = upstream.settled() - before
    assert (seen.requests, seen.answers) == (2, 2)


def test_what_was_reported_is_what_was_counted(upstream: Upstream) -> None:
    before = upstream.settled()
    usage = requests.post(f"{upstream.urls[0]}/v1/messages", json={}, timeout=10).json()["usage"]
    seen = upstream.settled() - before
    assert (seen.input_tokens, seen.output_tokens) == (
        usage["input_tokens"],
        usage["output_tokens"],
    )


def test_the_two_listeners_are_slow_apart(upstream: Upstream) -> None:
    upstream.behave(Behaviour(think_us=300_000), "slow")
    fast, slow = (
        requests.post(f"{url}/v1/messages", json={}, timeout=10).elapsed.total_seconds()
        for url in upstream.urls
    )
    assert slow >= 0.3
    assert fast < slow
