"""A gateway of a deployment that is older, or that says things nobody here knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from any_coderd import ALICE_ID, GoCoderd, all_ended, ask, interception_of, per_interception
from fake_coderd import FakeCoderd
from gateway_process import GatewayProcess, Upstream, message_of, wait_until
from go_peer import GoPeer
from imitation_provider import ScriptedProvider, imitate

from aigateway.actors.control.coderd.wire import coderd_pb2 as pb

EMAIL = "alice@example.com"
WORKSPACE = "0c9b8a7d-6e5f-4a3b-8c2d-1e0f9a8b7c6d"
KEY = "alice12345-0123456789abcdefghij01"
OPTIONS = (
    "--ai-gateway-send-actor-headers",
    *("--ai-gateway-actor-header-email", "X-AI-Bridge-Actor-Metadata-Email"),
)


@pytest.fixture
def own_provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=imitate()) as provider:
        yield provider


def gateway_of(url: str, folder: Path, *upstreams: Upstream) -> GatewayProcess:
    return GatewayProcess(
        folder,
        upstreams,
        ["--url", url, *OPTIONS],
        local=False,
        environ={"CODER_AI_GATEWAY_KEY": "gateway-key"},
    )


@pytest.mark.parametrize("minor", range(5))
def test_a_deployment_of_any_version_is_served_with_what_it_has(
    tmp_path: Path, own_provider: ScriptedProvider, minor: int
) -> None:
    with GoPeer() as peer:
        peer.server(version=f"1.{minor}")
        peer.add_user(KEY, ALICE_ID, "alice", email=EMAIL, workspace_id=WORKSPACE)
        provider = {"name": "anthropic", "type": "anthropic", "base_url": own_provider.url}
        peer.set_providers([{**provider, "keys": ["sk-1"]}])
        own = [] if minor else [Upstream("anthropic", own_provider.url)]
        with gateway_of(peer.url, tmp_path, *own) as gateway:
            coderd = GoCoderd(peer)
            answer = ask(gateway, KEY)
            assert answer.status_code == 200
            one = interception_of(answer)
            wait_until(lambda: all_ended(coderd, [one]), "it is recorded")
            assert set(per_interception(coderd.stored())[one]) == {
                "RecordInterception", "RecordTokenUsage", "RecordPromptUsage",
                "RecordInterceptionEnded",
            }  # fmt: skip
            start = next(r for r in peer.records("RecordInterception"))["record"]
            assert start["workspace_id"] == (WORKSPACE if minor >= 3 else "")
            asked = own_provider.requests[-1]
            emails = [v for n, v in asked.headers if n == "X-AI-Bridge-Actor-Metadata-Email"]
            assert emails == ([EMAIL] if minor >= 4 else [])
            # A budget is known from 1.1 on.
            peer.set_budget(ALICE_ID, True, 1_000_000)
            assert ask(gateway, KEY).status_code == (403 if minor else 200)
            peer.set_budget(ALICE_ID, False, None)
            # Changes arrive from 1.2 on.
            if minor >= 2:
                peer.set_providers([{**provider, "name": "other", "keys": ["sk-1"]}])
                wait_until(lambda: ask(gateway, KEY).status_code == 404, "the change is there")
            (session,) = peer.sessions(open=1)
            assert session["version"] == f"1.{minor}"


UNKNOWN = bytes.fromhex("b806 01") + bytes.fromhex("c206 05") + b"words"
"""Field 103, a number, and 104, a text: no message has them."""


def test_what_a_newer_deployment_says_beyond_what_is_known_breaks_nothing(
    tmp_path: Path, own_provider: ScriptedProvider
) -> None:
    with FakeCoderd() as coderd:
        alice = coderd.deployment.add_user("alice", KEY)
        known = pb.AIProvider(
            name="anthropic", type="anthropic", enabled=True, keys=["k"], base_url=own_provider.url
        )
        strange = pb.AIProvider(name="strange", type="of-tomorrow", enabled=True, keys=["k"])
        with_more = pb.AIProvider.FromString(known.SerializeToString() + UNKNOWN)
        listed = pb.GetAIProvidersResponse(providers=[with_more, strange])
        coderd.faults.garble("GetAIProviders", listed.SerializeToString() + UNKNOWN)
        authorized = pb.IsAuthorizedResponse(
            owner_id=alice.id, api_key_id="alice12345", username="alice"
        )
        # The e-mail's number holds a yes or no here: sources disagree about it.
        other_use = b"\x28\x01"
        coderd.faults.garble("IsAuthorized", authorized.SerializeToString() + other_use + UNKNOWN)
        for rpc in ("IsBudgetExceeded", "RecordInterception", "RecordTokenUsage"):
            coderd.faults.garble(rpc, UNKNOWN)
        gateway = gateway_of(coderd.url, tmp_path)
        gateway.allowed_errors.append("skipping misconfigured ai provider")
        with gateway:
            answer = ask(gateway, KEY)
            assert answer.status_code == 200
            (line,) = [x for x in gateway.logs() if "skipping misconfigured" in message_of(x)]
            assert line["fields"]["provider_name"] == "strange"
            wait_until(
                lambda: coderd.deployment.stored("RecordInterceptionEnded"), "it is recorded"
            )


@pytest.mark.parametrize("code", [1, 12, 1000, 1005, 2**63])
def test_an_error_code_that_nobody_knows_means_ask_later(
    tmp_path: Path, own_provider: ScriptedProvider, code: int
) -> None:
    with FakeCoderd() as coderd:
        coderd.deployment.add_user("alice", KEY)
        coderd.faults.fail("IsAuthorized", "words of tomorrow", code=code, times=1)
        with gateway_of(coderd.url, tmp_path, Upstream("anthropic", own_provider.url)) as gateway:
            refused = ask(gateway, KEY)
            assert refused.status_code == 503
            assert refused.headers["Retry-After"]
            assert ask(gateway, KEY).status_code == 200


def test_a_field_that_is_there_is_read_whatever_the_version(
    tmp_path: Path, own_provider: ScriptedProvider
) -> None:
    with FakeCoderd(version="1.1") as coderd:
        coderd.deployment.add_user("alice", KEY, email=EMAIL, workspace_id=WORKSPACE)
        with gateway_of(coderd.url, tmp_path, Upstream("anthropic", own_provider.url)) as gateway:
            answer = ask(gateway, KEY)
            assert answer.status_code == 200
            assert ("X-AI-Bridge-Actor-Metadata-Email", EMAIL) in own_provider.requests[-1].headers
            (start,) = coderd.deployment.stored("RecordInterception")
            message: Any = start.message
            assert message.workspace_id == WORKSPACE
