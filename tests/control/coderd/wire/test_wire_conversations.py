"""Our client and server say what coderd's own libraries say."""

from __future__ import annotations

from itertools import pairwise

import pytest
import wire_conversations as conversations
from fake_coderd.rpc_server import (
    Abandoned,
    Request,
    RpcServer,
    ServerEvent,
)
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.control.coderd.wire import NEED_DATA, RemoteProtocolError, yamux
from aigateway.actors.control.coderd.wire import _yamux_events as events
from aigateway.actors.control.coderd.wire.rpc_client import (
    Answered,
    ClientEvent,
    ErrorAnswered,
    Finished,
    Lost,
    RpcClient,
)

WITH_CALLS = [name for name in conversations.NAMES if name != "pings"]


def client_events(client: RpcClient) -> list[ClientEvent]:
    found = []
    while (event := client.next_event(0.0)) is not NEED_DATA:
        found.append(event)
    return found


def server_events(server: RpcServer) -> list[ServerEvent]:
    found = []
    while (event := server.next_event(0.0)) is not NEED_DATA:
        found.append(event)
    return found


def everything_from(end: RpcClient | RpcServer) -> bytes:
    return b"".join(iter(end.data_to_send, b""))


class Replay:
    """Plays both sides of a recording with our own ends.

    Our server reads the recorded client, and what it understands our client does; our
    client reads the recorded server, and what it understands our server does.
    """

    def __init__(self, name: str) -> None:
        self.server = RpcServer(0.0)
        self.client = RpcClient(0.0, reuse=name == "one_after_the_other")
        self.log: list[ClientEvent | ServerEvent] = []
        self.made = 0
        if name == "large_request":
            # The server gives window back before it has seen the whole request.
            self.made = self.client.call("/proto.Recorder/RecordPromptUsage", b"p" * 400_000, 0.0)

    def play(self, side: str, data: bytes) -> None:
        if side == ">":
            self.server.receive_data(data)
            for event in server_events(self.server):
                self.log.append(event)
                if isinstance(event, Request) and event.call > self.made:
                    self.made = self.client.call(
                        event.rpc,
                        event.data,
                        0.0,
                        streaming="Watch" in event.rpc,
                        metadata=event.metadata,
                    )
                elif isinstance(event, Abandoned):
                    self.client.give_up(event.call, 0.0)
        else:
            self.client.receive_data(data)
            for event in client_events(self.client):
                self.log.append(event)
                self.imitate(event)

    def imitate(self, event: ClientEvent) -> None:
        match event:
            case Answered(call, data):
                self.server.send(call, data)
                if not self.is_watch(call):
                    self.server.end(call)
            case Finished(call):
                self.server.end(call)
            case ErrorAnswered(call, code, text):
                self.server.fail(call, text, code)
            case events.PeerGoingAway():
                self.server.go_away()

    def is_watch(self, call: int) -> bool:
        return any(
            isinstance(event, Request) and event.call == call and "Watch" in event.rpc
            for event in self.log
        )


@pytest.mark.parametrize("name", WITH_CALLS)
def test_both_ends_say_what_the_go_libraries_say(name: str) -> None:
    lines = conversations.read(name)
    replay = Replay(name)
    for side, data in lines:
        replay.play(side, data)
    recorded = conversations.summarise(conversations.said_by(">", lines))
    ours = conversations.summarise(everything_from(replay.client))
    assert ours == recorded
    recorded = conversations.summarise(conversations.said_by("<", lines))
    ours = conversations.summarise(everything_from(replay.server))
    assert ours == recorded
    assert replay.client.stream_count == 0
    assert replay.server.stream_count == 0


def replay_in_pieces(name: str, cut: int) -> list[ClientEvent | ServerEvent]:
    replay = Replay(name)
    for side, data in conversations.read(name):
        for at in range(0, len(data), cut):
            replay.play(side, data[at : at + cut])
    return replay.log


