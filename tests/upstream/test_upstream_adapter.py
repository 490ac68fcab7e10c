"""The transport adapter, mounted on sessions of requests, against a real server."""

from __future__ import annotations

import socket
import ssl
import threading
import time

import pytest
import requests
import trustme
from imitation_provider import Close, Reset, ScriptedProvider, Stall, WaitFor, answer, head, stream
from provider_rig import PATIENCE, until
from upstream_rig import closed_port, listening

from aigateway.actors.upstream.adapter import BodyTimeout, PlainSession, UpstreamAdapter

SHORT = 0.1


@pytest.fixture
def adapter():
    made = UpstreamAdapter()
    yield made
    made.close()


@pytest.fixture
def session(adapter):
    with requests.Session() as made:
        made.trust_env = False
        made.mount("http://", adapter)
        made.mount("https://", adapter)
        yield made


def test_a_request_and_its_answer_are_those_of_requests(scripted_provider, session):
    headers = [("X-Two", "1"), ("X-Two", "2"), ("X-Name", "J\xc3\xbc")]
    scripted_provider.play(answer({"ok": True}, 201, headers))
    reply = session.post(f"{scripted_provider.url}/path", params={"q": "ä b"}, json={"a": 1})
    assert (reply.status_code, reply.reason, reply.json()) == (201, "Created", {"ok": True})
    assert (reply.headers["x-two"], reply.headers["X-Name"]) == ("1, 2", "J\xc3\xbc")
    assert reply.url == f"{scripted_provider.url}/path?q=%C3%A4+b"
    (request,) = scripted_provider.requests
    assert request.request_line == "POST /path?q=%C3%A4+b HTTP/1.1"
    assert request.json() == {"a": 1}
    assert request.header_values("Host") == [scripted_provider.url.removeprefix("http://")]


@pytest.mark.parametrize(
    ("data", "sent"),
    [
        ("größe", "größe".encode()),
        ({"a": "b c"}, b"a=b+c"),
        (b"\x00\xff", b"\x00\xff"),
        (iter([b"one", b"two"]), b"onetwo"),
        (b"", b""),
    ],
    ids=["text", "form", "bytes", "iterator", "nothing"],
)
def test_every_kind_of_body_arrives_whole(scripted_provider, session, data, sent):
    scripted_provider.play(answer("ok"))
    assert session.post(scripted_provider.url, data=data).text == "ok"
    (request,) = scripted_provider.requests
    assert request.body == sent
    assert request.header_values("Content-Length") == [str(len(sent))]
    assert request.header("Transfer-Encoding") is None


def test_files_arrive_as_a_form(scripted_provider, session, tmp_path):
    path = tmp_path / "some.txt"
    path.write_text("content of it")
    scripted_provider.otherwise = answer("ok")
    with path.open("rb") as file:
        assert session.post(scripted_provider.url, data=file).text == "ok"
    with path.open("rb") as file:
        assert session.post(scripted_provider.url, files={"f": file}).text == "ok"
    whole, form = scripted_provider.requests
    assert whole.body == b"content of it"
    assert b'filename="some.txt"\r\n\r\ncontent of it\r\n' in form.body


