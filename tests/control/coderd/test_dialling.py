"""Reaching coderd: address, headers, refusals, versions, redirects."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import websocket
from coderd_dial import dialled, refused, settings, unreachable
from fake_coderd import FakeCoderd

from aigateway.actors.control.coderd._wire_socket import Wire
from aigateway.actors.control.coderd.dial import Dialer, DialError, DialSettings, serve_url
from aigateway.actors.control.coderd.versions import ApiVersion


@pytest.fixture
def coderd() -> Iterator[FakeCoderd]:
    with FakeCoderd() as coderd:
        yield coderd


# -- the request


def test_the_request_names_key_build_and_version(coderd: FakeCoderd) -> None:
    with dialled(coderd, build_version="v9.8.7", headers={"X-Edge": "pass"}) as (_, version):
        assert version == (1, 4)
    (request,) = coderd.requests
    assert request.target == "/api/v2/ai-gateway/serve?version=1.4"
    assert request.headers["x-coder-ai-governance-gateway-key"] == "gateway-key"
    assert request.headers["x-coder-build-version"] == "v9.8.7"
    assert request.headers["user-agent"] == "aigateway/v9.8.7"
    assert request.headers["x-edge"] == "pass"
    assert request.headers["host"] == f"127.0.0.1:{coderd.port}"
    assert "origin" not in request.headers
    assert "sec-websocket-protocol" not in request.headers
    assert "sec-websocket-extensions" not in request.headers


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("http://coder.example", "http://coder.example/p?version=1.4"),
        ("https://coder.example:8443/prefix/", "https://coder.example:8443/p?version=1.4"),
        ("https://user:secret@coder.example?x=y#z", "https://coder.example/p?version=1.4"),
        ("http://[::1]:3000", "http://[::1]:3000/p?version=1.4"),
    ],
)
def test_only_scheme_host_and_port_of_the_url_count(base: str, expected: str) -> None:
    assert serve_url(base, "/p", ApiVersion(1, 4)) == expected


@pytest.mark.parametrize(
    "url", ["", "coder.example", "ftp://coder.example", "http://", "http://h:99999", "http://[::"]
)
def test_a_url_that_is_none_is_refused_by_name(url: str) -> None:
    with pytest.raises(DialError, match=r"--url, CODER_URL") as caught:
        DialSettings(url=url, key="k")
    assert caught.value.fatal


@pytest.mark.parametrize("key", ["one\ntwo", "one\r", "schlüssel", "nul\0"])
def test_a_key_that_is_no_header_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(DialError, match="--key, --key-file") as caught:
        DialSettings(url="http://x", key=key)
    assert key not in str(caught.value)


def test_a_header_that_is_none_is_refused() -> None:
    with pytest.raises(DialError, match="headers must be one line"):
        DialSettings(url="http://x", key="k", headers={"X-A": "b\r\nX-C: d"})


def test_secrets_are_not_in_the_repr() -> None:
    shown = repr(
        DialSettings(url="http://x", key="hush", headers={"a": "hush"}, proxy="http://u:hush@p")
    )
    assert "hush" not in shown


# -- refusals


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refusal_is_told_as_coderd_tells_it(coderd: FakeCoderd, status: int) -> None:
    body = {
        "message": "No entry.",
        "detail": "Not today.",
        "validations": [{"field": "a", "detail": "too short"}, {"field": "b", "detail": "odd"}],
    }
    coderd.refuse(status, body)
    error = refused(coderd)
    assert str(error) == (
        f"GET {coderd.url}/api/v2/ai-gateway/serve?version=1.4: "
        f"unexpected status code {status}: No entry.\n"
        "\tError: Not today.\n\ta: too short\n\tb: odd"
    )
    assert error.fatal
    assert (error.status, error.message, error.detail) == (status, "No entry.", "Not today.")
    assert [(item.field, item.detail) for item in error.validations] == [
        ("a", "too short"),
        ("b", "odd"),
    ]
    assert len(coderd.requests) == 1


@pytest.mark.parametrize("status", [402, 409, 429, 500, 502, 503])
def test_other_statuses_may_pass(coderd: FakeCoderd, status: int) -> None:
    coderd.refuse(status, {"message": "later"})
    assert not refused(coderd).fatal


def test_an_invalid_key_is_fatal(coderd: FakeCoderd) -> None:
    error = refused(coderd, key="wrong")
    assert error.fatal
    assert str(error).endswith("unexpected status code 401: AI Gateway key invalid.")


def test_a_missing_licence_is_fatal(coderd: FakeCoderd) -> None:
    coderd.refuse(403, {"message": "AI Gateway is a Premium feature."})
    assert refused(coderd).fatal


@pytest.mark.parametrize(
    ("body", "message", "detail"),
    [
        ("<html>Bad\n Gateway</html>", 'unexpected non-JSON response "text/plain', "<html>Bad"),
        (b"\xff\xfe\x00", 'unexpected non-JSON response "text/plain', ""),
        (b"[1, 2]", 'unexpected non-JSON response "text/plain', "[1, 2]"),
        (b'{"error": "no message"}', "the response has no message", '{"error": "no message"}'),
        (b'{"message": 7}', "the response has no message", ""),
        (b"", 'unexpected non-JSON response "text/plain', ""),
        (b"x" * 5000, 'unexpected non-JSON response "text/plain', "x" * 512 + "..."),
    ],
)
def test_an_answer_that_is_not_coderds_keeps_its_status(
    coderd: FakeCoderd, body: bytes | str, message: str, detail: str
) -> None:
    coderd.refuse(502, body)
    error = refused(coderd)
    assert error.status == 502
    assert error.message.startswith(message)
    assert error.detail.startswith(detail)
    assert "\n" not in error.detail


@pytest.mark.parametrize("validations", ["x", [1, "y"], [{"field": 3}], {"field": "a"}])
def test_validations_of_another_shape_do_no_harm(coderd: FakeCoderd, validations: Any) -> None:
    coderd.refuse(400, {"message": "m", "validations": validations})
    assert refused(coderd).message == "m"


def test_a_chunked_answer_is_read(coderd: FakeCoderd) -> None:
    coderd.refuse_with(
        b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\n"
        b'Transfer-Encoding: chunked\r\n\r\n9\r\n{"message\r\n8\r\n": "no"}\r\n0\r\n\r\n'
    )
    assert refused(coderd).message == "no"


def test_an_answer_that_ends_with_the_connection_is_read(coderd: FakeCoderd) -> None:
    coderd.refuse_with(b'HTTP/1.0 401 Unauthorized\r\n\r\n{"message": "who?"}')
    assert refused(coderd).message == "who?"


def test_an_answer_that_breaks_off_keeps_its_status(coderd: FakeCoderd) -> None:
    coderd.refuse_with(b'HTTP/1.1 503 Busy\r\nContent-Length: 500\r\n\r\n{"message": "ha')
    error = refused(coderd)
    assert error.status == 503
    assert error.detail == '{"message": "ha'


def test_an_answer_in_an_unknown_http_keeps_its_status(coderd: FakeCoderd) -> None:
    coderd.refuse_with(b"HTTP/9.9 500 What\r\n\r\n")
    error = refused(coderd)
    assert error.status == 500
    assert error.message == 'unexpected non-JSON response ""'


def test_an_endless_answer_is_given_up(coderd: FakeCoderd) -> None:
    coderd.refuse_with(b"HTTP/1.1 500 No\r\nContent-Length: 99999999\r\n\r\n" + b"x" * (1 << 18))
    assert refused(coderd).status == 500


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 101 Sure\r\n\r\n",
        b"HTTP/1.1 101 Sure\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: bm90IHRoaXM=\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBroken\r\n",
        b"\xff\xff\xff\xff",
    ],
)
def test_an_answer_that_is_no_http_is_a_dial_error(coderd: FakeCoderd, answer: bytes) -> None:
    coderd.refuse_with(answer)
    with pytest.raises(DialError) as caught:
        Dialer(settings(coderd)).dial()
    assert not caught.value.fatal
    assert str(caught.value).startswith(f"GET {coderd.url}/api/v2/ai-gateway/serve?version=1.4: ")


def test_a_server_that_says_nothing_is_given_up(coderd: FakeCoderd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "timed out" in str(unreachable(coderd, url=url, timeout=0.2))


def test_nothing_is_read_after_the_time_is_over() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"late")
        with pytest.raises(TimeoutError):
            Wire(ours, time.monotonic() - 1.0).recv(1)


def test_a_library_that_takes_a_redirect_for_an_upgrade_is_seen_through(
    coderd: FakeCoderd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket.WebSocket, "connect", lambda self, *args, **options: None)
    assert str(unreachable(coderd)).endswith(": no upgrade")


def test_a_server_that_drips_is_given_up(coderd: FakeCoderd) -> None:
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            peer, _ = listener.accept()
            with peer, contextlib.suppress(OSError):
                while not stop.wait(0.02):
                    peer.sendall(b"H")

        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert "timed out" in str(unreachable(coderd, url=url, timeout=0.3))
        stop.set()
        thread.join()


def test_nobody_listening_is_a_dial_error(coderd: FakeCoderd) -> None:
    coderd.stop()
    error = unreachable(coderd)
    assert not error.fatal
    assert "refused" in str(error)


# -- paths and versions


def test_the_older_path_is_tried_when_the_newer_is_missing(coderd: FakeCoderd) -> None:
    coderd.paths = ("/api/v2/aibridge/serve",)
    with dialled(coderd):
        pass
    assert [request.path for request in coderd.requests] == [
        "/api/v2/ai-gateway/serve",
        "/api/v2/aibridge/serve",
    ]


def test_neither_path_is_fatal(coderd: FakeCoderd) -> None:
    coderd.paths = ()
    error = refused(coderd)
    assert error.fatal
    assert "/api/v2/ai-gateway/serve" in str(error)
    assert len(coderd.requests) == 2


def test_the_older_path_may_refuse_too(coderd: FakeCoderd) -> None:
    coderd.paths = ("/api/v2/aibridge/serve",)
    error = refused(coderd, key="wrong")
    assert error.status == 401


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "1.3"])
def test_an_older_coderd_is_spoken_to_in_its_version(coderd: FakeCoderd, version: str) -> None:
    coderd.version = version
    with dialled(coderd) as (_, agreed):
        assert str(agreed) == version
    assert [request.target.partition("=")[2] for request in coderd.requests] == ["1.4", version]


def test_an_upgraded_coderd_is_spoken_to_in_the_newer_version(coderd: FakeCoderd) -> None:
    dialer = Dialer(settings(coderd))
    agreed = []
    for version in ("1.0", "1.4"):
        coderd.version = version
        channel, found = dialer.dial()
        channel.release()
        agreed.append(str(found))
    assert agreed == ["1.0", "1.4"]


@pytest.mark.parametrize("version", ["2.0", "0.9", "1.4", "1.9", "one.two", "1", "1.-2", ""])
def test_a_version_that_cannot_be_agreed_on_is_fatal(coderd: FakeCoderd, version: str) -> None:
    coderd.refuse(
        400,
        {
            "message": "Incompatible or unparsable version",
            "validations": [{"field": "server_api_version", "detail": version}],
        },
    )
    error = refused(coderd)
    assert error.fatal
    assert len(coderd.requests) == 1


def test_versions_say_what_they_have() -> None:
    assert not ApiVersion(1, 0).has_providers
    assert not ApiVersion(1, 0).may_have_budgets
    assert ApiVersion(1, 1).has_providers
    assert ApiVersion(1, 1).may_have_budgets
    assert not ApiVersion(1, 1).has_watch
    assert ApiVersion(1, 2).has_watch
    assert not ApiVersion(1, 3).has_model_authorization
    assert ApiVersion(1, 4).has_model_authorization


# -- redirects


def redirect(location: str, status: int = 307) -> bytes:
    return f"HTTP/1.1 {status} Go\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


def test_a_redirect_on_the_same_host_is_followed(coderd: FakeCoderd) -> None:
    with FakeCoderd() as other:
        target = f"{other.url}/api/v2/ai-gateway/serve?version=1.4"
        coderd.refuse_with(redirect(target))
        with dialled(coderd):
            assert len(other.requests) == 1


@pytest.mark.parametrize(
    "location", ["http://evil.example/steal", "ftp://127.0.0.1/", "", "http://[::"]
)
def test_the_key_is_not_taken_to_another_host(coderd: FakeCoderd, location: str) -> None:
    coderd.refuse_with(redirect(location))
    error = refused(coderd)
    assert error.status == 307
    assert not error.fatal
    assert error.message == f"redirected to {location or 'nowhere'}"


def test_redirects_do_not_go_on_for_ever(coderd: FakeCoderd) -> None:
    coderd.refuse_with(redirect("/api/v2/ai-gateway/serve"))
    assert refused(coderd).status == 307
    assert len(coderd.requests) == 4
