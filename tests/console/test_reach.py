"""From where the console may be reached, and what of a request is believed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from console_process import ConsoleProcess
from falcon import testing
from openid_provider import OpenIdProvider
from waiting import PATIENCE

from aigateway.http.console.app import ConsoleApp, Sources, create_app
from aigateway.http.console.door import Door
from aigateway.http.console.reach import reach_of
from aigateway.http.settings import Settings, SettingsError

PUBLIC = "https://console.example"
PROXIES = (ip_network("10.0.0.0/8"),)
BEYOND = {
    "console_url": PUBLIC, "oidc_issuer": "https://id.example", "oidc_client_id": "c",
    "trusted_proxies": PROXIES,
}  # fmt: skip


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("console_url", "--console-url"),
        ("oidc_issuer", "--oidc-issuer"),
        ("trusted_proxies", "--console-tls-cert-file"),
    ],
)
@pytest.mark.parametrize("address", ["0.0.0.0:4002", "[::]:4002", "192.0.2.1:1", ":4002"])
def test_beyond_loopback_it_says_what_is_missing(address: str, missing: str, named: str) -> None:
    given: dict[str, Any] = {name: value for name, value in BEYOND.items() if name != missing}
    with pytest.raises(SettingsError, match=named) as caught:
        reach_of(Settings(**given), address)
    assert "ssh -L" in str(caught.value)
    others = {"--console-url", "--oidc-issuer", "--console-tls-cert-file"} - {named}
    told = str(caught.value).partition("needs")[2]
    assert not [other for other in others if other in told]
    reach_of(Settings(**BEYOND), address)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"console_url": "http://console.example"}, "https://"),
        ({"console_url": f"{PUBLIC}/path"}, "no path"),
        ({"console_url": f"{PUBLIC}/?x=1"}, "no path"),
        ({"console_url": "https://user:pass@console.example"}, "no path"),
        ({"console_tls_cert_file": "/nowhere"}, "go together"),
        ({"console_tls_cert_file": "/no", "console_tls_key_file": "/no"}, "No such file"),
    ],
)
def test_what_cannot_be_right_is_refused(given: dict[str, str], why: str) -> None:
    with pytest.raises(SettingsError, match=why) as caught:
        reach_of(Settings(**given), "127.0.0.1:4002")
    assert "pass" not in str(caught.value)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[ConsoleApp]:
    """One behind proxies, which has no TLS of its own."""
    sources = Sources(
        local_db=str(tmp_path / "none.db"), runtime_dir=str(tmp_path), client_address="http://g",
        reach=reach_of(Settings(**BEYOND), "0.0.0.0:4002"),
    )  # fmt: skip
    made = create_app(sources, Door())
    yield made
    made.pulses.stop()


def ask(app: ConsoleApp, peer: str, **headers: str) -> testing.Result:
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return testing.TestClient(app).simulate_get(
        "/spend", remote_addr=peer, headers={"Host": "console.example", **told}
    )


@pytest.mark.parametrize(
    ("peer", "headers", "status"),
    [
        ("10.1.2.3", {}, 401),
        ("10.1.2.3", {"X_Forwarded_Proto": "https"}, 401),
        ("10.1.2.3", {"X_Forwarded_Proto": "http"}, 403),
        ("192.0.2.1", {}, 403),
        # It may say what it likes.
        ("192.0.2.1", {"X_Forwarded_Proto": "https", "X_Forwarded_For": "10.1.2.3"}, 403),
        ("127.0.0.1", {}, 401),
        ("10.1.2.3", {"Host": "evil.example"}, 421),
        ("10.1.2.3", {"Host": "console.example.evil.example"}, 421),
        ("10.1.2.3", {"Host": "evil.example", "X_Forwarded_Host": "console.example"}, 421),
        ("10.1.2.3", {"Host": "CONSOLE.example"}, 401),
        ("10.1.2.3", {"Host": "console.example:8443"}, 421),
    ],
)
def test_requests_come_through_the_proxies_and_by_name(
    app: ConsoleApp, peer: str, headers: dict[str, str], status: int
) -> None:
    assert ask(app, peer, **headers).status_code == status


def test_there_is_no_link_beyond_loopback(tmp_path: Path) -> None:
    door = Door()
    sources = Sources(
        local_db="", runtime_dir=str(tmp_path), client_address="",
        reach=reach_of(Settings(**BEYOND), "0.0.0.0:4002"),
    )  # fmt: skip
    app = create_app(sources, door)
    for host in ("console.example", "127.0.0.1", "localhost"):
        answer = testing.TestClient(app).simulate_get(
            f"/sign-in?token={door.link_token}", headers={"Host": host}
        )
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 401),
        ({"Origin": PUBLIC}, 401),
        ({"Origin": "http://console.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": PUBLIC}, 403),
        ({}, 403),
    ],
)
def test_what_changes_something_comes_from_a_page_of_that_name(
    app: ConsoleApp, headers: dict[str, str], status: int
) -> None:
    answer = testing.TestClient(app).simulate_post(
        "/sign-out", remote_addr="10.0.0.1", headers={"Host": "console.example", **headers}
    )
    assert answer.status_code == status


def test_a_console_serves_tls_beyond_loopback(weeks: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    made = authority.issue_cert("localhost", "console.example")
    cert, key, ca = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
    for blob in made.cert_chain_pems:
        blob.write_to_path(cert, append=True)
    made.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    with OpenIdProvider() as provider:
        provider.knows("b", email="boss@b.example", email_verified=True, groups="admins")
        options = (
            "--address", "0.0.0.0:0", "--console-url", PUBLIC,
            "--console-tls-cert-file", str(cert), "--console-tls-key-file", str(key),
            "--oidc-issuer", provider.issuer, "--oidc-client-id", "c", "--oidc-admins", "admins",
        )  # fmt: skip
        secret = {"CODER_AI_GATEWAY_OIDC_CLIENT_SECRET": "s"}
        console = ConsoleProcess(tmp_path, weeks, None, *options, environ=secret)
        console.start(sign_in=False)
        try:
            assert console.url == PUBLIC
            assert console.link == ""
            base = f"https://localhost:{console.port()}"
            browser = requests.Session()
            browser.trust_env, browser.verify = False, str(ca)
            there = browser.get(f"{base}/sign-in/oidc", allow_redirects=False, timeout=PATIENCE)
            assert there.headers["Strict-Transport-Security"]
            answer = browser.get(provider.lets_in(there.headers["Location"], "b"), timeout=PATIENCE)
            assert answer.status_code == 200, answer.text
            cookie = answer.headers["Set-Cookie"]
            assert re.search(r"__Host-aigateway-console-\d+=oidc-.*SameSite=Strict; Secure", cookie)
            assert browser.get(f"{base}/people", timeout=PATIENCE).status_code == 200
        finally:
            assert console.stop() == 0