def test_a_host_of_ones_own_is_sent_instead(scripted_provider, session):
    scripted_provider.play(answer("ok"))
    session.get(scripted_provider.url, headers={"Host": "virtual.example"})
    assert scripted_provider.requests[0].header_values("Host") == ["virtual.example"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_methods_without_a_body_keep_their_connection(scripted_provider, session, method):
    text = b"" if method == "HEAD" else b"ok"
    scripted_provider.otherwise = [head(200, [("Content-Length", "2")]) + text]
    for _ in range(2):
        assert session.request(method, scripted_provider.url).content == text
    assert [request.connection for request in scripted_provider.requests] == [1, 1]


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("encoding", [None, "gzip", "deflate", "br", "zstd"])
def test_content_is_decoded(scripted_provider, session, framing, encoding):
    scripted_provider.play(answer("text " * 10_000, framing=framing, encoding=encoding))
    assert session.get(scripted_provider.url).text == "text " * 10_000


def test_content_that_is_not_what_its_coding_says_is_told(scripted_provider, session):
    scripted_provider.play(answer("plain", headers=[("Content-Encoding", "gzip")]))
    with pytest.raises(requests.exceptions.ContentDecodingError):
        session.get(scripted_provider.url)


def test_an_answer_is_streamed_as_it_comes(scripted_provider, session):
    gate = threading.Event()
    scripted_provider.play(stream([b"first\nsec", WaitFor(gate), b"ond\n"]))
    with session.get(scripted_provider.url, stream=True) as reply:
        lines = reply.iter_lines(chunk_size=None)
        assert next(lines) == b"first"
        gate.set()
        assert list(lines) == [b"second"]


def test_a_body_is_read_in_pieces_of_a_size(scripted_provider, session):
    scripted_provider.otherwise = answer(b"0123456789")
    with session.get(scripted_provider.url, stream=True) as reply:
        assert list(reply.iter_content(4)) == [b"0123", b"4567", b"89"]
    with session.get(scripted_provider.url, stream=True) as reply:
        assert [reply.raw.read(n) for n in (3, None, 1)] == [b"012", b"3456789", b""]
    assert [request.connection for request in scripted_provider.requests] == [1, 1]


def test_redirections_are_followed_on_the_same_connection(scripted_provider, session):
    scripted_provider.play(answer("this way", 302, [("Location", "/second")]))
    scripted_provider.play(answer("this way", 307, [("Location", "/third?x=1")]))
    scripted_provider.play(answer("here"))
    reply = session.get(f"{scripted_provider.url}/first")
    assert (reply.text, [old.status_code for old in reply.history]) == ("here", [302, 307])
    assert reply.url.endswith("/third?x=1")
    assert [request.connection for request in scripted_provider.requests] == [1, 1, 1]


def test_a_redirection_to_another_host_takes_no_credentials_along(scripted_provider, session):
    with ScriptedProvider() as other:
        other.play(answer("here"))
        other_url = other.url.replace("127.0.0.1", "localhost")
        scripted_provider.play(answer("", 307, [("Location", f"{other_url}/x")]))
        reply = session.post(scripted_provider.url, data="body", auth=("me", "geheim"))
        assert reply.text == "here"
        assert other.requests[0].header("Authorization") is None
        assert other.requests[0].body == b"body"
    assert scripted_provider.requests[0].header("Authorization") is not None


def test_a_redirection_without_an_end_is_left(scripted_provider, session):
    scripted_provider.play([head(302, [("Location", "/on"), ("Content-Length", "99")]), Stall()])
    scripted_provider.play(answer("here"))
    assert session.get(scripted_provider.url).text == "here"
    assert [request.connection for request in scripted_provider.requests] == [1, 2]


def test_too_many_redirections_are_told(scripted_provider, session):
    scripted_provider.otherwise = answer("", 302, [("Location", "/again")])
    session.max_redirects = 3
    with pytest.raises(requests.TooManyRedirects):
        session.get(scripted_provider.url)


def test_cookies_are_kept_for_the_session(scripted_provider, session):
    cookies = [("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2; Path=/")]
    scripted_provider.play(answer("ok", headers=cookies))
    scripted_provider.play(answer("ok"))
    assert session.get(scripted_provider.url).cookies.get_dict() == {"a": "1", "b": "2"}
    session.get(scripted_provider.url)
    assert scripted_provider.requests[1].header("Cookie") == "a=1; b=2"


# -- what goes wrong


def test_a_head_that_does_not_come_in_time_is_a_read_timeout(scripted_provider, session):
    scripted_provider.play([Stall()])
    with pytest.raises(requests.ReadTimeout, match=r"no answer within 0\.1 s"):
        session.get(scripted_provider.url, timeout=(5.0, SHORT))


def test_a_body_that_falls_silent_is_told_and_its_connection_closed(scripted_provider, session):
    hangup = threading.Event()
    scripted_provider.play([*stream([b"some"], end=False), Stall(hangup)])
    reply = session.get(scripted_provider.url, timeout=SHORT, stream=True)
    parts = reply.iter_content(None)
    assert next(parts) == b"some"
    with pytest.raises(BodyTimeout, match="was silent for") as caught:
        next(parts)
    assert isinstance(caught.value, requests.Timeout)
    assert isinstance(caught.value, requests.ConnectionError)
    assert hangup.wait(PATIENCE)


def test_without_a_timeout_an_answer_is_waited_for(scripted_provider, session):
    gate = threading.Event()
    scripted_provider.play([WaitFor(gate), *answer("late")])
    threading.Timer(SHORT, gate.set).start()
    assert session.get(scripted_provider.url).text == "late"


def test_a_connection_that_is_not_made_in_time_is_a_connect_timeout(session):
    release = threading.Event()
    with listening(lambda _sock: release.wait(PATIENCE) and None) as port:
        with pytest.raises(requests.ConnectTimeout, match="was not ready within"):
            session.get(f"https://127.0.0.1:{port}", timeout=(SHORT, 5.0))
        release.set()


def test_a_refused_connection_is_a_connection_error(session):
    with pytest.raises(requests.ConnectionError, match="Connection refused"):
        session.get(f"http://127.0.0.1:{closed_port()}")


@pytest.mark.parametrize("steps", [[Close()], [Reset()], [b"nonsense\r\n\r\n", Close()]])
def test_no_answer_is_a_connection_error(scripted_provider, session, steps):
    scripted_provider.play(steps)
    with pytest.raises(requests.ConnectionError) as caught:
        session.get(scripted_provider.url)
    assert caught.value.request.url.startswith(scripted_provider.url)


@pytest.mark.parametrize("how", [Close(), Reset()])
def test_a_cut_body_is_a_chunked_encoding_error(scripted_provider, session, how):
    scripted_provider.play([*stream([b"some"], end=False), how])
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="upstream"):
        session.get(scripted_provider.url)