@pytest.mark.parametrize("cut", [1, 2, 5, 13])
@pytest.mark.parametrize("name", [name for name in WITH_CALLS if "large" not in name])
def test_the_cut_of_the_bytes_does_not_matter(name: str, cut: int) -> None:
    assert replay_in_pieces(name, cut) == replay_in_pieces(name, 1 << 20)


@pytest.mark.parametrize("name", ["large_request", "large_answer"])
def test_the_cut_of_many_bytes_does_not_matter(name: str) -> None:
    assert replay_in_pieces(name, 4093) == replay_in_pieces(name, 1 << 20)


def test_pings_are_answered_with_their_own_id() -> None:
    lines = conversations.read("pings")
    client, server = yamux.Session("client", 0.0), yamux.Session("server", 0.0)
    answered = []
    for side, data in lines:
        end, peer = (client, server) if side == ">" else (server, client)
        if data[3] == 1:
            end.ping(0.0)
        peer.receive_data(data)
        while (event := peer.next_event()) is not NEED_DATA:
            answered.append(event)
    assert client.data_to_send() == conversations.said_by(">", lines)
    assert server.data_to_send() == conversations.said_by("<", lines)
    assert [event for event in answered if isinstance(event, events.PingAnswered)] == [
        events.PingAnswered(0),
        events.PingAnswered(0),
        events.PingAnswered(1),
    ]


SMALL = [name for name in conversations.NAMES if "large" not in name]


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


@st.composite
def damaged(draw: st.DrawFn, side: str) -> tuple[str, list[bytes]]:
    """A recording's bytes with some of them changed, removed, doubled, and cut anywhere."""
    name = draw(st.sampled_from(SMALL))
    data = bytearray(conversations.said_by(side, conversations.read(name)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(["set", "flip", "remove", "double", "cut off"])):
            case "set":
                data[at] = draw(st.integers(0, 255))
            case "flip":
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "remove":
                del data[at : at + draw(st.integers(1, 16))]
            case "double":
                data[at:at] = data[at : at + draw(st.integers(1, 40))]
            case "cut off":
                del data[at + 1 :]
        if not data:
            data += b"\0"
    return name, pieces(bytes(data), draw(st.lists(st.integers(0, 1 << 16), max_size=8)))


def calls_of(name: str) -> list[Request]:
    server = RpcServer(0.0)
    server.receive_data(conversations.said_by(">", conversations.read(name)))
    return [event for event in server_events(server) if isinstance(event, Request)]


@given(damaged("<"))
def test_a_client_that_reads_damaged_bytes_raises_remote_errors_only(
    damage: tuple[str, list[bytes]],
) -> None:
    name, data = damage
    client = RpcClient(0.0)
    calls = {
        client.call(call.rpc, call.data, 0.0, streaming="Watch" in call.rpc)
        for call in calls_of(name)
    }
    over = set()
    for piece in [*data, b""]:
        client.receive_data(piece)
        try:
            for event in client_events(client):
                if isinstance(event, Finished | ErrorAnswered | Lost):
                    assert event.call not in over
                    over.add(event.call)
        except RemoteProtocolError:
            assert not client.accepts_calls
            assert client.stream_count == 0
            with pytest.raises(RemoteProtocolError):
                client.next_event(0.0)
            break
    assert client.deadline is None
    assert over <= calls


@given(damaged(">"))
def test_a_server_that_reads_damaged_bytes_raises_remote_errors_only(
    damage: tuple[str, list[bytes]],
) -> None:
    _, data = damage
    server = RpcServer(0.0)
    open_calls = set()
    for piece in [*data, b""]:
        server.receive_data(piece)
        try:
            for event in server_events(server):
                if isinstance(event, Request):
                    open_calls.add(event.call)
                elif isinstance(event, Abandoned):
                    open_calls.remove(event.call)
        except RemoteProtocolError:
            break
    for call in open_calls:
        server.answer(call, b"too late")
    assert server.stream_count == 0
    assert server.deadline is None
