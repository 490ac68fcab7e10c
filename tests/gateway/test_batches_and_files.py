"""Batches and files are passed on, each user's own only, and never round a policy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ReceivedRequest, ScriptedProvider, Steps, answer
from sdk_clients import closed_later

LINES = b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{}}\n'
POLICY = """
users:
  mona: {models: ["gpt-*"]}
  carl: {caps: [{usd: 1, every: day}]}
"""


def script(request: ReceivedRequest) -> Steps:
    """Stores whatever is sent under one id of its kind."""
    method, target = request.method, request.target
    if target.startswith("/v1/messages/batches"):
        counts = dict.fromkeys(("canceled", "errored", "expired", "processing", "succeeded"), 0)
        return answer({"id": "msgbatch_1", "type": "message_batch", "request_counts": counts})
    if target == "/v1/embeddings":
        vectors = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
        return answer({"data": vectors, "model": "m", "usage": {"prompt_tokens": 2}})
    if target == "/v1/moderations":
        return answer({"id": "modr-1", "model": "m", "results": []})
    if target.endswith("/content"):
        return answer(LINES, content_type="application/octet-stream")
    if "/files" in target:
        file = {"id": "file-1", "object": "file", "bytes": len(LINES), "filename": "b.jsonl"}
        return answer({**file, "purpose": "batch", "created_at": 1, "status": "processed"})
    assert method in ("GET", "POST")
    asked = json.loads(request.body) if request.body else {}
    batch = {"id": "batch_1", "object": "batch", "status": "validating", **asked}
    return answer(batch)


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=script) as provider:
        yield provider


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, provider: ScriptedProvider
) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gw")
    upstreams = [Upstream("openai", provider.url), Upstream("anthropic", provider.url)]
    gateway = GatewayProcess(folder, upstreams)
    (folder / "policy.yaml").write_text(POLICY)
    flags = ("--local-db", str(gateway.database))
    applied = gateway.command("policy", "apply", "policy.yaml", "--yes", *flags)
    assert applied.returncode == 0, applied.stderr
    with gateway:
        yield gateway


def gpt(gateway: GatewayProcess, user: str, **headers: str) -> openai.OpenAI:
    return closed_later(
        openai.OpenAI(
            api_key=gateway.key(user),
            base_url=f"{gateway.url}/openai/v1",
            max_retries=0,
            default_headers=headers,
        )
    )


def test_a_batch_goes_in_and_its_file_comes_back(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    alice = gpt(gateway, "alice")
    file = alice.files.create(file=("b.jsonl", LINES), purpose="batch")
    assert LINES in provider.requests[-1].body
    batch = alice.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert alice.batches.retrieve(batch.id).id == "batch_1"
    assert alice.files.content(file.id).read() == LINES


def test_what_one_user_has_stored_is_no_other_users(gateway: GatewayProcess) -> None:
    alice, bob = gpt(gateway, "alice"), gpt(gateway, "bob")
    file = alice.files.create(file=("b.jsonl", LINES), purpose="batch").id
    batch: dict[str, Any] = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    id = alice.batches.create(input_file_id=file, **batch).id
    for ask in (
        lambda: bob.files.retrieve(file),
        lambda: bob.files.content(file),
        lambda: bob.files.delete(file),
        lambda: bob.batches.retrieve(id),
        lambda: bob.batches.cancel(id),
        lambda: bob.batches.create(input_file_id=file, **batch),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()


def test_there_are_no_lists_of_what_everybody_has_stored(gateway: GatewayProcess) -> None:
    alice = gpt(gateway, "alice")
    for ask in (alice.files.list, alice.batches.list):
        with pytest.raises(openai.NotFoundError, match="what everybody has stored"):
            ask()


def test_who_brings_a_key_may_list_and_name_all(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    headers = {"X-Coder-AI-Governance-Token": gateway.key("bob")}
    own = closed_later(
        openai.OpenAI(
            api_key="sk-of-bob", base_url=f"{gateway.url}/openai/v1", default_headers=headers
        )
    )
    own.files.list()
    assert own.files.retrieve("file-1").id == "file-1"
    assert provider.requests[-1].header("Authorization") == "Bearer sk-of-bob"


def test_a_policy_that_a_batch_would_go_round_turns_them_off(gateway: GatewayProcess) -> None:
    mona = gpt(gateway, "mona")
    told = r"nobody reads the models, is not allowed by the policy \(users\.mona\.models\) until"
    with pytest.raises(openai.PermissionDeniedError, match=told):
        mona.files.create(file=("b.jsonl", LINES), purpose="batch")
    with pytest.raises(openai.PermissionDeniedError, match=told):
        mona.batches.retrieve("batch_x")


def test_caps_hold_for_models_that_hold_no_conversation(gateway: GatewayProcess) -> None:
    carl = gpt(gateway, "carl")
    assert carl.embeddings.create(
        model="text-embedding-3-small", input="x", encoding_format="float"
    )
    assert carl.moderations.create(input="x").results == []
    with pytest.raises(openai.PermissionDeniedError, match="no price for"):
        carl.audio.speech.create(model="tts-1", voice="alloy", input="x")
    with pytest.raises(openai.PermissionDeniedError, match="may cost money that is not counted"):
        carl.files.create(file=("b.jsonl", LINES), purpose="batch")


def test_anthropics_batches_are_passed_on_too(gateway: GatewayProcess) -> None:
    claude = closed_later(
        anthropic.Anthropic(
            api_key=gateway.key("alice"), base_url=f"{gateway.url}/anthropic", max_retries=0
        )
    )
    batches = claude.messages.batches
    asked: Any = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
    made = batches.create(requests=[{"custom_id": "1", "params": asked}])
    assert batches.retrieve(made.id).id == "msgbatch_1"
    with pytest.raises(anthropic.NotFoundError):
        batches.list()
