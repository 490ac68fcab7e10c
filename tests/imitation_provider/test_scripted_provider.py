"""The scripted provider does what its script says, and records what it was sent."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator

import pytest
import requests
import zstandard

from . import (
    Close,
    Reset,
    ScriptedProvider,
    Send,
    Stall,
    Tell,
    WaitFor,
    answer,
    cut,
    encoded,
    error,
    event,
    head,
    pieces,
    stream,
)

EVENTS = [event({"n": 1}, "first"), event({"n": 2}, "second"), event("[DONE]")]
REQUEST = b"POST /v1/x?y=1 HTTP/1.1\r\nHost: h\r\nx-Odd:  a b \r\nContent-Length: 4\r\n\r\nbody"


@pytest.fixture
def provider():
    with ScriptedProvider() as provider:
        yield provider


def dial(provider: ScriptedProvider) -> socket.socket:
    return socket.create_connection(("127.0.0.1", provider.port), timeout=10)


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def readable(reply: requests.Response, encoding: str | None) -> Iterator[bytes]:
    """The body as it arrives; not every installation of requests reads zstd."""
    if encoding != "zstd":
        return reply.iter_content(None)
    decompress = zstandard.ZstdDecompressor().decompressobj().decompress
    return filter(None, map(decompress, reply.raw.stream(None, decode_content=False)))


def test_a_request_is_recorded_exactly_as_it_was_sent(provider):
    provider.play(answer("ok", framing="close"))
    with dial(provider) as sock:
        sock.sendall(REQUEST)
        assert read_all(sock).endswith(b"\r\n\r\nok")
    (request,) = provider.requests
    assert request.request_line == "POST /v1/x?y=1 HTTP/1.1"
    assert (request.method, request.target) == ("POST", "/v1/x?y=1")
    assert request.headers == [("Host", "h"), ("x-Odd", "a b"), ("Content-Length", "4")]
    assert request.raw_head + request.body == REQUEST
    assert request.header("X-ODD") == "a b"


def test_a_chunked_body_is_kept_with_and_without_its_framing(provider):
    provider.play(answer("ok"))
    framed = b"2;ext=1\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"
    with dial(provider) as sock:
        for piece in pieces(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + framed, 1):
            sock.sendall(piece)
        request = provider.wait_for_request()
    assert request.body == b"abcde"
    assert request.raw_body == framed


def test_requests_on_one_connection_are_told_from_those_on_another(provider):
    provider.otherwise = answer({"ok": True})
    with requests.Session() as session:
        for _ in range(3):
            assert session.get(provider.url).json() == {"ok": True}
    requests.get(provider.url)
    assert [request.connection for request in provider.requests] == [1, 1, 1, 2]
    assert provider.connections == 2
    provider.wait_until_idle()


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("encoding", [None, "gzip", "deflate", "br", "zstd"])
def test_every_framing_and_coding_is_understood_by_a_client(provider, framing, encoding):
    provider.play(answer({"word": "höhe"}, framing=framing, encoding=encoding))
    reply = requests.get(provider.url, stream=True)
    assert reply.headers.get("Content-Encoding") == encoding
    assert json.loads(b"".join(readable(reply, encoding))) == {"word": "höhe"}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_each_event_of_an_encoded_stream_can_be_read_when_it_arrives(provider, encoding):
    gate = threading.Event()
    provider.play(stream([EVENTS[0], WaitFor(gate), *EVENTS[1:]], encoding=encoding))
    with requests.get(provider.url, stream=True) as reply:
        parts = readable(reply, encoding)
        assert next(parts) == EVENTS[0]
        gate.set()
        assert b"".join(parts) == b"".join(EVENTS[1:])


def test_an_unknown_coding_is_refused():
    with pytest.raises(ValueError, match="lzw"):
        encoded(b"", "lzw")


def test_a_script_waits_for_the_test_between_two_bytes(provider):
    gate, reached = threading.Event(), threading.Event()
    provider.play(stream([EVENTS[0][:5], Tell(reached), WaitFor(gate), EVENTS[0][5:]]))
    with requests.get(provider.url, stream=True) as reply:
        parts = reply.iter_content(None)
        assert next(parts) == EVENTS[0][:5]
        assert reached.wait(10)
        gate.set()
        assert next(parts) == EVENTS[0][5:]


def test_a_reset_before_the_head_breaks_the_request(provider):
    provider.play([Reset()])
    with pytest.raises(requests.ConnectionError):
        requests.get(provider.url)
    assert len(provider.requests) == 1


@pytest.mark.parametrize("how", [Reset(), Close()])
@pytest.mark.parametrize("parts", [[], [EVENTS[0]], [EVENTS[0], EVENTS[1][:9]]])
def test_a_stream_cut_anywhere_ends_without_its_final_chunk(provider, parts, how):
    provider.play(cut(parts, how))
    reply = requests.get(provider.url, stream=True)
    seen: list[bytes] = []
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        seen.extend(reply.iter_content(None))
    # A reset may overtake what was sent before it.
    assert b"".join(parts).startswith(b"".join(seen))


def test_a_stall_tells_when_the_client_has_gone(provider):
    stall = Stall()
    provider.play([*stream(EVENTS[:1], end=False), stall])
    with requests.get(provider.url, stream=True) as reply:
        parts = reply.iter_content(None)
        assert next(parts) == EVENTS[0]
        assert not stall.hangup.is_set()
    assert stall.hangup.wait(10)
    assert provider.requests[0].client_left.wait(10)


def test_a_client_that_leaves_while_bytes_are_sent_is_noticed(provider):
    provider.play(stream([b"x" * 65536] * 4096))
    with dial(provider) as sock:
        sock.sendall(REQUEST)
        sock.recv(10)
    assert provider.requests[0].client_left.wait(10)
    assert provider.requests[0].done.wait(10)


def test_an_early_answer_does_not_wait_for_the_body(provider):
    provider.play(error(429, retry_after="7"), early=True)
    with dial(provider) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\nabc")
        assert b"\r\nRetry-After: 7\r\n" in sock.recv(65536)
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""


def test_a_connection_can_be_broken_before_any_request(provider):
    provider.play_on_connect([Reset()])
    with pytest.raises(requests.ConnectionError):
        requests.get(provider.url)
    assert (provider.connections, provider.requests) == (1, [])


def test_a_refusing_provider_can_listen_again_on_its_port(provider):
    provider.otherwise = answer("ok")
    port = provider.port
    provider.refuse()
    with pytest.raises(ConnectionRefusedError):
        dial(provider)
    provider.listen()
    assert provider.port == port
    assert requests.get(provider.url).text == "ok"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, "rate_limit_error"), (529, "overloaded_error"), (500, "api_error")],
)
def test_errors_have_a_status_and_a_body_in_the_apis_shape(provider, status, kind):
    provider.play(error(status))
    reply = requests.get(provider.url)
    assert reply.status_code == status
    assert reply.json()["error"]["type"] == kind
    assert "Retry-After" not in reply.headers


def test_scripts_are_picked_by_what_they_match_and_may_look_at_the_request(provider):
    provider.play(answer("b"), when=lambda request: request.target == "/b")
    provider.play(lambda request: answer({"echo": request.json()}))
    assert requests.post(provider.url + "/a", json=[1]).json() == {"echo": [1]}
    assert provider.unplayed == 1
    assert requests.get(provider.url + "/b").text == "b"
    assert provider.unplayed == 0


def test_any_head_can_be_sent_and_an_expected_continue_is_answered(provider):
    odd = head(299, [("Content-length", "0"), ("X-A", "1"), ("X-A", "2")], reason="Odd One")
    provider.play([Send(odd[:7]), odd[7:]])
    connection = http.client.HTTPConnection("127.0.0.1", provider.port, timeout=10)
    connection.request("POST", "/", body=b"{}", headers={"Expect": "100-continue"})
    reply = connection.getresponse()
    assert (reply.status, reply.reason) == (299, "Odd One")
    assert reply.headers.get_all("X-A") == ["1", "2"]
    connection.close()
    assert json.loads(provider.requests[0].body) == {}


def test_a_request_without_a_script_fails_the_test():
    provider = ScriptedProvider()
    assert requests.get(provider.url).status_code == 500
    with pytest.raises(AssertionError, match="no script for GET /"):
        provider.close()


def test_a_script_that_waits_too_long_fails_the_test():
    provider = ScriptedProvider([WaitFor(threading.Event(), timeout=0)])
    with pytest.raises(requests.ConnectionError):
        requests.get(provider.url)
    with pytest.raises(AssertionError, match="waited"):
        provider.close()


def test_a_step_that_is_none_fails_the_test():
    provider = ScriptedProvider(["text"])
    with pytest.raises(requests.ConnectionError):
        requests.get(provider.url)
    with pytest.raises(AssertionError, match="no step 'text'"):
        provider.close()


@pytest.mark.parametrize("step", [Stall(), WaitFor(threading.Event()), Send(b"x" * 50_000_000)])
def test_closing_ends_a_script_in_the_middle(step):
    provider = ScriptedProvider([step])
    with dial(provider) as sock:
        sock.sendall(REQUEST)
        provider.wait_for_request()
        provider.close()
    assert provider.open_connections == 0


def test_waiting_for_what_does_not_come_says_what_came(provider):
    with pytest.raises(AssertionError, match="request 1: there were 0 connections"):
        provider.wait_for_request(timeout=0)
    with pytest.raises(ValueError, match="framing"):
        answer("", framing="none")
