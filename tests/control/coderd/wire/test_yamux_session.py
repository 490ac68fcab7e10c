"""The rules of yamux, kept and enforced."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.control.coderd.wire import NEED_DATA, LocalProtocolError, RemoteProtocolError
from aigateway.actors.control.coderd.wire import _yamux_events as events
from aigateway.actors.control.coderd.wire.yamux import INITIAL_WINDOW, MAX_CHUNK, Limits, Session

DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


def frame(
    kind: int, flags: int, stream: int, length: int | None = None, body: bytes = b""
) -> bytes:
    """Written out here, so that the tests do not trust the code that they test."""
    size = len(body) if length is None else length
    return struct.pack(">BBHII", 0, kind, flags, stream, size) + body


def output(session: Session) -> bytes:
    return b"".join(iter(session.data_to_send, b""))


def drain(session: Session) -> list[events.Event]:
    found = []
    while (event := session.next_event()) is not NEED_DATA:
        found.append(event)
    return found


def feed(session: Session, *data: bytes) -> list[events.Event]:
    session.receive_data(b"".join(data))
    return drain(session)


@pytest.fixture
def client() -> Session:
    return Session("client", 0.0)


@pytest.fixture
def server() -> Session:
    return Session("server", 0.0)


@pytest.fixture
def opened(client: Session) -> Session:
    """A client with stream 1 open and accepted, nothing left to send."""
    client.open(0.0)
    output(client)
    feed(client, frame(WINDOW, ACK, 1))
    return client


@pytest.fixture
def accepted(server: Session) -> Session:
    """A server with stream 1 open and accepted, nothing left to send."""
    feed(server, frame(WINDOW, SYN, 1))
    server.accept(1)
    output(server)
    return server


# -- opening


def test_a_client_opens_odd_streams_and_a_server_even_ones(
    client: Session, server: Session
) -> None:
    assert [client.open(0.0) for _ in range(3)] == [1, 3, 5]
    assert [server.open(0.0) for _ in range(3)] == [2, 4, 6]
    assert output(client) == b"".join(frame(WINDOW, SYN, id) for id in (1, 3, 5))


def test_an_opened_stream_is_accepted_once(server: Session) -> None:
    assert feed(server, frame(WINDOW, SYN, 1)) == [events.StreamOpened(1)]
    with pytest.raises(LocalProtocolError, match="must be accepted"):
        server.send(1, b"x")
    server.accept(1)
    assert output(server) == frame(WINDOW, ACK, 1)
    with pytest.raises(LocalProtocolError, match="not waiting"):
        server.accept(1)


def test_the_first_data_may_come_with_the_syn(server: Session) -> None:
    assert feed(server, frame(DATA, SYN | FIN, 1, body=b"hello")) == [
        events.StreamOpened(1),
        events.DataReceived(1, b"hello"),
        events.StreamEnded(1),
    ]


def test_the_accept_may_come_with_data(client: Session) -> None:
    client.open(0.0)
    assert feed(client, frame(DATA, ACK, 1, body=b"hi")) == [
        events.StreamAccepted(1),
        events.DataReceived(1, b"hi"),
    ]


def test_a_second_ack_means_nothing(opened: Session) -> None:
    assert feed(opened, frame(WINDOW, ACK, 1)) == []


def test_no_more_streams_are_opened_than_the_peer_queues(client: Session) -> None:
    for _ in range(256):
        client.open(0.0)
    assert not client.can_open
    with pytest.raises(LocalProtocolError, match="256 streams wait"):
        client.open(0.0)
    feed(client, frame(WINDOW, ACK, 7))
    assert client.can_open
    client.open(0.0)
    feed(client, frame(WINDOW, RST, 9))
    assert client.can_open


def test_more_streams_than_the_backlog_are_refused(server: Session) -> None:
    opened = feed(server, *(frame(WINDOW, SYN, id) for id in range(1, 2 * 258, 2)))
    assert opened == [events.StreamOpened(id) for id in range(1, 2 * 256, 2)]
    assert output(server) == frame(WINDOW, RST, 513) + frame(WINDOW, RST, 515)


def test_stream_ids_are_used_up_before_they_repeat(client: Session) -> None:
    client._next_id = 0xFFFFFFFF
    client.open(0.0)
    with pytest.raises(LocalProtocolError, match="used up"):
        client.open(0.0)


def test_a_stream_that_is_reset_as_it_opens_was_never_there(server: Session) -> None:
    assert feed(server, frame(DATA, SYN | RST, 1, body=b"x")) == []
    assert server.stream_count == 0


@pytest.mark.parametrize("stream", [0, 1, 3])
def test_a_server_that_opens_a_stream_not_its_own_ends_the_session(
    client: Session, stream: int
) -> None:
    with pytest.raises(RemoteProtocolError, match="not its own"):
        feed(client, frame(WINDOW, SYN, stream))
    assert output(client) == frame(GO_AWAY, 0, 0, 1)


def test_a_stream_opened_twice_ends_the_session(accepted: Session) -> None:
    with pytest.raises(RemoteProtocolError, match="twice"):
        feed(accepted, frame(WINDOW, SYN, 1))


# -- windows


def test_data_beyond_the_window_waits_for_the_peer(opened: Session) -> None:
    opened.send(1, b"a" * INITIAL_WINDOW)
    opened.send(1, b"b" * 10)
    assert opened.pending(1) == 10
    sent = output(opened)
    assert sent.endswith(b"a")
    assert len(sent) == INITIAL_WINDOW + 2 * 12
    feed(opened, frame(WINDOW, 0, 1, 4))
    assert output(opened) == frame(DATA, 0, 1, body=b"bbbb")
    opened.send(1, b"c")
    feed(opened, frame(WINDOW, 0, 1, 1000))
    assert output(opened) == frame(DATA, 0, 1, body=b"bbbbbbc")
    assert opened.pending(1) == 0


def test_a_window_that_grows_with_nothing_waiting_is_remembered(opened: Session) -> None:
    feed(opened, frame(WINDOW, 0, 1, 1000))
    opened.send(1, b"x" * (INITIAL_WINDOW + 1000))
    assert opened.pending(1) == 0


def test_fin_waits_behind_data(opened: Session) -> None:
    opened.send(1, b"a" * (INITIAL_WINDOW + 1))
    opened.finish(1, 0.0)
    output(opened)
    feed(opened, frame(WINDOW, FIN, 1))
    assert opened.stream_count == 1
    feed(opened, frame(WINDOW, 0, 1, 1))
    assert output(opened) == frame(DATA, 0, 1, body=b"a") + frame(WINDOW, FIN, 1)
    assert opened.stream_count == 0


def test_window_is_given_back_half_at_a_time(accepted: Session) -> None:
    half = INITIAL_WINDOW // 2
    feed(accepted, frame(DATA, 0, 1, body=b"x" * (half + 5)))
    accepted.consume(1, half - 1)
    assert output(accepted) == b""
    accepted.consume(1, 3)
    assert output(accepted) == frame(WINDOW, 0, 1, half + 2)


def test_no_window_is_given_back_to_a_peer_that_has_finished(accepted: Session) -> None:
    feed(accepted, frame(DATA, FIN, 1, body=b"x" * INITIAL_WINDOW))
    accepted.consume(1, INITIAL_WINDOW)
    assert output(accepted) == b""


def test_more_cannot_be_consumed_than_was_received(accepted: Session) -> None:
    feed(accepted, frame(DATA, 0, 1, body=b"abc"))
    with pytest.raises(LocalProtocolError, match="4 bytes consumed of 3"):
        accepted.consume(1, 4)
    accepted.consume(99, 1)


def test_data_beyond_our_window_ends_the_session(accepted: Session) -> None:
    feed(accepted, frame(DATA, 0, 1, body=b"x" * INITIAL_WINDOW))
    with pytest.raises(RemoteProtocolError, match="1 bytes for a window of 0"):
        feed(accepted, frame(DATA, 0, 1, body=b"y"))


def test_a_window_beyond_32_bits_ends_the_session(accepted: Session) -> None:
    with pytest.raises(RemoteProtocolError, match="32 bits"):
        feed(accepted, frame(WINDOW, 0, 1, 0xFFFFFFFF))


def test_no_chunk_is_larger_than_a_websocket_message_may_be(client: Session) -> None:
    for _ in range(5):
        client.send(client.open(0.0), b"z" * 200_000)
    chunks = list(iter(client.data_to_send, b""))
    assert max(map(len, chunks)) == MAX_CHUNK
    assert len(b"".join(chunks)) == 5 * (12 + 2 * 12 + 200_000)


@given(st.lists(st.integers(1, 50), max_size=40))
def test_output_may_be_taken_in_any_sizes(sizes: list[int]) -> None:
    def scene() -> Session:
        session = Session("client", 0.0)
        session.send(session.open(0.0), b"some data")
        session.send(session.open(0.0), b"more of it")
        session.finish(1, 0.0)
        return session

    whole, cut = scene(), scene()
    pieces = [cut.data_to_send(size) for size in sizes]
    assert all(len(piece) <= size for piece, size in zip(pieces, sizes, strict=True))
    assert b"".join(pieces) + output(cut) == output(whole)


def test_an_empty_send_sends_nothing(opened: Session) -> None:
    opened.send(1, b"")
    assert output(opened) == b""


# -- closing


def test_a_stream_is_forgotten_when_both_sides_have_finished(opened: Session) -> None:
    opened.finish(1, 0.0)
    assert opened.stream_count == 1
    assert feed(opened, frame(WINDOW, FIN, 1)) == [events.StreamEnded(1)]
    assert opened.stream_count == 0
    assert output(opened) == frame(WINDOW, FIN, 1)


def test_reading_goes_on_after_our_fin(opened: Session) -> None:
    opened.finish(1, 0.0)
    assert feed(opened, frame(DATA, 0, 1, body=b"late")) == [events.DataReceived(1, b"late")]


def test_writing_goes_on_after_their_fin(opened: Session) -> None:
    feed(opened, frame(WINDOW, FIN, 1))
    opened.send(1, b"still here")
    opened.finish(1, 0.0)
    assert output(opened) == frame(DATA, 0, 1, body=b"still here") + frame(WINDOW, FIN, 1)
    assert opened.stream_count == 0


def test_a_finished_stream_is_not_written_to_again(opened: Session) -> None:
    opened.finish(1, 0.0)
    with pytest.raises(LocalProtocolError, match="was finished"):
        opened.send(1, b"x")
    with pytest.raises(LocalProtocolError, match="was finished"):
        opened.finish(1, 0.0)


def test_a_stream_that_is_not_open_is_not_written_to(client: Session) -> None:
    with pytest.raises(LocalProtocolError, match="stream 5 is not open"):
        client.send(5, b"x")
    assert client.pending(5) == 0


def test_fin_twice_ends_the_session(opened: Session) -> None:
    feed(opened, frame(WINDOW, FIN, 1))
    with pytest.raises(RemoteProtocolError, match="FIN sent twice"):
        feed(opened, frame(WINDOW, FIN, 1))


def test_data_after_fin_ends_the_session(opened: Session) -> None:
    feed(opened, frame(DATA, FIN, 1))
    with pytest.raises(RemoteProtocolError, match="data after FIN"):
        feed(opened, frame(DATA, 0, 1, body=b"x"))


def test_reset_drops_what_waits(opened: Session) -> None:
    opened.send(1, b"x" * INITIAL_WINDOW * 2)
    output(opened)
    opened.reset(1)
    opened.reset(1)
    assert output(opened) == frame(WINDOW, RST, 1)
    assert feed(opened, frame(WINDOW, 0, 1, INITIAL_WINDOW)) == []
    assert output(opened) == b""


def test_a_reset_by_the_peer_is_told(opened: Session) -> None:
    assert feed(opened, frame(DATA, RST, 1, body=b"never read")) == [
        events.StreamReset(1, "the peer reset the stream")
    ]
    assert opened.stream_count == 0


def test_frames_for_gone_streams_are_read_and_forgotten(opened: Session) -> None:
    opened.reset(1)
    assert (
        feed(
            opened,
            frame(DATA, 0, 1, body=b"x" * 1000),
            frame(WINDOW, FIN, 1),
            frame(DATA, 0, 0, body=b"to nobody"),
            frame(PING, SYN, 0, 9),
        )
        == []
    )
    assert output(opened).endswith(frame(WINDOW, RST, 1))


def test_a_reset_in_the_middle_of_a_body_drops_the_rest(accepted: Session) -> None:
    whole = frame(DATA, 0, 1, body=b"first second")
    assert feed(accepted, whole[:18]) == [events.DataReceived(1, b"first ")]
    accepted.reset(1)
    assert feed(accepted, whole[18:]) == []


# -- pings, going away, the end


def test_a_ping_is_answered_before_queued_data(opened: Session) -> None:
    opened.send(1, b"x" * 1000)
    first = opened.data_to_send(100)
    feed(opened, frame(PING, SYN, 0, 0xDEADBEEF))
    rest = output(opened)
    assert first + rest == frame(DATA, 0, 1, body=b"x" * 1000) + frame(PING, ACK, 0, 0xDEADBEEF)
    opened.send(1, b"y")
    feed(opened, frame(PING, SYN, 0, 5))
    assert output(opened) == frame(PING, ACK, 0, 5) + frame(DATA, 0, 1, body=b"y")


def test_an_answer_to_no_ping_means_nothing(client: Session) -> None:
    assert feed(client, frame(PING, ACK, 0, 77)) == []


def test_our_ping_is_answered(client: Session) -> None:
    assert client.ping(0.0) == 0
    assert client.ping(0.0) == 1
    assert output(client) == frame(PING, SYN, 0, 0) + frame(PING, SYN, 0, 1)
    assert feed(client, frame(PING, ACK, 0, 0)) == [events.PingAnswered(0)]


def test_nobody_waits_for_the_answer_to_a_probe(client: Session) -> None:
    client.probe()
    assert output(client) == frame(PING, SYN, 0, 0)
    assert client.deadline == 30.0
    assert feed(client, frame(PING, ACK, 0, 0)) == []
    client.ping(0.0)
    assert output(client) == frame(PING, SYN, 0, 1)


def test_an_ended_session_is_not_probed(client: Session) -> None:
    feed(client, b"")
    client.probe()
    assert output(client) == b""


def test_a_peer_that_goes_away_gets_no_new_streams(opened: Session) -> None:
    assert feed(opened, frame(GO_AWAY, 0, 0, 0)) == [events.PeerGoingAway()]
    assert not opened.takes_streams
    with pytest.raises(LocalProtocolError, match="going away"):
        opened.open(0.0)
    opened.send(1, b"the open ones go on")


def test_after_our_go_away_new_streams_are_refused(accepted: Session) -> None:
    accepted.go_away()
    assert feed(accepted, frame(WINDOW, SYN, 3), frame(DATA, 0, 3, body=b"x")) == []
    assert output(accepted) == frame(GO_AWAY, 0, 0, 0) + frame(WINDOW, RST, 3)


@pytest.mark.parametrize(("code", "text"), [(1, "protocol error"), (2, "internal error")])
def test_a_go_away_with_an_error_ends_the_session(opened: Session, code: int, text: str) -> None:
    assert feed(opened, frame(GO_AWAY, 0, 0, code)) == [
        events.SessionEnded(f"the peer ended the session: {text}")
    ]
    assert opened.ended
    assert opened.deadline is None
    assert repr(opened).startswith("<yamux client ended: the peer ended the session")
    with pytest.raises(LocalProtocolError, match=text):
        opened.open(0.0)
    with pytest.raises(LocalProtocolError, match=text):
        opened.ping(0.0)
    opened.go_away()
    opened.advance(1e9)
    assert feed(opened, frame(PING, SYN, 0, 1)) == []
    assert output(opened) == b""


def test_the_end_of_the_connection_ends_the_session(opened: Session) -> None:
    opened.receive_data(frame(DATA, 0, 1, body=b"last words"))
    opened.receive_data(b"")
    assert drain(opened) == [
        events.DataReceived(1, b"last words"),
        events.SessionEnded("the peer closed the connection"),
    ]
    assert repr(NEED_DATA) == "NEED_DATA"


@pytest.mark.parametrize("cut", [1, 11, 12, 14])
def test_an_end_in_the_middle_of_a_frame_is_told_apart(opened: Session, cut: int) -> None:
    opened.receive_data(frame(DATA, 0, 1, body=b"abc")[:cut])
    opened.receive_data(b"")
    assert drain(opened)[-1] == events.SessionEnded(
        "the peer closed the connection in the middle of a frame"
    )


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (b"\x01" + frame(WINDOW, SYN, 1)[1:], "version 1"),
        (frame(9, 0, 1, 0), "unknown type 9"),
        (frame(GO_AWAY, 0, 0, 3), "unknown code 3"),
    ],
)
def test_a_frame_that_is_none_ends_the_session(client: Session, bad: bytes, text: str) -> None:
    with pytest.raises(RemoteProtocolError, match=text):
        feed(client, bad)
    with pytest.raises(RemoteProtocolError, match=text):
        client.next_event()
    assert client.ended
    assert output(client) == frame(GO_AWAY, 0, 0, 1)


def test_events_before_a_violation_are_delivered(opened: Session) -> None:
    opened.receive_data(frame(DATA, 0, 1, body=b"fine") + frame(9, 0, 1, 0))
    assert opened.next_event() == events.DataReceived(1, b"fine")
    with pytest.raises(RemoteProtocolError):
        opened.next_event()


# -- time


def test_a_keepalive_ping_is_sent_every_30_seconds(client: Session) -> None:
    assert client.deadline == 30.0
    client.advance(29.9)
    assert output(client) == b""
    client.advance(30.0)
    assert output(client) == frame(PING, SYN, 0, 0)
    assert client.deadline == 40.0
    feed(client, frame(PING, ACK, 0, 0))
    assert client.deadline == 60.0
    client.advance(60.0)
    assert output(client) == frame(PING, SYN, 0, 1)


def test_a_peer_that_does_not_answer_a_ping_is_dead(opened: Session) -> None:
    opened.advance(30.0)
    opened.advance(39.9)
    assert drain(opened) == []
    opened.advance(40.0)
    assert drain(opened) == [events.SessionEnded("the peer did not answer a ping in time")]
    assert opened.stream_count == 0


def test_a_peer_that_accepts_no_stream_is_dead() -> None:
    client = Session("client", 0.0, Limits(keepalive_interval=1000.0))
    client.open(5.0)
    client.open(6.0)
    feed(client, frame(WINDOW, ACK, 1))
    assert client.deadline == 81.0
    client.advance(80.9)
    assert drain(client) == []
    client.advance(81.0)
    assert drain(client) == [events.SessionEnded("the peer did not accept a stream in time")]


def test_a_peer_that_does_not_answer_fin_is_reset_after_five_minutes() -> None:
    client = Session("client", 0.0, Limits(keepalive_interval=1000.0))
    for id in (1, 3):
        client.open(0.0)
        feed(client, frame(WINDOW, ACK, id))
    client.finish(1, 10.0)
    client.finish(3, 11.0)
    output(client)
    assert client.deadline == 310.0
    client.advance(310.0)
    assert drain(client) == [events.StreamReset(1, "the peer did not answer FIN in time")]
    assert output(client) == frame(WINDOW, RST, 1)
    assert client.stream_count == 1


# -- any bytes


def junk_frames() -> st.SearchStrategy[bytes]:
    ids = st.sampled_from([0, 1, 2, 3, 4, 5, 0xFFFFFFFF])
    kinds = st.sampled_from([DATA, DATA, WINDOW, WINDOW, PING, GO_AWAY, 4])
    flags = st.one_of(st.sampled_from([0, SYN, ACK, FIN, RST]), st.integers(0, 31))
    bodies = st.binary(max_size=30)
    lengths = st.one_of(st.none(), st.integers(0, 0xFFFFFFFF))
    return st.builds(frame, kinds, flags, ids, lengths, bodies)


def cut(data: bytes, sizes: Iterator[int]) -> Iterator[bytes]:
    while data:
        size = next(sizes)
        yield data[:size]
        data = data[size:]


@given(
    st.lists(junk_frames(), max_size=20),
    st.lists(st.integers(1, 40), min_size=1),
    st.sampled_from(["client", "server"]),
    st.lists(st.sampled_from(["open", "send", "finish", "reset", "accept", "time"]), max_size=20),
)
def test_any_bytes_at_all_raise_remote_errors_only(
    junk: list[bytes], sizes: list[int], role: str, actions: list[str]
) -> None:
    session = Session("client" if role == "client" else "server", 0.0)
    now = 0.0
    todo = iter(actions)
    endless = (size for _ in range(1 << 30) for size in sizes)
    for piece in cut(b"".join(junk), endless):
        now += 1.0
        session.receive_data(piece)
        try:
            drain(session)
        except RemoteProtocolError:
            assert session.ended
            assert output(session).endswith(frame(GO_AWAY, 0, 0, 1))
            return
        try:
            match next(todo, None):
                case "open":
                    session.open(now)
                case "send":
                    session.send(1, b"data" * 10)
                case "finish":
                    session.finish(1, now)
                case "reset":
                    session.reset(2)
                case "accept":
                    session.accept(2)
                case "time":
                    session.advance(now)
        except LocalProtocolError:
            pass


# -- whole bodies


def test_a_whole_body_is_taken_at_once_and_its_window_given_back(opened: Session) -> None:
    half = INITIAL_WINDOW // 2
    opened.receive_data(frame(DATA, 0, 1, body=b"x" * half) + frame(DATA, 0, 1, body=b"rest")[:-1])
    assert opened.next_body() == (1, b"x" * half)
    assert output(opened) == frame(WINDOW, 0, 1, half)
    assert opened.next_body() is None
    assert drain(opened) == [events.DataReceived(1, b"res")]
    opened.receive_data(b"t" + frame(DATA, FIN, 1, body=b"end"))
    assert opened.next_body() is None
    assert drain(opened) == [
        events.DataReceived(1, b"t"),
        events.DataReceived(1, b"end"),
        events.StreamEnded(1),
    ]


def test_what_came_before_a_whole_body_is_told_first(opened: Session) -> None:
    opened.receive_data(
        frame(WINDOW, SYN, 2) + frame(DATA, FIN, 1, body=b"a") + frame(DATA, 0, 2, body=b"b")
    )
    assert opened.next_event() == events.StreamOpened(2)
    assert opened.next_body() is None
    assert opened.next_event() == events.DataReceived(1, b"a")
    assert opened.next_body() is None
    assert opened.next_event() == events.StreamEnded(1)
    assert opened.next_body() == (2, b"b")


def taken(session: Session, data: bytes, *, whole: bool) -> list[object]:
    """What a session tells of these bytes, all of which is consumed."""
    session.receive_data(data)
    found: list[object] = []
    try:
        while True:
            if whole and (body := session.next_body()) is not None:
                found.append(body)
                continue
            event = session.next_event()
            if event is NEED_DATA:
                return found
            if isinstance(event, events.DataReceived):
                session.consume(event.stream_id, len(event.data))
                found.append((event.stream_id, event.data))
            else:
                found.append(event)
    except RemoteProtocolError as ex:
        return [*found, str(ex)]


@given(st.lists(junk_frames(), max_size=20), st.lists(st.integers(1, 60), min_size=1))
def test_whole_bodies_say_what_events_say(junk: list[bytes], sizes: list[int]) -> None:
    sessions = [Session("client", 0.0), Session("client", 0.0)]
    for session in sessions:
        for _ in range(3):
            session.open(0.0)
    endless = (size for _ in range(1 << 30) for size in sizes)
    for piece in cut(b"".join(junk), endless):
        told = [taken(one, piece, whole=one is sessions[0]) for one in sessions]
        assert told[0] == told[1]
        assert output(sessions[0]) == output(sessions[1])
        if sessions[0].ended:
            return
