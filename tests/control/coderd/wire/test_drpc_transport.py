"""DRPC calls on one transport: the bytes, the ids, the limits."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.control.coderd.wire import NEED_DATA, LocalProtocolError, RemoteProtocolError
from aigateway.actors.control.coderd.wire import _drpc_packets as packets
from aigateway.actors.control.coderd.wire._drpc_packets import decode_varint, encode_varint
from aigateway.actors.control.coderd.wire.drpc import (
    MAX_PACKET,
    Called,
    Cancelled,
    Client,
    ClientEvent,
    Ended,
    Failed,
    Message,
    Server,
    ServerEvent,
)

RPC = "/proto.Authorizer/IsAuthorized"


def client_events(client: Client, data: bytes = b"") -> list[ClientEvent]:
    client.receive_data(data)
    found = []
    while (event := client.next_event()) is not NEED_DATA:
        found.append(event)
    return found


def server_events(server: Server, data: bytes = b"") -> list[ServerEvent]:
    server.receive_data(data)
    found = []
    while (event := server.next_event()) is not NEED_DATA:
        found.append(event)
    return found


@pytest.fixture
def client() -> Client:
    """A client with call 1 made and sent."""
    client = Client()
    client.call(RPC, b"request")
    client.data_to_send()
    return client


@pytest.fixture
def server() -> Server:
    """A server that has read call 1 whole."""
    server = Server()
    server_events(server, bytes.fromhex("0301012f") + b"x" * 47 + bytes.fromhex("0501020161"))
    server_events(server, bytes.fromhex("0d010300"))
    return server


# -- the bytes


def test_a_unary_call_is_three_packets() -> None:
    client = Client()
    assert client.call(RPC, b"\x0a\x03key") == 1
    assert client.data_to_send() == (
        bytes.fromhex("0301011e")
        + RPC.encode()
        + bytes.fromhex("05010205")
        + b"\x0a\x03key"
        + bytes.fromhex("0d010300")
    )
    assert client.data_to_send() == b""


def test_metadata_goes_before_the_invoke() -> None:
    client = Client()
    client.call("/a", b"", {"traceparent": "00-ab"})
    assert client.data_to_send() == (
        bytes.fromhex("0f010116 0a14 0a0b")
        + b"traceparent"
        + bytes.fromhex("1205")
        + b"00-ab"
        + bytes.fromhex("03010202")
        + b"/a"
        + bytes.fromhex("05010300 0d010400")
    )


def test_a_message_of_more_than_64_kib_is_split() -> None:
    data = packets.encode_message(1, 2, b"m" * (65536 * 2 + 1))
    assert data.startswith(bytes.fromhex("040102808004") + b"m")
    assert data.endswith(bytes.fromhex("05010201") + b"m")
    assert len(data) == 2 * (6 + 65536) + 4 + 1


def test_a_message_of_exactly_64_kib_is_one_frame() -> None:
    assert packets.encode_message(1, 2, b"m" * 65536)[0] == 5


def test_an_empty_answer_is_a_message_of_length_zero(server: Server) -> None:
    server.send(1, b"")
    server.end(1)
    assert server.data_to_send() == bytes.fromhex("05010100 0d010200")


def test_an_error_carries_a_code_and_a_text(server: Server) -> None:
    server.fail(1, "no", 1001)
    assert server.data_to_send() == bytes.fromhex("0701010a 00000000000003e9") + b"no"


@pytest.mark.parametrize(
    "number", [0, 1, 127, 128, 300, 16383, 16384, 2**21 - 1, 2**21, 2**32, 2**63, 2**64 - 1]
)
def test_numbers_are_read_as_they_are_written(number: int) -> None:
    written = encode_varint(number)
    assert decode_varint(written, 0) == (number, len(written))
    with pytest.raises(IndexError):
        decode_varint(written[:-1], 0)


# -- calls


def test_an_answered_call_ends(client: Client) -> None:
    assert not client.idle
    assert client_events(client, bytes.fromhex("0501010161")) == [Message(1, b"a")]
    assert client_events(client, bytes.fromhex("0d010200")) == [Ended(1)]
    assert client.idle


def test_a_refused_call_ends(client: Client) -> None:
    refusal = packets.encode_frame(packets.ERROR, 1, 1, packets.encode_error(7, "nö"))
    assert client_events(client, refusal) == [Failed(1, 7, "nö")]
    assert client.idle


def test_an_error_without_a_code_is_told_as_it_is(client: Client) -> None:
    assert client_events(client, packets.encode_frame(packets.ERROR, 1, 1, b"oops")) == [
        Failed(1, 0, "oops (the error had no code)")
    ]


def test_a_call_that_the_server_cancels_has_failed(client: Client) -> None:
    assert client_events(client, bytes.fromhex("89010100")) == [
        Failed(1, 0, "the server cancelled the call")
    ]


def test_a_stream_of_answers_ends_with_close(client: Client) -> None:
    assert client_events(client, bytes.fromhex("05010100 05010200 0b010300")) == [
        Message(1, b""),
        Message(1, b""),
        Ended(1),
    ]


def test_the_server_sees_the_call_and_its_end() -> None:
    client, server = Client(), Server()
    client.call(RPC, b"q", {"a": "1", "b": ""})
    assert server_events(server, client.data_to_send()) == [
        Called(1, RPC, {"a": "1", "b": ""}),
        Message(1, b"q"),
        Ended(1),
    ]


def test_metadata_of_another_call_is_not_mixed_up() -> None:
    server = Server()
    stray = packets.encode_frame(packets.INVOKE_METADATA, 1, 1, packets.encode_metadata({"a": "b"}))
    client = Client()
    client._last = 1
    client.call(RPC, b"")
    assert server_events(server, stray + client.data_to_send())[0] == Called(2, RPC, {})


def test_calls_follow_each_other_on_one_transport() -> None:
    client, server = Client(), Server()
    for call in (1, 2, 3):
        assert client.call(RPC, b"%d" % call) == call
        got = server_events(server, client.data_to_send())
        assert got == [Called(call, RPC, {}), Message(call, b"%d" % call), Ended(call)]
        assert server.is_open(call)
        server.send(call, b"answer")
        server.end(call)
        assert not server.is_open(call)
        assert client_events(client, server.data_to_send()) == [
            Message(call, b"answer"),
            Ended(call),
        ]


def test_a_server_that_is_done_when_the_next_call_is_read_answers_both() -> None:
    client, server = Client(), Server()
    client.call(RPC, b"1")
    client.call(RPC, b"2")
    server.receive_data(client.data_to_send())
    while (event := server.next_event()) is not NEED_DATA:
        assert not isinstance(event, Cancelled)
        if isinstance(event, Ended):
            server.send(event.call, b"done")
            server.end(event.call)
    assert client_events(client, server.data_to_send()) == [
        Message(1, b"done"),
        Ended(1),
        Message(2, b"done"),
        Ended(2),
    ]


def test_the_next_invoke_cancels_a_call_that_is_not_answered() -> None:
    client, server = Client(), Server()
    client.call(RPC, b"1")
    client.call(RPC, b"2")
    assert server_events(server, client.data_to_send())[3:5] == [Cancelled(1), Called(2, RPC, {})]
    with pytest.raises(LocalProtocolError, match="call 1 is over"):
        server.send(1, b"")


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_giving_up_on_a_call_leaves_the_transport_usable(how: str) -> None:
    client, server = Client(), Server()
    call = client.call(RPC, b"")
    server_events(server, client.data_to_send())
    getattr(client, how)(call)
    getattr(client, how)(call)
    assert client.idle
    assert client.data_to_send() == bytes.fromhex("0b010400" if how == "close" else "89010400")
    control = packets.encode_frame(
        packets.CLOSE if how == "close" else packets.CANCEL, 1, 4, b"", control=how == "cancel"
    )
    assert server_events(server, control) == [Cancelled(1)]
    with pytest.raises(LocalProtocolError, match="over"):
        server.end(1)
    call = client.call(RPC, b"again")
    assert server_events(server, client.data_to_send())[0] == Called(2, RPC, {})


def test_close_after_the_answer_means_nothing(server: Server) -> None:
    server.send(1, b"")
    server.end(1)
    assert server_events(server, bytes.fromhex("0b010400")) == []


def test_close_instead_of_close_send_after_the_answer_means_nothing() -> None:
    server = Server()
    server_events(server, bytes.fromhex("03010101") + b"x" + bytes.fromhex("05010200"))
    server.send(1, b"")
    server.end(1)
    assert server_events(server, bytes.fromhex("0b010300")) == []
    assert server_events(server, bytes.fromhex("03020101") + b"y") == [Called(2, "y", {})]


def test_late_packets_of_a_call_that_is_over_are_ignored(client: Client) -> None:
    client.close(1)
    client.call(RPC, b"")
    assert client_events(client, bytes.fromhex("0501010161 0d010200 0502010162")) == [
        Message(2, b"b")
    ]


def test_nothing_can_be_sent_for_a_call_that_never_was() -> None:
    with pytest.raises(LocalProtocolError, match="call 1 is over"):
        Server().fail(1, "no")


# -- limits and ids


def test_a_message_over_4_mib_is_not_sent(client: Client, server: Server) -> None:
    with pytest.raises(LocalProtocolError, match="over the limit"):
        client.call(RPC, b"x" * (MAX_PACKET + 1))
    with pytest.raises(LocalProtocolError, match="over the limit"):
        server.send(1, b"x" * (MAX_PACKET + 1))
    assert client.call(RPC, b"x" * MAX_PACKET) == 2
    assert server.data_to_send() == b""


@pytest.mark.parametrize("split", [1 << 16, 1 << 22])
def test_a_packet_of_4_mib_is_read_and_one_byte_more_is_not(split: int) -> None:
    def frames(size: int) -> bytes:
        return b"".join(
            packets.encode_frame(
                packets.MESSAGE, 1, 1, b"x" * min(split, size - at), done=at + split >= size
            )
            for at in range(0, size, split)
        )

    reader = packets.PacketReader()
    reader.receive_data(frames(MAX_PACKET))
    packet = reader.next_packet()
    assert packet is not None
    assert len(packet.data) == MAX_PACKET
    reader = packets.PacketReader()
    reader.receive_data(frames(MAX_PACKET + 1))
    with pytest.raises(RemoteProtocolError, match="more than 4194304 bytes"):
        reader.next_packet()


def test_a_frame_that_announces_more_than_4_mib_is_refused_at_once() -> None:
    reader = packets.PacketReader()
    reader.receive_data(bytes.fromhex("050101") + encode_varint(MAX_PACKET + 1))
    with pytest.raises(RemoteProtocolError, match="at most 4194304 allowed"):
        reader.next_packet()


def test_a_number_of_eleven_bytes_is_refused() -> None:
    reader = packets.PacketReader()
    reader.receive_data(b"\x05" + b"\xff" * 10)
    with pytest.raises(RemoteProtocolError, match="longer than ten bytes"):
        reader.next_packet()


@pytest.mark.parametrize(
    "bad",
    [
        "05010000",  # message 0
        "0501010005010100",  # the same packet twice
        "0502010005010200",  # back to a lower stream
        "040102010007010200",  # another kind inside a packet
    ],
)
def test_ids_must_grow(bad: str) -> None:
    reader = packets.PacketReader()
    reader.receive_data(bytes.fromhex(bad))
    with pytest.raises(RemoteProtocolError, match=r"ids must grow|changes its kind"):
        list(iter(reader.next_packet, None))


def test_ids_may_jump(client: Client) -> None:
    assert client_events(client, bytes.fromhex("05010a00 0501e80700")) == [
        Message(1, b""),
        Message(1, b""),
    ]


def test_an_unfinished_packet_is_dropped_when_the_next_begins(client: Client) -> None:
    assert client_events(client, bytes.fromhex("0401010161 05010201620d010300")) == [
        Message(1, b"b"),
        Ended(1),
    ]


# -- what is not allowed


def test_unknown_kinds_are_ignored_only_with_the_control_bit(
    client: Client, server: Server
) -> None:
    ignorable = packets.encode_frame(20, 1, 9, b"??", control=True)
    assert client_events(client, ignorable) == []
    assert server_events(server, ignorable) == []
    assert server_events(Server(), ignorable) == []
    plain = packets.encode_frame(20, 1, 10, b"??")
    with pytest.raises(RemoteProtocolError, match="kind 20"):
        client_events(client, plain)
    with pytest.raises(RemoteProtocolError, match="kind 20"):
        server_events(server, plain)


def test_one_control_frame_makes_the_packet_control(client: Client) -> None:
    first = packets.encode_frame(20, 1, 9, b"a", done=False, control=True)
    assert client_events(client, first + packets.encode_frame(20, 1, 9, b"b")) == []


def test_an_answer_to_a_call_that_was_not_made_is_refused(client: Client) -> None:
    with pytest.raises(RemoteProtocolError, match="call 2, which was not made"):
        client_events(client, bytes.fromhex("05020100"))


def test_a_request_without_an_invoke_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="before its Invoke"):
        server_events(Server(), bytes.fromhex("05010100"))


def test_a_second_invoke_of_the_same_call_is_refused(server: Server) -> None:
    with pytest.raises(RemoteProtocolError, match="which has begun"):
        server_events(server, bytes.fromhex("03010401") + b"x")


@pytest.mark.parametrize(
    "metadata",
    ["0b", "0a05", "0a03 0a01", "0a03 0a01ff", "0aff", "0a04 08010801"],
)
def test_broken_metadata_is_refused(metadata: str) -> None:
    data = packets.encode_frame(packets.INVOKE_METADATA, 1, 1, bytes.fromhex(metadata))
    with pytest.raises(RemoteProtocolError, match="metadata"):
        server_events(Server(), data)


def test_unknown_fields_of_metadata_are_skipped() -> None:
    assert packets.decode_metadata(bytes.fromhex("1201ff 0a06 0a0161 120162")) == {"a": "b"}
    assert packets.decode_metadata(bytes.fromhex("0a00")) == {"": ""}


def test_the_name_of_an_rpc_is_utf_8() -> None:
    with pytest.raises(RemoteProtocolError, match="not UTF-8"):
        server_events(Server(), bytes.fromhex("03010101ff"))


# -- any bytes


frames = st.builds(
    packets.encode_frame,
    st.integers(0, 21),
    st.integers(0, 4),
    st.integers(0, 6),
    st.binary(max_size=12),
    done=st.booleans(),
    control=st.booleans(),
)


@given(st.lists(frames | st.binary(max_size=20), max_size=20), st.integers(1, 50))
def test_any_bytes_raise_remote_errors_only(junk: list[bytes], cut: int) -> None:
    data = b"".join(junk)
    client, server = Client(), Server()
    client.call(RPC, b"a")
    client.call(RPC, b"b")
    for at in range(0, len(data), cut):
        try:
            client_events(client, data[at : at + cut])
        except RemoteProtocolError:
            break
    for at in range(0, len(data), cut):
        try:
            server_events(server, data[at : at + cut])
        except RemoteProtocolError:
            break


@given(st.dictionaries(st.text(max_size=200), st.text(max_size=200), max_size=5))
def test_metadata_is_read_as_it_is_written(metadata: dict[str, str]) -> None:
    assert packets.decode_metadata(packets.encode_metadata(metadata)) == metadata


@given(st.binary(max_size=300), st.lists(st.integers(0, 2000), max_size=10))
def test_a_call_survives_any_cut_of_its_bytes(request: bytes, cuts: list[int]) -> None:
    client = Client()
    client.call(RPC, request, {"k": "v"})
    data = client.data_to_send()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    server = Server()
    got = []
    for start, end in pairwise(edges):
        got += server_events(server, data[start:end])
    assert got == [Called(1, RPC, {"k": "v"}), Message(1, request), Ended(1)]


# -- whole answers


def test_a_whole_answer_is_taken_at_once_and_so_is_its_end() -> None:
    client = Client()
    for call in range(1, 300):
        assert client.call(RPC, b"request") == call
        answer = packets.encode_frame(packets.MESSAGE, call, 1, b"answer")
        assert client.whole_answer(answer) == (call, b"answer")
        end = packets.encode_frame(packets.CLOSE_SEND, call, 2, b"")
        assert client.whole_answer(end) == (call, None)
        assert client.idle
    assert client_events(client) == []


def test_what_is_not_one_whole_answer_is_left_to_be_received(client: Client) -> None:
    whole = packets.encode_frame(packets.MESSAGE, 1, 1, b"answer")
    for data in (
        b"",
        whole[:1],
        whole[:-1],
        whole + whole,
        packets.encode_frame(packets.MESSAGE, 1, 1, b"x", done=False),
        packets.encode_frame(packets.MESSAGE, 2, 1, b"to a call that was not made"),
        packets.encode_frame(packets.ERROR, 1, 1, packets.encode_error(7, "no")),
        packets.encode_frame(packets.MESSAGE, 1, 1, b"x" * 200),
    ):
        assert client.whole_answer(data) is None
    assert client_events(client, whole[:-1]) == []
    assert client.whole_answer(packets.encode_frame(packets.CLOSE_SEND, 1, 2, b"")) is None
    assert client_events(client, whole[-1:]) == [Message(1, b"answer")]
    # Ids must grow.
    assert client.whole_answer(whole) is None
    with pytest.raises(RemoteProtocolError, match="ids must grow"):
        client_events(client, whole)


def test_an_answer_to_an_earlier_call_is_not_taken_for_one_to_the_last() -> None:
    client = Client()
    client.call(RPC, b"first")
    client.call(RPC, b"second", {"meta": "data"})
    late = packets.encode_frame(packets.MESSAGE, 1, 1, b"late")
    assert client.whole_answer(late) is None
    assert client_events(client, late) == [Message(1, b"late")]
    client.call(RPC, b"third", {"meta": "data"})
    assert client.whole_answer(packets.encode_frame(packets.MESSAGE, 3, 1, b"")) == (3, b"")


@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 2, 2, 2, 3, 4, 5, 6, 6, 20]),
            st.integers(0, 4),
            st.integers(0, 3),
            st.binary(max_size=3),
            st.booleans(),
        ),
        max_size=8,
    )
)
def test_whole_answers_say_what_events_say(
    frames: list[tuple[int, int, int, bytes, bool]],
) -> None:
    clients = [Client(), Client()]
    for client in clients:
        for _ in range(3):
            client.call(RPC, b"request")
    told: list[list[object]] = [[], []]
    for kind, stream, message, data, done in frames:
        frame = packets.encode_frame(kind, stream, message, data, done=done)
        for client, found in zip(clients, told, strict=True):
            if client is clients[0] and (whole := client.whole_answer(frame)) is not None:
                call, answer = whole
                found.append(Ended(call) if answer is None else Message(call, answer))
                continue
            try:
                found += client_events(client, frame)
            except RemoteProtocolError as ex:
                found.append(str(ex))
        assert told[0] == told[1]
        if told[0] and isinstance(told[0][-1], str):
            return
