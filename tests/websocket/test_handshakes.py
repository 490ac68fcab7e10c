"""Who gets a WebSocket, and who is told to use HTTP before any upgrade."""

from __future__ import annotations

import base64
import contextlib
import os
import ssl
from pathlib import Path

import pytest
import requests
import trustme
from fake_coderd import FakeCoderd
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import Close, ScriptedProvider, Send
from socket_client import open_session
from socket_provider import SocketProvider
from socket_rig import Start

TOKEN = "abcdefghij-0123456789abcdefghijkl"


def shake_hands(gateway: GatewayProcess, key: str = "", **headers: str) -> requests.Response:
    """The answer to a handshake that is expected to be refused."""
    return requests.get(
        f"{gateway.url}/openai/v1/responses",
        headers={
            "Authorization": f"Bearer {key or gateway.key()}",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            **headers,
        },
        timeout=30,
    )


def refusals(gateway: GatewayProcess) -> dict[str, int]:
    """What the log says of handshakes: rules, and how often."""
    found: dict[str, int] = {}
    for line in gateway.logs():
        fields = line.get("fields", {})
        if fields.get("reason") == "websocket":
            found[fields["rule"]] = found.get(fields["rule"], 0) + 1
    return found


def test_a_provider_without_websockets_is_asked_once_in_ten_minutes(
    start: Start, sockets: SocketProvider
) -> None:
    sockets.status = 405
    gateway = start()
    for _ in range(3):
        answer = shake_hands(gateway)
        assert answer.status_code == 426
        assert "use HTTP" in answer.json()["error"]["message"]
    assert len(sockets.handshakes) == 1


@pytest.mark.parametrize("status", [401, 429])
def test_what_http_would_be_refused_for_is_refused_as_there(
    start: Start, sockets: SocketProvider, status: int
) -> None:
    sockets.status = status
    gateway = start()
    answer = shake_hands(gateway)
    # A 401 to the gateway's own key would read as one about the client's.
    assert answer.status_code in (426, 429)
    assert (answer.status_code == 429) == (status == 429)


def test_a_provider_that_is_away_is_not_remembered(start: Start, sockets: SocketProvider) -> None:
    sockets.status = 503
    gateway = start()
    assert shake_hands(gateway).status_code == 426
    sockets.status = 0
    with open_session(gateway) as session:
        assert session.ask()[-1]["type"] == "response.completed"


def test_a_provider_that_is_no_websocket_after_all_is_none(tmp_path: Path) -> None:
    """101 with the wrong answer to the key."""
    head = b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    with ScriptedProvider() as provider:
        provider.play([Send(head + b"Sec-WebSocket-Accept: x\r\n\r\n"), Close()])
        with GatewayProcess(tmp_path, [Upstream("openai", provider.url)]) as gateway:
            assert shake_hands(gateway).status_code == 426
            assert shake_hands(gateway).status_code == 426
        assert len(provider.requests) == 1


def test_over_the_caps_http_is_used(start: Start, sockets: SocketProvider) -> None:
    gateway = start("--websocket-user-max", "2", "--websocket-max", "3")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(open_session(gateway))
        stack.enter_context(open_session(gateway))
        assert shake_hands(gateway).status_code == 426
        stack.enter_context(open_session(gateway, "bob"))
        assert shake_hands(gateway, gateway.key("bob")).status_code == 426
        first.connection.close()

        def opened() -> bool:
            with contextlib.suppress(Exception):
                stack.enter_context(open_session(gateway))
                return True
            return False

        wait_until(opened, "a place is free again")
    rules = refusals(gateway)
    assert rules["over --websocket-user-max"] >= 1
    assert rules["over --websocket-max"] >= 1


@pytest.mark.parametrize(
    ("options", "extra", "rule"),
    [
        (["--responses-websocket=false"], {}, "off: --responses-websocket"),
        ([], {"WEBSOCKET": "false"}, "the provider has none"),
    ],
)
def test_switched_off_nobody_is_asked(
    start: Start, sockets: SocketProvider, options: list[str], extra: dict[str, str], rule: str
) -> None:
    gateway = start(*options, extra=extra)
    assert shake_hands(gateway).status_code == 426
    assert sockets.handshakes == []
    assert refusals(gateway) == {rule: 1}


def test_what_is_no_handshake_is_told_which_version_there_is(
    start: Start, sockets: SocketProvider
) -> None:
    gateway = start()
    answer = shake_hands(gateway, **{"Sec-WebSocket-Version": "8"})
    assert (answer.status_code, answer.headers["Sec-WebSocket-Version"]) == (426, "13")
    # As behind a proxy that does not pass it on.
    assert shake_hands(gateway, Upgrade="").status_code == 426
    assert shake_hands(gateway, "not-a-key").status_code == 403
    assert sockets.handshakes == []


@pytest.mark.parametrize("allowed", [False, True])
def test_a_coder_deployment_decides(
    tmp_path: Path, sockets: SocketProvider, worker_class: str, allowed: bool
) -> None:
    with FakeCoderd() as coderd:
        coderd.deployment.add_user("alice", TOKEN)
        coderd.deployment.websockets_allowed = allowed
        gateway = GatewayProcess(
            tmp_path,
            [Upstream("openai", sockets.url)],
            ["--url", coderd.url, "--worker-class", worker_class],
            local=False,
            environ={"CODER_AI_GATEWAY_KEY": coderd.gateway_key},
        )
        with gateway:
            if not allowed:
                assert shake_hands(gateway, TOKEN).status_code == 426
                assert sockets.handshakes == []
                return
            headers = {"Authorization": f"Bearer {TOKEN}"}
            with open_session(gateway, headers=headers) as session:
                assert session.ask()[-1]["type"] == "response.completed"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def test_both_ways_are_encrypted(tmp_path: Path, worker_class: str, authority: trustme.CA) -> None:
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    issued.private_key_pem.write_to_path(tmp_path / "tls.key")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(server)
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    options = ["--tls-cert-file", str(tmp_path / "tls.crt")]
    options += ["--tls-key-file", str(tmp_path / "tls.key"), "--worker-class", worker_class]
    with SocketProvider(ssl=server) as provider:
        url = provider.url.replace("http:", "https:")
        upstream = Upstream("openai", url, extra={"CA_FILE": str(tmp_path / "ca.pem")})
        gateway = GatewayProcess(tmp_path / "gw", [upstream], options)
        gateway.start(ready=False)
        try:
            address = f"wss{gateway.url.removeprefix('http')}/openai/v1/responses"
            ready = gateway.url.replace("http:", "https:") + "/readyz"
            verify = str(tmp_path / "ca.pem")
            wait_until(lambda: requests.get(ready, verify=verify, timeout=10).ok, "it serves")
            with open_session(gateway, url=address, ssl=client) as session:
                for size in (10, 100_000, 1 << 20):
                    assert session.ask("x" * size)[-1]["type"] == "response.completed"
            gateway.stop()
        finally:
            gateway.kill()
