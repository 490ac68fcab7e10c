"""What one exchange makes of everything an upstream may answer."""

from __future__ import annotations

import threading

import pytest
from attrs import frozen
from imitation_provider import (
    Close,
    Reset,
    Stall,
    Step,
    Tell,
    WaitFor,
    answer,
    chunk,
    head,
    pieces,
    stream,
)
from provider_rig import PATIENCE, read_all, until
from upstream_rig import begin

from aigateway.actors.upstream import kept as kept_module
from aigateway.actors.upstream.errors import (
    AnswerTimeout,
    GatewayEnds,
    HeadCut,
    Quiet,
    UpstreamCut,
)
from aigateway.actors.upstream.exchange import MAX_HEAD, idle_limit

LENGTH = head(200, [("Content-Length", "5")])
CHUNKED = head(200, [("Transfer-Encoding", "chunked")])
EARLY = 24 << 20
"""Bytes of a request that no socket buffer on the way can hold."""


@frozen
class Whole:
    """An answer that ends well."""

    name: str
    steps: list[Step]
    body: bytes = b"hello"
    status: int = 200
    complete: bool = True
    reusable: bool = True
    method: str = "POST"


WHOLE = [
    Whole("with a length", [LENGTH + b"hello"]),
    Whole("chunked", [CHUNKED + chunk(b"hel") + chunk(b"lo") + b"0\r\n\r\n"]),
    Whole("with trailers", [CHUNKED + chunk(b"hello") + b"0\r\nX-Sum: 1\r\n\r\n"]),
    Whole("empty", [head(200, [("Content-Length", "0")])], b""),
    Whole("204", [head(204)], b"", 204),
    Whole("304", [head(304, [("Content-Length", "9")])], b"", 304),
    Whole("after 100", [b"HTTP/1.1 100 Continue\r\n\r\n", LENGTH + b"hello"]),
    Whole(
        "after 103",
        [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3 + LENGTH + b"hello"],
    ),
    Whole(
        "that offers an upgrade",
        [head(200, [("Upgrade", "h2c"), ("Connection", "Upgrade"), ("Content-Length", "5")])
         + b"hello"],
    ),
    Whole("that will close", [head(200, [("Connection", "close"), ("Content-Length", "5")])
          + b"hello"], reusable=False),
    Whole("of HTTP/1.0", [b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"], reusable=False),
    Whole("ended by closing", [head(200) + b"hel", b"lo", Close()], complete=False, reusable=False),
    Whole(
        "of another coding, ended by closing",
        [head(200, [("Transfer-Encoding", "gzip")]) + b"hello", Close()],
        complete=False,
        reusable=False,
    ),
    Whole("to HEAD", [head(200, [("Content-Length", "5")])], b"", method="HEAD"),
    Whole("to HEAD, chunked", [CHUNKED], b"", method="HEAD"),
    Whole("to HEAD, with a body", [LENGTH + b"hello"], b"", method="HEAD", reusable=False),
    Whole("with a second one", [(LENGTH + b"hello") * 2], reusable=False),
    Whole("with half a second one", [LENGTH + b"helloHTTP/1.1 2"], reusable=False),
    Whole("with bytes behind it", [LENGTH + b"hello there"], reusable=False),
]  # fmt: skip


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.name)
@pytest.mark.parametrize("size", [0, 1, 7])
def test_an_answer_is_read_to_its_end(scripted_provider, kept, case, size):
    steps = []
    for step in case.steps:
        data = step if isinstance(step, bytes) else None
        steps.extend([step] if data is None or not size else pieces(data, size))
    scripted_provider.play(steps)
    exchange = begin(kept, method=case.method)
    assert exchange.status == case.status
    assert read_all(exchange) == case.body
    assert exchange.complete is case.complete
    if not case.reusable and size:
        # What is not wanted may not have arrived: then it is found before the next request.
        connection = exchange.connection
        until(lambda: not (exchange.reusable and connection.is_alive()))
    else:
        assert exchange.reusable is case.reusable


def test_headers_are_kept_as_they_came_and_trailers_are_not_added(scripted_provider, kept):
    fields = [("X-Odd", "a b"), ("x-odd", ""), ("Set-Cookie", "caf\xe9"), ("Set-Cookie", "2")]
    framing = [("Transfer-Encoding", "chunked")]
    scripted_provider.play(
        [head(299, [*fields, *framing], reason="Odd One"), chunk(b"x"), b"0\r\nX-Late: 1\r\n\r\n"]
    )
    exchange = begin(kept)
    assert read_all(exchange) == b"x"
    assert (exchange.status, exchange.reason) == (299, "Odd One")
    assert [*exchange.headers] == [*fields, *framing]


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([Close()], "closed the connection before its answer"),
        ([Reset()], "broke off before its answer: Connection reset by peer"),
        ([LENGTH[:9], Close()], "closed the connection before its answer"),
        ([LENGTH[:9], Reset()], "broke off before its answer"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", Close()], "closed the connection before its answer"),
        ([b"SSH-2.0-OpenSSH_9.9\r\n", Close()], "is not HTTP"),
        ([b"HTTP/1.1 abc OK\r\n\r\n", Close()], "is not HTTP"),
        ([b"HTTP/1.1 099 Odd\r\n\r\n", Close()], "is not HTTP"),
        (
            [
                head(101, [("Upgrade", "websocket"), ("Connection", "Upgrade")]),
                Close(),
            ],
            "is not HTTP",
        ),
        (
            [
                head(200, [("Content-Length", "1"), ("Content-Length", "2")]),
                Close(),
            ],
            "is not HTTP",
        ),
        ([b"HTTP/1.1 200 OK\r\nX: " + b"x" * (MAX_HEAD + 70000), Stall()], "is over 262144 bytes"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" * 15000, Stall()], "is over 262144 bytes"),
    ],
)
def test_a_head_that_does_not_come_is_told(scripted_provider, kept, steps, text):
    scripted_provider.play(steps)
    with pytest.raises(HeadCut, match=text) as caught:
        begin(kept)
    assert caught.value.sent


def test_a_large_head_is_read(scripted_provider, kept):
    value = "x" * 200_000
    scripted_provider.play(answer("ok", headers=[("X-Large", value)]))
    exchange = begin(kept)
    assert dict(exchange.headers)["X-Large"] == value
    assert read_all(exchange) == b"ok"


def test_a_head_that_takes_too_long_is_told(scripted_provider, kept):
    stall = Stall()
    scripted_provider.play([LENGTH[:9], stall])
    with pytest.raises(AnswerTimeout, match=r"gave no answer within 0\.05 s"):
        begin(kept, timeout=0.05)
    assert stall.hangup.wait(PATIENCE)


@pytest.mark.parametrize("how", [Close(), Reset()])
@pytest.mark.parametrize("start", [LENGTH + b"hel", CHUNKED + chunk(b"hel"), CHUNKED + b"9\r\nhel"])
def test_a_cut_body_is_told_after_what_had_come(scripted_provider, kept, start, how):
    arrived = threading.Event()
    scripted_provider.play([start, WaitFor(arrived), how])
    exchange = begin(kept)
    exchange.set_quiet(PATIENCE)
    assert exchange.read() == b"hel"
    arrived.set()
    with pytest.raises(UpstreamCut):
        exchange.read()
    assert not exchange.complete
    assert not exchange.reusable
    with pytest.raises(UpstreamCut):
        exchange.read()


@pytest.mark.parametrize("start", [LENGTH, CHUNKED + b"9\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_an_answer_whose_headers_are_forgotten_ends_as_they_said(scripted_provider, kept, start):
    arrived = threading.Event()
    scripted_provider.play([start + b"hel", WaitFor(arrived), Close()])
    exchange = begin(kept)
    exchange.forget_headers()
    assert exchange.headers == ()
    exchange.set_quiet(PATIENCE)
    assert exchange.read() == b"hel"
    arrived.set()
    if start.endswith(b"OK\r\n\r\n"):
        assert exchange.read() == b""
    else:
        with pytest.raises(UpstreamCut):
            exchange.read()


@pytest.mark.parametrize(("told", "seconds"), [(b"60", 54), (b"0", 0)])
def test_how_long_a_connection_may_be_idle_outlives_the_headers(
    scripted_provider, kept, told, seconds
):
    arrived = threading.Event()
    head = LENGTH.replace(b"\r\n", b"\r\nKeep-Alive: timeout=" + told + b"\r\n", 1)
    scripted_provider.play([head + b"hel", WaitFor(arrived), b"lo"])
    exchange = begin(kept)
    exchange.forget_headers()
    arrived.set()
    assert read_all(exchange) == b"hello"
    left = exchange.connection.idle_until - exchange.last_data_at
    assert left == pytest.approx(seconds, abs=0.5)


def test_broken_framing_is_told_after_what_was_good(scripted_provider, kept):
    scripted_provider.play([CHUNKED + chunk(b"good") + b"no chunk\r\n", Close()])
    exchange = begin(kept)
    exchange.set_quiet(PATIENCE)
    assert exchange.read() == b"good"
    with pytest.raises(UpstreamCut, match="framing"):
        exchange.read()


def test_silence_is_told_and_reading_can_go_on(scripted_provider, kept):
    gate = threading.Event()
    scripted_provider.play(stream([b"one", WaitFor(gate), b"two"]))
    exchange = begin(kept)
    exchange.set_quiet(0.02)
    assert exchange.read() == b"one"
    for _ in range(2):
        with pytest.raises(Quiet):
            exchange.read()
    gate.set()
    exchange.set_quiet(PATIENCE)
    assert exchange.read() == b"two"
    assert exchange.read() == b""
    assert exchange.reusable


def test_a_reader_wakes_up_when_its_connection_is_shut(scripted_provider, kept):
    reached = threading.Event()
    scripted_provider.play([LENGTH, Tell(reached), Stall()])
    exchange = begin(kept)
    exchange.set_quiet(PATIENCE)
    shutter = threading.Timer(0.02, exchange.connection.shut)
    shutter.start()
    with pytest.raises(UpstreamCut):
        exchange.read()
    shutter.join()
    exchange.close()


FRAMINGS = {
    "chunked": stream([b"some"], end=False),
    "length": [LENGTH + b"some"],
    "close": [head(200, [("Connection", "close")]) + b"some"],
}


@pytest.mark.parametrize("moment", ["while it is read", "between two reads"])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_an_interrupted_answer_is_a_cut_one_however_it_would_end(
    scripted_provider, kept, framing, moment
):
    scripted_provider.play([*FRAMINGS[framing], Stall()])
    exchange = begin(kept)
    exchange.set_quiet(PATIENCE)
    # What has come already is not lost.
    assert exchange.read() == b"some"
    if moment == "between two reads":
        exchange.interrupt("this process ends")
        other = None
    else:
        other = threading.Timer(0.02, exchange.interrupt, ["this process ends"])
        other.start()
    with pytest.raises(GatewayEnds, match="this process ends"):
        exchange.read()
    assert not exchange.reusable
    if other is not None:
        other.join()
    exchange.close()


# -- the connection afterwards


def test_a_clean_connection_carries_the_next_request(scripted_provider, kept):
    scripted_provider.otherwise = answer("ok")
    reused = []
    for _ in range(3):
        exchange = begin(kept)
        assert read_all(exchange) == b"ok"
        reused.append(exchange.reused)
    assert reused == [False, True, True]
    assert scripted_provider.connections == 1


@pytest.mark.parametrize(
    "later",
    [
        [Close()],
        [Reset()],
        [b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", Stall()],
        [b"x", Stall()],
    ],
)
def test_a_connection_that_was_closed_or_spoken_on_while_idle_is_left(
    scripted_provider, kept, later
):
    gate = threading.Event()
    scripted_provider.play([LENGTH + b"hello", WaitFor(gate), *later])
    scripted_provider.play(answer("fresh"))
    exchange = begin(kept)
    assert read_all(exchange) == b"hello"
    assert exchange.reusable
    gate.set()
    connection = exchange.connection
    until(lambda: not connection.is_alive())
    assert read_all(begin(kept)) == b"fresh"
    assert [request.connection for request in scripted_provider.requests] == [1, 2]


def test_a_request_of_which_nothing_left_is_sent_on_a_new_connection(
    scripted_provider, kept, monkeypatch
):
    gate = threading.Event()
    scripted_provider.play([LENGTH + b"hello", WaitFor(gate), Reset()])
    scripted_provider.play(answer("fresh"))
    exchange = begin(kept)
    read_all(exchange)
    gate.set()
    connection = exchange.connection
    until(lambda: not connection.is_alive())
    # As if it had been closed between the look and the sending.
    monkeypatch.setattr(connection, "is_alive", lambda: True)
    assert read_all(begin(kept)) == b"fresh"
    assert len(scripted_provider.requests) == 2


@pytest.mark.parametrize("closing", [[Close()], [Reset()]], ids=["close", "reset"])
@pytest.mark.parametrize("body", [b"{}", b"x" * 200_000], ids=["small", "large"])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_request_that_met_the_close_of_an_idle_connection_is_sent_once_more(
    scripted_provider, kept, closing, body, method
):
    scripted_provider.play(answer("first"))
    scripted_provider.play(closing)
    scripted_provider.play(answer("again"))
    assert read_all(begin(kept)) == b"first"
    exchange = begin(kept, body, method=method)
    assert read_all(exchange) == b"again"
    assert not exchange.reused
    assert [request.connection for request in scripted_provider.requests] == [1, 1, 2]


@pytest.mark.parametrize(
    "scripts",
    [
        [[Close()]],
        [answer("first"), [Close()], [Close()]],
        [answer("first"), [b"HTTP/1.1 2", Close()]],
        [answer("first"), [b"HTTP/1.1 100 Continue\r\n\r\n", Reset()]],
    ],
    ids=["on a new connection", "twice", "after a byte", "after an interim answer"],
)
def test_any_other_close_before_an_answer_is_not_tried_again(scripted_provider, kept, scripts):
    for script in scripts:
        scripted_provider.play(script)
    if len(scripts) > 1:
        read_all(begin(kept))
    with pytest.raises(HeadCut):
        begin(kept)
    assert len(scripted_provider.requests) == len(scripts)


def test_an_upstream_that_breaks_off_late_may_have_begun_to_work(
    scripted_provider, kept, monkeypatch
):
    monkeypatch.setattr(kept_module, "CLOSING", 0.0)
    scripted_provider.play(answer("first"))
    scripted_provider.play([Close()])
    read_all(begin(kept))
    with pytest.raises(HeadCut):
        begin(kept)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], 14),
        ([("Keep-Alive", "max=100")], 14),
        ([("Keep-Alive", "timeout=60, max=100")], 54),
        ([("keep-alive", 'max=9, Timeout="5"')], 4),
        ([("Keep-Alive", "timeout=1")], 0.5),
        ([("Keep-Alive", "timeout=0")], 0),
        ([("Keep-Alive", "timeout=x")], 14),
    ],
)
def test_an_idle_connection_is_left_before_its_upstream_leaves_it(
    scripted_provider, kept, headers, seconds
):
    assert idle_limit(headers) == seconds
    scripted_provider.otherwise = answer("ok", 200, headers)
    exchange = begin(kept)
    read_all(exchange)
    left = exchange.connection.idle_until - exchange.last_data_at
    assert left == pytest.approx(seconds, abs=0.5)
    exchange.connection.idle_until -= seconds
    assert not exchange.connection.is_alive()
    assert not begin(kept).reused


def test_a_given_back_exchange_cannot_hurt_its_successor(scripted_provider, kept):
    scripted_provider.otherwise = answer("ok")
    first = begin(kept)
    read_all(first)
    first.detach()
    second = begin(kept)
    first.interrupt("nobody holds it any more")
    first.close()
    assert read_all(second) == b"ok"
