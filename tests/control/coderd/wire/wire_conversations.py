"""Reading recorded conversations, and comparing what two sides have said."""

from __future__ import annotations

from pathlib import Path

from attrs import define, field

from aigateway.actors.control.coderd.wire import _drpc_packets as packets
from aigateway.actors.control.coderd.wire import _yamux_frames as frames

FOLDER = Path(__file__).parent / "conversations"
NAMES = sorted(path.stem for path in FOLDER.glob("*.txt"))

Line = tuple[str, bytes]


def read(name: str) -> list[Line]:
    """The writes of both sides, in order, as ``(">" or "<", bytes)``."""
    lines = []
    for line in (FOLDER / f"{name}.txt").read_text().splitlines():
        if not line.startswith("#"):
            side, _, tokens = line.partition(" ")
            lines.append((side, b"".join(map(_decode, tokens.split()))))
    return lines


def _decode(token: str) -> bytes:
    digits, _, count = token.partition("*")
    return bytes.fromhex(digits) * int(count or 1)


def said_by(side: str, lines: list[Line]) -> bytes:
    return b"".join(data for who, data in lines if who == side)


@define
class StreamSummary:
    """What one side did with one stream, without the choices that are its own.

    Free are: how Data is cut, when window is given back, and whether a client closes a call
    that is over anyway.
    """

    flags: list[str] = field(factory=list)
    packets: list[packets.Packet] = field(factory=list)


FLAG_NAMES = {frames.SYN: "SYN", frames.ACK: "ACK", frames.FIN: "FIN", frames.RST: "RST"}


def summarise(data: bytes) -> dict[int, StreamSummary]:
    """Per stream id; id 0 holds pings and go-aways as flags."""
    summaries: dict[int, StreamSummary] = {}
    readers: dict[int, packets.PacketReader] = {}
    reader = frames.FrameReader()
    reader.receive_data(data)
    current = 0
    while (frame := reader.next()) is not None:
        kind, flags, stream_id, length, body = frame
        if kind != frames.MORE:
            current = stream_id
        summary = summaries.setdefault(current, StreamSummary())
        if kind != frames.MORE and current == 0:
            summary.flags.append(f"type {kind} flags {flags} value {length}")
        for bit, name in FLAG_NAMES.items():
            if current and flags & bit:
                summary.flags.append(name)
        packet_reader = readers.setdefault(current, packets.PacketReader())
        packet_reader.receive_data(body)
        while (packet := packet_reader.next_packet()) is not None:
            if packet.kind != packets.CLOSE:
                summary.packets.append(packet)
    assert not reader.inside_frame
    return summaries
