"""The two ends of a session, talking to each other."""

from __future__ import annotations

import random
import struct

import pytest
from attrs import define, field
from fake_coderd.rpc_server import (
    Abandoned,
    Request,
    RpcServer,
    ServerEvent,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from aigateway.actors.control.coderd.wire import NEED_DATA, LocalProtocolError, RemoteProtocolError
from aigateway.actors.control.coderd.wire import _drpc_packets as packets
from aigateway.actors.control.coderd.wire._yamux_events import PeerGoingAway, SessionEnded
from aigateway.actors.control.coderd.wire.rpc_client import (
    Answered,
    ClientEvent,
    ErrorAnswered,
    Finished,
    Lost,
    RpcClient,
)
from aigateway.actors.control.coderd.wire.yamux import Limits

RPC = "/proto.Recorder/RecordPromptUsage"
WATCH = "/proto.ProviderConfigurator/WatchAIProviders"


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return struct.pack(">BBHII", 0, kind, flags, stream, len(body)) + body


def data(stream: int, text: str) -> bytes:
    return frame(0, 0, stream, bytes.fromhex(text))


ANSWER = "05010100 0d010200"


@define
class Pair:
    """A client and a server whose bytes are carried by hand."""

    client: RpcClient = field(factory=lambda: RpcClient(0.0))
    server: RpcServer = field(factory=lambda: RpcServer(0.0))
    to_client: list[ClientEvent] = field(factory=list)
    to_server: list[ServerEvent] = field(factory=list)
    now: float = 0.0

    def carry_up(self) -> bytes:
        """Client to server."""
        sent = b"".join(iter(self.client.data_to_send, b""))
        if sent:
            self.server.receive_data(sent)
        self.read_server()
        return sent

    def carry_down(self) -> bytes:
        sent = b"".join(iter(self.server.data_to_send, b""))
        if sent:
            self.client.receive_data(sent)
        self.read_client()
        return sent

    def read_server(self) -> None:
        while (event := self.server.next_event(self.now)) is not NEED_DATA:
            self.to_server.append(event)

    def read_client(self) -> None:
        while (event := self.client.next_event(self.now)) is not NEED_DATA:
            self.to_client.append(event)

    def settle(self) -> None:
        """Carry until nobody has anything to say."""
        while self.carry_up() or self.carry_down():
            pass

    def requests(self) -> list[Request]:
        return [event for event in self.to_server if isinstance(event, Request)]

    def take(self) -> list[ClientEvent]:
        taken, self.to_client = self.to_client, []
        return taken


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_a_call_is_answered(pair: Pair) -> None:
    call = pair.client.call(RPC, b"question", 0.0, metadata={"trace": "1"})
    pair.settle()
    assert pair.to_server == [Request(1, RPC, b"question", {"trace": "1"})]
    assert pair.client.in_flight == 1
    pair.server.answer(1, b"answer")
    pair.settle()
    assert pair.take() == [Answered(call, b"answer")]
    assert pair.client.in_flight == 0


def test_a_call_is_refused(pair: Pair) -> None:
    call = pair.client.call(RPC, b"", 0.0)
    pair.settle()
    pair.server.fail(1, "unknown key", 1001)
    pair.settle()
    assert pair.take() == [ErrorAnswered(call, 1001, "unknown key")]


def test_a_stream_is_used_again_once_its_call_has_ended(pair: Pair) -> None:
    for number in (1, 2, 3):
        pair.client.call(RPC, b"", 0.0)
        pair.settle()
        if number == 2:
            pair.server.fail(number, "no")
        else:
            pair.server.answer(number, b"")
        pair.settle()
        assert pair.client.stream_count == 1
    assert len(pair.take()) == 3


def test_without_reuse_each_call_has_its_own_stream() -> None:
    pair = Pair(RpcClient(0.0, reuse=False))
    for number in (1, 2):
        pair.client.call(RPC, b"", 0.0)
        pair.settle()
        assert pair.client.stream_count == 1
        pair.server.answer(number, b"")
        pair.settle()
        assert pair.client.stream_count == 0
        assert pair.server.stream_count == 0


def test_without_reuse_a_call_is_closed_as_soon_as_it_is_answered() -> None:
    pair = Pair(RpcClient(0.0, reuse=False))
    pair.client.call(RPC, b"", 0.0)
    pair.settle()
    pair.server.send(1, b"x")
    pair.carry_down()
    assert pair.take() == [Answered(1, b"x")]
    closed = pair.carry_up()
    assert closed == data(1, "0b010400") + frame(1, 4, 1)
    assert pair.to_server[1:] == [Abandoned(1)]
    pair.server.end(1)
    pair.settle()
    assert pair.client.stream_count == 0


def test_calls_at_the_same_time_have_their_own_streams(pair: Pair) -> None:
    calls = [pair.client.call(RPC, b"%d" % number, 0.0) for number in range(3)]
    pair.settle()
    assert pair.client.stream_count == 3
    for request in reversed(pair.requests()):
        pair.server.answer(request.call, request.data)
    pair.settle()
    assert pair.take() == [Answered(call, b"%d" % (call - 1)) for call in reversed(calls)]


def test_a_stream_of_answers_ends(pair: Pair) -> None:
    call = pair.client.call(WATCH, b"", 0.0, streaming=True)
    pair.settle()
    pair.server.send(1, b"")
    pair.server.send(1, b"")
    pair.settle()
    assert pair.take() == [Answered(call, b""), Answered(call, b"")]
    pair.server.end(1)
    pair.settle()
    assert pair.take() == [Finished(call)]


def test_a_stream_of_answers_may_fail(pair: Pair) -> None:
    call = pair.client.call(WATCH, b"", 0.0, streaming=True)
    pair.settle()
    pair.server.send(1, b"")
    pair.server.fail(1, "broke")
    pair.settle()
    assert pair.take() == [Answered(call, b""), ErrorAnswered(call, 0, "broke")]


def test_giving_up_cancels_the_call(pair: Pair) -> None:
    call = pair.client.call(RPC, b"", 0.0)
    pair.settle()
    pair.client.give_up(call, 0.0)
    pair.client.give_up(call, 0.0)
    assert pair.carry_up() == frame(1, 4, 1)
    assert pair.to_server[1:] == [Abandoned(1)]
    pair.server.answer(1, b"too late")
    pair.server.fail(1, "too late")
    pair.server.hang_up(1, 0.0)
    pair.settle()
    assert pair.take() == []
    assert pair.client.stream_count == 0
    assert pair.client.in_flight == 0


def test_giving_up_on_a_request_that_is_half_sent_resets_the_stream(pair: Pair) -> None:
    call = pair.client.call(RPC, b"x" * 1_000_000, 0.0)
    pair.carry_up()
    pair.client.give_up(call, 0.0)
    assert pair.carry_up() == frame(1, 8, 1)
    assert pair.to_server == []
    assert pair.server.stream_count == 0


def test_a_stream_that_is_given_up_is_let_go_of_after_five_minutes() -> None:
    pair = Pair(RpcClient(0.0, limits=Limits(keepalive_interval=1000.0, open_timeout=1000.0)))
    pair.client.give_up(pair.client.call(RPC, b"", 0.0), 0.0)
    pair.client.advance(300.0)
    pair.read_client()
    assert pair.take() == []
    assert pair.client.stream_count == 0


def test_an_answer_that_crosses_the_giving_up_is_forgotten(pair: Pair) -> None:
    call = pair.client.call(RPC, b"", 0.0)
    pair.settle()
    pair.server.answer(1, b"a" * 500_000)
    pair.client.give_up(call, 0.0)
    pair.settle()
    assert pair.take() == []
    assert pair.client.stream_count == 0


def test_a_stream_closed_without_an_answer_loses_the_call(pair: Pair) -> None:
    call = pair.client.call(RPC, b"", 0.0)
    pair.settle()
    pair.server.hang_up(1, 0.0)
    pair.settle()
    assert pair.take() == [Lost(call, "the server closed the stream before it answered")]
    assert pair.client.stream_count == 0


def test_an_end_without_an_answer_loses_the_call(pair: Pair) -> None:
    call = pair.client.call(RPC, b"", 0.0)
    pair.settle()
    pair.server.end(1)
    pair.settle()
    assert pair.take() == [Lost(call, "the server ended the call without an answer")]


def test_a_refused_stream_loses_the_call(pair: Pair) -> None:
    call = pair.client.call(RPC, b"", 0.0)
    pair.client.receive_data(frame(1, 8, 1))
    pair.read_client()
    assert pair.take() == [Lost(call, "the peer reset the stream")]
    assert pair.client.call(RPC, b"", 0.0) == 2


def test_broken_drpc_costs_the_stream_and_not_the_session(pair: Pair) -> None:
    calls = [pair.client.call(RPC, b"", 0.0) for _ in range(2)]
    pair.carry_up()
    pair.client.receive_data(data(1, "05000000") + data(3, ANSWER))
    pair.read_client()
    lost, answered = pair.take()
    assert isinstance(lost, Lost)
    assert lost.call == calls[0]
    assert "ids must grow" in lost.reason
    assert answered == Answered(calls[1], b"")
    pair.carry_up()
    assert pair.to_server[2:] == [Abandoned(1)]


def test_more_than_one_answer_to_a_unary_call_is_ignored(pair: Pair) -> None:
    pair.client.call(RPC, b"", 0.0)
    pair.settle()
    pair.server.send(1, b"first")
    pair.server.send(1, b"second")
    pair.server.fail(1, "and an error")
    pair.settle()
    assert pair.take() == [Answered(1, b"first")]


def test_bytes_on_an_idle_stream_do_no_harm(pair: Pair) -> None:
    pair.client.call(RPC, b"", 0.0)
    pair.carry_up()
    pair.client.receive_data(data(1, ANSWER))
    pair.client.receive_data(data(1, "0501030161") + data(1, "0501"))
    pair.read_client()
    assert pair.take() == [Answered(1, b"")]
    assert [pair.client.call(RPC, b"", 0.0) for _ in range(2)] == [2, 3]
    assert pair.client.stream_count == 2


def test_an_idle_stream_that_the_server_closes_is_closed(pair: Pair) -> None:
    pair.client.call(RPC, b"", 0.0)
    pair.carry_up()
    pair.client.receive_data(data(1, ANSWER) + frame(1, 4, 1))
    pair.read_client()
    assert pair.client.stream_count == 0
    pair.client.call(RPC, b"", 0.0)
    assert pair.client.stream_count == 1


def test_streams_that_a_server_opens_are_refused(pair: Pair) -> None:
    pair.client.receive_data(frame(1, 1, 2))
    pair.read_client()
    assert pair.client.data_to_send() == frame(1, 8, 2)


# -- limits


def test_calls_beyond_the_streams_wait_for_one() -> None:
    pair = Pair(RpcClient(0.0, max_streams=2))
    for _ in range(5):
        pair.client.call(RPC, b"", 0.0)
    pair.settle()
    assert len(pair.requests()) == 2
    pair.client.give_up(1, 0.0)
    pair.client.give_up(4, 0.0)
    pair.settle()
    assert len(pair.requests()) == 3
    pair.server.answer(2, b"")
    pair.server.answer(3, b"")
    pair.settle()
    assert pair.take() == [Answered(2, b""), Answered(3, b"")]
    pair.server.answer(4, b"")
    pair.settle()
    assert pair.take() == [Answered(5, b"")]


def test_calls_beyond_the_unaccepted_streams_wait_for_the_server() -> None:
    pair = Pair(RpcClient(0.0, limits=Limits(backlog=3)))
    for _ in range(5):
        pair.client.call(RPC, b"", 0.0)
    assert pair.client.stream_count == 3
    pair.settle()
    assert len(pair.requests()) == 5


def test_a_stream_whose_end_does_not_come_gives_way() -> None:
    pair = Pair(RpcClient(0.0, max_streams=1))
    pair.client.call(RPC, b"", 0.0)
    pair.settle()
    pair.server.send(1, b"answer without an end")
    pair.settle()
    assert pair.take() == [Answered(1, b"answer without an end")]
    pair.client.call(RPC, b"", 0.0)
    pair.settle()
    assert isinstance(pair.to_server[-1], Request)
    pair.server.answer(2, b"")
    pair.settle()
    assert pair.take() == [Answered(2, b"")]


def test_a_late_end_makes_the_stream_idle(pair: Pair) -> None:
    pair.client.call(RPC, b"", 0.0)
    pair.settle()
    pair.server.send(1, b"")
    pair.settle()
    pair.server.end(1)
    pair.settle()
    pair.client.call(RPC, b"", 0.0)
    assert pair.client.stream_count == 1


def test_a_request_over_4_mib_is_refused_here(pair: Pair) -> None:
    with pytest.raises(LocalProtocolError, match="over the limit"):
        pair.client.call(RPC, b"x" * (4 * 1024 * 1024 + 1), 0.0)
    assert pair.client.in_flight == 0
    call = pair.client.call(RPC, b"x" * (4 * 1024 * 1024), 0.0)
    pair.settle()
    assert len(pair.requests()[0].data) == 4 * 1024 * 1024
    pair.server.answer(1, b"y" * (4 * 1024 * 1024))
    pair.settle()
    assert pair.take() == [Answered(call, b"y" * (4 * 1024 * 1024))]


# -- pipelining


def pipelining() -> Pair:
    return Pair(RpcClient(0.0, depth=2, max_streams=1))


def test_pipelined_calls_share_a_stream() -> None:
    pair = pipelining()
    calls = [pair.client.call(RPC, b"", 0.0) for _ in range(3)]
    assert pair.client.stream_count == 1
    sent = b"".join(iter(pair.client.data_to_send, b""))
    assert sent.count(RPC.encode()) == 2
    pair.client.receive_data(data(1, "05010100 0d010200 05020100 0d020200"))
    pair.read_client()
    assert pair.take() == [Answered(calls[0], b""), Answered(calls[1], b"")]
    assert b"".join(iter(pair.client.data_to_send, b"")).count(RPC.encode()) == 1


def test_giving_up_on_a_pipelined_call_loses_the_other() -> None:
    pair = pipelining()
    calls = [pair.client.call(RPC, b"", 0.0) for _ in range(2)]
    pair.client.give_up(calls[0], 0.0)
    pair.read_client()
    assert pair.take() == [Lost(calls[1], "another call on the same stream was given up")]


def test_nothing_is_pipelined_behind_a_stream_of_answers() -> None:
    pair = pipelining()
    pair.client.call(WATCH, b"", 0.0, streaming=True)
    pair.client.call(RPC, b"", 0.0)
    pair.settle()
    assert len(pair.requests()) == 1


def test_the_server_abandons_a_call_when_the_next_one_is_read() -> None:
    pair = pipelining()
    for _ in range(2):
        pair.client.call(RPC, b"", 0.0)
    pair.settle()
    assert pair.to_server == [
        Request(1, RPC, b"", {}),
        Abandoned(1),
        Request(2, RPC, b"", {}),
    ]


# -- what a server refuses


def raw_server(*frames: bytes) -> Pair:
    pair = Pair()
    pair.server.receive_data(frame(1, 1, 1) + b"".join(frames))
    pair.read_server()
    return pair


INVOKE = "0301012f" + "78" * 47


def test_a_call_without_a_request_is_refused() -> None:
    pair = raw_server(data(1, INVOKE + "0d010200"))
    refusal = packets.encode_frame(packets.ERROR, 1, 1, packets.encode_error(0, "EOF"))
    assert pair.server.data_to_send() == frame(1, 2, 1) + frame(0, 0, 1, refusal)
    assert pair.to_server == []


def test_a_call_cancelled_before_its_request_never_was() -> None:
    pair = raw_server(data(1, INVOKE + "89010200"))
    assert pair.to_server == []
    assert pair.server.data_to_send() == frame(1, 2, 1)


def test_a_second_request_of_a_call_is_ignored() -> None:
    pair = raw_server(data(1, INVOKE + "05010200 05010300"))
    assert len(pair.to_server) == 1


def test_a_server_closes_a_stream_that_is_no_drpc() -> None:
    pair = raw_server(data(1, INVOKE + "05010200 05010200"), data(1, "00"), frame(1, 4, 1))
    assert pair.to_server == [Request(1, "x" * 47, b"", {}), Abandoned(1)]
    assert pair.server.data_to_send() == frame(1, 2, 1) + frame(1, 4, 1)
    assert pair.server.stream_count == 0


def test_a_reset_after_the_close_changes_nothing() -> None:
    pair = raw_server(data(1, "00000000"), frame(1, 8, 1))
    assert pair.server.stream_count == 0


# -- the end of a session


def test_a_server_that_goes_away_finishes_what_it_has(pair: Pair) -> None:
    pair = Pair(RpcClient(0.0, max_streams=1))
    pair.client.call(RPC, b"", 0.0)
    waiting = pair.client.call(RPC, b"", 0.0)
    pair.settle()
    pair.server.go_away()
    pair.settle()
    assert pair.take() == [Lost(waiting, "the server is going away"), PeerGoingAway()]
    assert not pair.client.accepts_calls
    with pytest.raises(LocalProtocolError, match="cannot call"):
        pair.client.call(RPC, b"", 0.0)
    pair.server.answer(1, b"")
    pair.settle()
    assert pair.take() == [Answered(1, b"")]


def test_the_end_of_the_connection_ends_both_ends(pair: Pair) -> None:
    pair.client.call(RPC, b"", 0.0)
    pair.client.call(RPC, b"", 0.0)
    pair.settle()
    pair.client.receive_data(b"")
    pair.server.receive_data(b"")
    pair.settle()
    assert pair.to_client == [SessionEnded("the peer closed the connection")]
    assert pair.to_server[2:] == [SessionEnded("the peer closed the connection")]
    pair.client.give_up(1, 0.0)
    pair.server.answer(1, b"")
    pair.server.hang_up(2, 0.0)
    assert pair.carry_up() == pair.carry_down() == b""
    assert pair.client.deadline is None
    assert pair.server.deadline is None


def test_calls_that_wait_do_not_outlive_the_session() -> None:
    pair = Pair(RpcClient(0.0, max_streams=1))
    pair.client.call(RPC, b"", 0.0)
    pair.client.call(RPC, b"", 0.0)
    pair.client.receive_data(b"")
    pair.read_client()
    assert pair.to_client == [SessionEnded("the peer closed the connection")]
    assert repr(pair.client).startswith("<RpcClient 2 calls, <yamux client ended")


def test_silence_ends_the_session(pair: Pair) -> None:
    assert pair.client.deadline == pair.server.deadline == 30.0
    pair.client.advance(30.0)
    pair.server.advance(30.0)
    pair.settle()
    assert pair.client.deadline == pair.server.deadline == 60.0
    pair.client.advance(60.0)
    pair.server.advance(60.0)
    pair.client.advance(70.0)
    pair.server.advance(70.0)
    pair.read_client()
    pair.read_server()
    assert pair.to_client == pair.to_server
    assert pair.to_client == [SessionEnded("the peer did not answer a ping in time")]
    assert repr(pair.server) == (
        "<RpcServer 0 calls, <yamux server ended: the peer did not answer a ping in time, "
        "0 streams>>"
    )


def test_a_broken_session_accepts_no_calls(pair: Pair) -> None:
    pair.client.receive_data(b"\xff" * 12)
    with pytest.raises(RemoteProtocolError):
        pair.client.next_event(0.0)
    assert not pair.client.accepts_calls


# -- any traffic


@given(
    st.integers(0, 1 << 32),
    st.integers(1, 20),
    st.booleans(),
    st.sampled_from([1, 2, 256]),
    st.booleans(),
)
@settings(max_examples=60)
def test_every_call_gets_its_own_answer_however_the_bytes_travel(
    seed: int, count: int, reuse: bool, max_streams: int, large: bool
) -> None:
    # Not hypothesis' own dice: the game ends only with dice that are fair.
    dice = random.Random(seed)
    pair = Pair(RpcClient(0.0, reuse=reuse, max_streams=max_streams))
    sizes = [0, 1, 5_000, 70_000, 300_000] if large else [0, 1, 20, 100]
    steps = [1_000, 20_000, 200_000] if large else [1, 3, 50, 1_000]
    asked = [dice.choice(sizes) for _ in range(count)]
    todo = list(enumerate(asked, 1))
    waiting: list[Request] = []
    done: dict[int, bytes] = {}
    up, down = bytearray(), bytearray()
    while len(done) < count:
        if todo and dice.random() < 0.5:
            number, size = todo.pop(0)
            assert pair.client.call(RPC, b"%d:" % number + b"q" * size, 0.0) == number
        up += pair.client.data_to_send(dice.choice([100, 10_000, 262144]))
        down += pair.server.data_to_send(dice.choice([100, 10_000, 262144]))
        for pipe, end in ((up, pair.server), (down, pair.client)):
            size = dice.choice(steps)
            if pipe:
                end.receive_data(bytes(pipe[:size]))
                del pipe[:size]
        pair.read_server()
        pair.read_client()
        waiting += pair.requests()
        pair.to_server.clear()
        if waiting and dice.random() < 0.5:
            request = waiting.pop(dice.randrange(len(waiting)))
            number = int(request.data.partition(b":")[0])
            assert len(request.data) == asked[number - 1] + len(b"%d:" % number)
            pair.server.answer(request.call, b"%d" % number + b"a" * dice.choice(sizes))
        for event in pair.take():
            assert isinstance(event, Answered)
            done[event.call] = event.data
    assert all(answer.rstrip(b"a") == b"%d" % number for number, answer in done.items())
    for pipe, end in ((up, pair.server), (down, pair.client)):
        if pipe:
            end.receive_data(bytes(pipe))
    pair.settle()
    assert pair.client.in_flight == 0
    assert pair.client.stream_count <= (max_streams if reuse else 0)
