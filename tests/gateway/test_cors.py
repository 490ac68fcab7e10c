"""What a browser asks before it lets a web page's script call the gateway, and what it is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider, answer

PAGE = "https://chat.example.com"
BODY = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}


def cors_of(response: requests.Response) -> dict[str, str]:
    """The headers that a browser looks at."""
    return {
        name.lower().removeprefix("access-control-"): value
        for name, value in response.headers.items()
        if name.lower().startswith("access-control-")
    }


def preflight(gateway: GatewayProcess, origin: str = PAGE, **more: str) -> requests.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
        **more,
    }
    url = f"{gateway.url}/anthropic/v1/messages"
    return requests.options(url, headers={k: v for k, v in headers.items() if v}, timeout=30)


def ask(gateway: GatewayProcess, origin: str = PAGE, key: str | None = None) -> requests.Response:
    return requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json=BODY,
        headers={"Origin": origin, "X-Api-Key": gateway.key() if key is None else key},
        timeout=30,
    )


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, provider: ScriptedProvider
) -> Iterator[GatewayProcess]:
    options = ["--cors-origins", "HTTPS://Chat.Example.com:443/,http://localhost:5173"]
    upstreams = [Upstream("anthropic", provider.url)]
    with GatewayProcess(tmp_path_factory.mktemp("gw"), upstreams, options) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def open_gateway(
    tmp_path_factory: pytest.TempPathFactory, provider: ScriptedProvider
) -> Iterator[GatewayProcess]:
    upstreams = [Upstream("anthropic", provider.url)]
    folder = tmp_path_factory.mktemp("gw")
    with GatewayProcess(folder, upstreams, ["--cors-origins", "*"]) as gateway:
        yield gateway


def test_a_listed_page_may_call_and_needs_no_key_to_ask(gateway: GatewayProcess) -> None:
    asked = preflight(gateway)
    assert (asked.status_code, asked.content) == (204, b"")
    assert cors_of(asked) == {
        "allow-origin": PAGE,
        "allow-methods": "POST",
        "allow-headers": "authorization,content-type,x-stainless-lang",
        "max-age": "600",
        "expose-headers": "*",
    }
    assert "Origin" in asked.headers["Vary"]


def test_answers_and_refusals_may_be_read_by_the_page(gateway: GatewayProcess) -> None:
    for response, status in (
        (ask(gateway), 200),
        (ask(gateway, key="wrong"), 403),
        (ask(gateway, key=""), 400),
        (requests.get(f"{gateway.url}/nobody/x", headers={"Origin": PAGE}, timeout=30), 400),
    ):
        assert response.status_code == status
        assert cors_of(response) == {"allow-origin": PAGE, "expose-headers": "*"}
        assert "Origin" in response.headers["Vary"]
    # As every answer, so that no cache between gives one page's answer to another.
    assert "Origin" in ask(gateway, origin="https://evil.example").headers["Vary"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://chat.example.com.evil.example",
        "http://chat.example.com",
        "null",
    ],
)
def test_another_page_is_told_nothing(gateway: GatewayProcess, origin: str) -> None:
    assert cors_of(preflight(gateway, origin)) == {}
    assert cors_of(ask(gateway, origin)) == {}


def test_what_the_provider_says_of_pages_stays_here(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    said = (("Access-Control-Allow-Origin", "*"), ("Access-Control-Allow-Credentials", "true"))
    for origin, expected in (
        (PAGE, {"allow-origin": PAGE, "expose-headers": "*"}),
        ("https://e.test", {}),
    ):
        provider.play(answer({"type": "message", "usage": {}}, headers=said))
        assert cors_of(ask(gateway, origin)) == expected


def test_options_that_no_browser_sends_need_a_key(gateway: GatewayProcess) -> None:
    asked = preflight(gateway, **{"Access-Control-Request-Method": ""})
    assert asked.status_code == 400
    assert preflight(gateway, origin="").status_code == 400


def test_a_header_that_is_no_list_of_names_is_not_repeated(gateway: GatewayProcess) -> None:
    asked = preflight(gateway, **{"Access-Control-Request-Headers": "a b;c"})
    assert "allow-headers" not in cors_of(asked)


def test_any_page_may_call_where_that_is_said(open_gateway: GatewayProcess) -> None:
    more = {"Access-Control-Request-Private-Network": "true"}
    asked = cors_of(preflight(open_gateway, "https://any.example", **more))
    assert (asked["allow-origin"], asked["allow-private-network"]) == ("*", "true")
    assert cors_of(ask(open_gateway, "null"))["allow-origin"] == "*"


def test_without_the_option_nothing_is_said_of_pages(
    any_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    assert preflight(any_gateway).status_code == 400
    assert cors_of(ask(any_gateway)) == {}
