"""A deployment says which servers a user has; the same tests against both coderds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import anthropic
import pytest
from any_coderd import ALICE_ID, AnyCoderd, GoCoderd, PythonCoderd
from fake_coderd import FakeCoderd
from gateway_process import GatewayProcess, Upstream, wait_until
from go_peer import GoPeer
from imitation_provider import ScriptedProvider, answer
from mcp_scripted_server import Exchange, ScriptedServer, tool
from round_answers import Call, message

from aigateway.actors.control.coderd.wire import coderd_pb2 as pb


class Deployment(Protocol):
    coderd: AnyCoderd

    def serve(self, own: str, external: dict[str, str], tokens: dict[str, str]) -> None:
        """Say where coderd's own server is, where others are, and which tokens alice has."""


class PythonDeployment:
    def __init__(self, fake: FakeCoderd) -> None:
        self.coderd: AnyCoderd = PythonCoderd(fake)
        self._fake = fake

    def serve(self, own: str, external: dict[str, str], tokens: dict[str, str]) -> None:
        deployment = self._fake.deployment
        deployment.coder_mcp = pb.MCPServerConfig(id="coder", url=own, tool_deny_regex="secret")
        deployment.mcp_servers = tuple(
            pb.MCPServerConfig(id=id, url=url) for id, url in external.items()
        )
        deployment.mcp_tokens = dict(tokens)


class GoDeployment:
    def __init__(self, peer: GoPeer) -> None:
        self.coderd: AnyCoderd = GoCoderd(peer)
        self._peer = peer

    def serve(self, own: str, external: dict[str, str], tokens: dict[str, str]) -> None:
        self._peer.set_mcp(
            coder={"id": "coder", "url": own, "tool_deny_regex": "secret"},
            servers=[{"id": id, "url": url} for id, url in external.items()],
            tokens={ALICE_ID: tokens},
        )


@pytest.fixture(params=["python", "go"])
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    with ExitStack() as stack:
        if request.param == "python":
            yield PythonDeployment(stack.enter_context(FakeCoderd()))
        else:
            yield GoDeployment(stack.enter_context(GoPeer()))


@pytest.fixture
def own() -> Iterator[ScriptedServer]:
    """Coderd's own server, of the kind that opens sessions."""
    names = ("list_workspaces", "show_secret")
    with ScriptedServer(*map(tool, names), sessions=True) as server:
        yield server


@pytest.fixture
def wiki() -> Iterator[ScriptedServer]:
    with ScriptedServer(tool("search"), sessions=True) as server:
        yield server


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


class Alice:
    """A user of the deployment behind a gateway of her own."""

    def __init__(self, gateway: GatewayProcess, provider: ScriptedProvider, key: str) -> None:
        self.gateway, self.provider, self._key = gateway, provider, key

    def ask(self, *rounds: dict[str, Any]) -> anthropic.types.Message:
        for number, one in enumerate(rounds, 1):
            self.provider.play(answer(message(**one, number=number)))
        with anthropic.Anthropic(
            base_url=f"{self.gateway.url}/anthropic", api_key=self._key, max_retries=0
        ) as client:
            return client.messages.create(
                model="claude-x", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
            )

    def offered(self) -> list[str]:
        """The tools of the last request."""
        return [each["name"] for each in self.provider.requests[-1].json().get("tools", [])]

    def told(self) -> list[str]:
        """The results in the last request."""
        results = self.provider.requests[-1].json()["messages"][-1]["content"]
        return [each["content"][0]["text"] for each in results]


@pytest.fixture
def start(
    tmp_path: Path, deployment: Deployment, provider: ScriptedProvider
) -> Iterator[Callable[..., Alice]]:
    running: list[GatewayProcess] = []

    def start(worker_class: str = "gevent") -> Alice:
        gateway = GatewayProcess(
            tmp_path,
            [Upstream("anthropic", provider.url)],
            ["--url", deployment.coderd.url, "--worker-class", worker_class],
            local=False,
            environ={"CODER_AI_GATEWAY_KEY": deployment.coderd.gateway_key},
        )
        running.append(gateway)
        key = deployment.coderd.add_alice()
        return Alice(gateway.start(), provider, key)

    yield start
    for gateway in running:
        gateway.kill()


def bearers(server: ScriptedServer) -> set[str]:
    return {seen.headers["authorization"] for seen in server.seen}


LIST: Call = ("call_1", "bmcp_coder_list_workspaces", {"owner": "me"})
SEARCH: Call = ("call_2", "bmcp_wiki_search", {"q": "x"})


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_users_have_the_tools_that_coderd_says(
    start: Callable[..., Alice],
    deployment: Deployment,
    own: ScriptedServer,
    wiki: ScriptedServer,
    worker_class: str,
) -> None:
    external = {"wiki": wiki.url, "unlinked": "http://127.0.0.1:9/mcp"}
    deployment.serve(own.url, external, {"wiki": "wiki-token"})
    alice = start(worker_class)
    whole = alice.ask({"calls": [LIST, SEARCH]}, {"text": "Done."})
    assert whole.content[0].text == "Done."  # type: ignore[union-attr]
    assert alice.offered() == ["bmcp_coder_list_workspaces", "bmcp_wiki_search"]
    assert alice.told() == ['{"owner": "me"}', '{"q": "x"}']
    # Coderd's own server takes the user's token, others have theirs.
    assert bearers(own) == {"Bearer alice-secret"}
    assert bearers(wiki) == {"Bearer wiki-token"}

    def recorded() -> list[Any]:
        stored = deployment.coderd.stored()
        if "RecordInterceptionEnded" not in [rpc for rpc, _, _ in stored]:
            return []
        return [fields for rpc, _, fields in stored if rpc == "RecordToolUsage"]

    tools = wait_until(recorded, "the calls are recorded")
    assert [
        (each["tool"], each["server_url"], json.loads(each["input"]), each["injected"])
        for each in tools
    ] == [
        ("list_workspaces", own.url, {"owner": "me"}, True),
        ("search", wiki.url, {"q": "x"}, True),
    ]
    assert not any(each.get("invocation_error") for each in tools)
    # The gateway's end is the end of its sessions.
    assert len(own.live_sessions) == len(wiki.live_sessions) == 1
    alice.gateway.stop()
    assert (own.live_sessions, wiki.live_sessions) == (set(), set())
    assert len(own.got("DELETE")) == len(wiki.got("DELETE")) == 1


def test_a_token_that_is_refused_is_replaced_by_the_one_that_coderd_has_now(
    start: Callable[..., Alice], deployment: Deployment, own: ScriptedServer, wiki: ScriptedServer
) -> None:
    deployment.serve(own.url, {"wiki": wiki.url}, {"wiki": "old"})
    alice = start()
    alice.ask({"text": "hi"})

    def check(exchange: Exchange) -> None:
        if exchange.seen.headers["authorization"] == "Bearer old":
            exchange.send(401)
        else:
            exchange.text("found")

    wiki.on["tools/call"] = check
    deployment.serve(own.url, {"wiki": wiki.url}, {"wiki": "new"})
    alice.ask({"calls": [SEARCH]}, {"text": "Done."})
    assert alice.told() == ["found"]
    tokens = [seen.headers["authorization"] for seen in wiki.got("tools/call")]
    assert tokens == ["Bearer old", "Bearer new"]
    # What the old token opened is ended with it.
    ended = wait_until(lambda: wiki.got("DELETE"), "the old session is ended")
    assert ended[0].headers["authorization"] == "Bearer old"