def test_a_request_that_cannot_be_written_is_not_sent(scripted_provider, session):
    request = session.prepare_request(requests.Request("GET", scripted_provider.url))
    request.headers["X-A"] = "Łukasz"
    with pytest.raises(requests.exceptions.InvalidHeader, match="a header of the request"):
        session.send(request)
    assert scripted_provider.connections == 0


# -- connections


def test_connections_are_shared_by_threads_one_request_on_each(scripted_provider, session):
    gate = threading.Event()
    for text in ("one", "two"):
        scripted_provider.play([WaitFor(gate), *answer(text)])
    texts = []
    threads = [
        threading.Thread(target=lambda: texts.append(session.get(scripted_provider.url).text))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    scripted_provider.wait_for_request(2)
    gate.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(texts) == ["one", "two"]
    assert sorted(request.connection for request in scripted_provider.requests) == [1, 2]
    scripted_provider.play(answer("three"))
    assert session.get(scripted_provider.url).text == "three"
    assert scripted_provider.connections == 2


def test_an_answer_that_is_closed_early_takes_its_connection_along(scripted_provider, session):
    hangup = threading.Event()
    scripted_provider.play([*stream([b"some"], end=False), Stall(hangup)])
    session.get(scripted_provider.url, stream=True).close()
    assert hangup.wait(PATIENCE)


def test_a_closed_session_keeps_no_connection(scripted_provider, session):
    scripted_provider.play(answer("ok"))
    session.get(scripted_provider.url)
    assert scripted_provider.open_connections == 1
    session.close()
    until(lambda: scripted_provider.open_connections == 0)


def test_idle_connections_are_closed_when_that_is_asked_for(scripted_provider, session, adapter):
    scripted_provider.play(answer("ok"))
    before = time.monotonic()
    session.get(scripted_provider.url)
    again = adapter.close_idle(60.0)
    assert before + 60.0 <= again <= time.monotonic() + 60.0
    assert adapter.close_idle() is None
    until(lambda: scripted_provider.open_connections == 0)


def test_a_connection_that_was_closed_while_idle_is_not_used(scripted_provider, session):
    gate = threading.Event()
    scripted_provider.play([*answer("ok"), WaitFor(gate), Close()])
    scripted_provider.play(answer("fresh"))
    assert session.get(scripted_provider.url).text == "ok"
    gate.set()
    until(lambda: scripted_provider.open_connections == 0)
    assert session.post(scripted_provider.url, data="x").text == "fresh"


def test_a_request_is_broken_off_from_another_thread(scripted_provider, session, adapter):
    scripted_provider.play([Stall()])
    request = session.prepare_request(requests.Request("GET", scripted_provider.url))
    adapter.interrupt(request)
    threading.Thread(
        target=lambda: (scripted_provider.wait_for_request(), adapter.interrupt(request))
    ).start()
    with pytest.raises(requests.ConnectionError):
        session.send(request, timeout=PATIENCE)


def test_a_request_that_is_over_takes_no_other_along(scripted_provider, session, adapter):
    gate = threading.Event()
    scripted_provider.play(answer("first"))
    scripted_provider.play([WaitFor(gate), *answer("second")])
    first = session.prepare_request(requests.Request("GET", scripted_provider.url))
    assert session.send(first).text == "first"
    texts = []
    thread = threading.Thread(target=lambda: texts.append(session.get(scripted_provider.url).text))
    thread.start()
    scripted_provider.wait_for_request(2)
    adapter.interrupt(first)
    gate.set()
    thread.join(PATIENCE)
    assert texts == ["second"]
    assert [request.connection for request in scripted_provider.requests] == [1, 1]


# -- TLS and proxies


def test_certificates_are_verified(tls_provider, session, ca_file, tmp_path):
    tls_provider.otherwise = answer("ok")
    with pytest.raises(requests.exceptions.SSLError, match="certificate verify failed"):
        session.get(tls_provider.url)
    assert session.get(tls_provider.url, verify=ca_file).text == "ok"
    assert session.get(tls_provider.url, verify=False).text == "ok"
    # What was opened without verifying carries nothing that is to be verified.
    with pytest.raises(requests.exceptions.SSLError):
        session.get(tls_provider.url)
    with pytest.raises(requests.ConnectionError, match="cannot read the CA file"):
        session.get(tls_provider.url, verify=str(tmp_path / "missing.pem"))


def test_a_clients_certificate_is_shown(authority: trustme.CA, session, ca_file, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    path = tmp_path / "client.pem"
    authority.issue_cert("me@example.org").private_key_and_cert_chain_pem.write_to_path(path)
    with ScriptedProvider(tls=context) as provider:
        provider.otherwise = answer("ok")
        with pytest.raises(requests.ConnectionError):
            session.get(provider.url, verify=ca_file)
        assert session.get(provider.url, verify=ca_file, cert=str(path)).text == "ok"


def test_a_plain_request_goes_through_the_proxy(scripted_provider, session):
    scripted_provider.play(answer("ok"))
    proxy = scripted_provider.url.replace("//", "//me:geheim@")
    assert session.get("http://up.example:8080/x", proxies={"http": proxy}).text == "ok"
    (request,) = scripted_provider.requests
    assert request.request_line == "GET http://up.example:8080/x HTTP/1.1"
    assert request.header("Host") == "up.example:8080"
    assert request.header_values("Proxy-Authorization") == ["Basic bWU6Z2VoZWlt"]


def test_the_environments_proxy_is_used_where_sessions_say_so(
    scripted_provider, session, monkeypatch
):
    scripted_provider.play(answer("ok"))
    monkeypatch.setenv("http_proxy", scripted_provider.url)
    monkeypatch.setenv("no_proxy", "")
    session.trust_env = True
    assert session.get("http://up.example/x").text == "ok"
    with PlainSession() as plain, pytest.raises(requests.ConnectionError, match="refused"):
        plain.get(f"http://127.0.0.1:{closed_port()}/x")


def test_a_proxy_that_is_away_or_refuses_is_told_without_its_password(session):
    def refuse(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")

    with listening(refuse) as port:
        for proxied, text in ((port, "407"), (closed_port(), "Connection refused")):
            proxy = f"http://me:geheim@127.0.0.1:{proxied}"
            with pytest.raises(requests.exceptions.ProxyError, match=text) as caught:
                session.get("https://up.example", proxies={"https": proxy})
            assert "geheim" not in str(caught.value)


# -- answers as they come


def test_a_plain_session_follows_and_keeps_nothing(scripted_provider):
    headers = [("Location", "/elsewhere"), ("Set-Cookie", "a=1; Path=/")]
    scripted_provider.otherwise = answer("this way", 302, headers)
    with PlainSession() as session:
        for _ in range(2):
            assert session.get(scripted_provider.url).status_code == 302
    assert [request.header("Cookie") for request in scripted_provider.requests] == [None, None]
    assert [request.target for request in scripted_provider.requests] == ["/", "/"]
