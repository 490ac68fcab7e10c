"""What is sent upstream, and answers that come before all of it is."""

from __future__ import annotations

import socket
import threading

import pytest
from imitation_provider import (
    Close,
    WaitFor,
    answer,
    head,
)
from provider_rig import OWN, PATIENCE, read_all, running, until
from upstream_rig import begin

from aigateway.actors.upstream.errors import (
    HeadCut,
    SendFailed,
    Unsendable,
)
from aigateway.actors.upstream.exchange import request_head
from aigateway.actors.upstream.kept import HeaderPairs, prepare

LENGTH = head(200, [("Content-Length", "5")])
CHUNKED = head(200, [("Transfer-Encoding", "chunked")])
EARLY = 24 << 20
"""Bytes of a request that no socket buffer on the way can hold."""


def test_a_request_is_sent_exactly_as_given(scripted_provider, kept):
    scripted_provider.play(answer("ok"))
    headers = HeaderPairs([("X-b", "1"), ("x-B", "2"), ("X-Name", "J\xc3\xbc"), ("X-Empty", "")])
    url = "http://elsewhere:1/a%2Fb/c?x=%20&y"
    read_all(kept.exchange(prepare("GET", url, headers, b""), 10.0))
    (request,) = scripted_provider.requests
    assert request.request_line == "GET /a%2Fb/c?x=%20&y HTTP/1.1"
    host = ("Host", f"127.0.0.1:{scripted_provider.port}")
    expected = [host, ("X-b", "1"), ("x-B", "2"), ("X-Name", "J\xc3\xbc"), ("X-Empty", "")]
    assert request.headers == expected


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "Łukasz"])
def test_a_header_that_no_request_may_have_is_refused_without_its_value(value):
    with pytest.raises(ValueError, match="a header of the request") as caught:
        request_head("GET", "/", "h", [("X-A", value)])
    assert value not in str(caught.value)


def test_an_unsendable_request_opens_no_connection(scripted_provider, kept):
    with pytest.raises(Unsendable):
        kept.exchange(prepare("GET", "http://h/", HeaderPairs([("A", "\n")]), b""), 1.0)
    assert scripted_provider.connections == 0


@pytest.mark.parametrize("size", [0, 16 * 1024, 16 * 1024 + 1, 3 << 20])
def test_a_body_of_any_size_arrives(scripted_provider, kept, size):
    scripted_provider.play(answer("ok"))
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert read_all(begin(kept, body)) == b"ok"
    assert scripted_provider.requests[0].body == body


# -- answers before the request is sent


def server_that(
    answers: bytes, *, reads: int, reset: bool
) -> tuple[socket.socket, threading.Thread]:
    """Accepts one connection, reads some bytes, answers, and closes with a reset or not."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        sock, _ = listener.accept()
        with sock, listener:
            seen = 0
            while seen < reads:
                seen += len(sock.recv(65536))
            sock.sendall(answers)
            if not reset:
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
            # Closing with unread bytes resets the connection.

    thread = threading.Thread(target=serve)
    thread.start()
    return listener, thread


@pytest.mark.parametrize("reset", [False, True])
def test_an_answer_that_comes_before_the_request_is_sent_counts(keeping, reset):
    too_large = head(413, [("Content-Length", "9")]) + b"too large"
    listener, thread = server_that(too_large, reads=1, reset=reset)
    kept = keeping(listener.getsockname()[1])
    exchange = begin(kept, b"x" * EARLY)
    assert exchange.status == 413
    assert read_all(exchange) == b"too large"
    connection = exchange.connection
    until(lambda: not (exchange.reusable and connection.is_alive()))
    exchange.close()
    thread.join(PATIENCE)


def test_an_early_answer_is_seen_while_the_connection_stays_open(scripted_provider, kept):
    over = threading.Event()
    scripted_provider.play([*answer("go away", 401), WaitFor(over)], early=True)
    exchange = begin(kept, b"x" * EARLY)
    assert exchange.status == 401
    assert read_all(exchange) == b"go away"
    assert not exchange.reusable
    over.set()


def test_an_interim_answer_does_not_stop_the_sending(keeping):
    listener = socket.create_server(("127.0.0.1", 0))
    received = bytearray()

    def serve() -> None:
        sock, _ = listener.accept()
        with sock, listener:
            sock.recv(1)
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            # Long enough for the sender to wait and listen.
            threading.Event().wait(0.6)
            while len(received) < EARLY:
                received.extend(sock.recv(1 << 20))
            sock.sendall(LENGTH + b"hello")

    thread = threading.Thread(target=serve)
    thread.start()
    kept = keeping(listener.getsockname()[1])
    exchange = begin(kept, b"x" * EARLY)
    assert (exchange.status, read_all(exchange)) == (200, b"hello")
    assert exchange.reusable
    thread.join(PATIENCE)


@pytest.mark.parametrize("reset", [False, True])
def test_an_upstream_that_breaks_off_without_a_word_is_told(keeping, reset):
    listener, thread = server_that(b"", reads=1, reset=reset)
    # All was sent when the peer went on reading; both are said of the same upstream.
    with pytest.raises((SendFailed, HeadCut), match=r"the upstream (broke off|closed)") as caught:
        begin(keeping(listener.getsockname()[1]), b"x" * EARLY)
    assert caught.value.sent
    thread.join(PATIENCE)


def test_an_upstream_that_takes_no_more_is_told(scripted_provider, kept, monkeypatch):
    monkeypatch.setattr("aigateway.actors.upstream.sending.SEND_PATIENCE", 0.5)
    release = threading.Event()
    scripted_provider.play([WaitFor(release), Close()], early=True)
    with pytest.raises(SendFailed, match=r"took no byte of the request within 0\.5 s"):
        begin(kept, b"x" * EARLY)
    release.set()


def test_the_worker_relays_an_early_answer(scripted_provider):
    scripted_provider.play(answer("too large", 413), early=True)
    with running(scripted_provider.url) as rig:
        assert rig.call(body=b"x" * EARLY, credential=OWN) == (413, b"too large")
        rig.settle()
