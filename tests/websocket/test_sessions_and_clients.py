"""The SDK's own client, and what the metrics say of sessions."""

from __future__ import annotations

from typing import Any

import openai
import pytest
import requests
from gateway_process import free_port, wait_until
from socket_client import open_session
from socket_provider import SocketProvider
from socket_rig import Mine, Start


# How the SDK uses the library that it brings along is the SDK's own affair.
@pytest.mark.filterwarnings("ignore:connect.. must be used:DeprecationWarning")
def test_the_sdk_gets_its_events(mine: Mine) -> None:
    base = f"{mine.gateway.url}/openai/v1"
    events: list[Any] = []
    with (
        openai.OpenAI(api_key=mine.key, base_url=base) as client,
        client.responses.connect() as connection,
    ):
        for question in ("one", "two"):
            connection.response.create(model="gpt-imaginary", input=question)
            for event in connection:
                events.append(event)
                if event.type in ("response.completed", "error"):
                    break
    done = [
        each.response.usage.total_tokens for each in events if each.type == "response.completed"
    ]
    assert done == [42, 42]
    assert [each["prompt"] for each in mine.rows("prompt", "user_prompts")] == ["one", "two"]


def test_sessions_and_messages_are_counted(start: Start, sockets: SocketProvider) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    gateway = start(
        "--prometheus-enable", "--prometheus-address", address, "--websocket-user-max", "1"
    )

    def series() -> dict[str, float]:
        found = {}
        for line in requests.get(f"http://{address}/metrics", timeout=10).text.splitlines():
            name, _, value = line.rpartition(" ")
            if name.startswith("coder_ai_gateway_"):
                found[name.removeprefix("coder_ai_gateway_")] = float(value)
        return found

    assert series()['websocket_handshakes_refused_total{reason="user_cap"}'] == 0
    with open_session(gateway) as session:
        events = session.ask()
        refused = requests.get(
            f"{gateway.url}/openai/v1/responses",
            headers={
                "Authorization": f"Bearer {gateway.key()}",
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            },
            timeout=20,
        )
        assert refused.status_code == 426
        found = series()
        assert found["websocket_sessions"] == 1
        assert found['websocket_messages_total{from="client"}'] == 1
        assert found['websocket_messages_total{from="provider"}'] == len(events)
        assert found['websocket_handshakes_refused_total{reason="user_cap"}'] == 1
    wait_until(lambda: series()["websocket_sessions"] == 0, "the session has ended")
    ended = [
        value
        for name, value in series().items()
        if name.startswith("interceptions_total") and 'method="WEBSOCKET"' in name
    ]
    assert sorted(ended) == [0, 1]
