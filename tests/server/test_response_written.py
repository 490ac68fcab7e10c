"""What gunicorn's response and the gateway's put on the wire, and in how many pieces."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.wsgi import Response

from aigateway.http.server.parts import GatewayResponse, close_behind, keep_own_headers

LARGE = b"x" * 100_000


class Socket:
    """Takes at most ``room`` bytes at a time, but all when it is told to."""

    def __init__(self, room: int = 1 << 20) -> None:
        self.room = room
        self.pieces: list[bytes] = []

    def send(self, data: bytes) -> int:
        self.pieces.append(bytes(data[: self.room]))
        return len(self.pieces[-1])

    def sendall(self, data: bytes) -> None:
        self.pieces.append(bytes(data))

    @property
    def text(self) -> bytes:
        return re.sub(rb"Date: [^\r]*", b"Date: now", b"".join(self.pieces))


def respond(
    kind: type[Response],
    status: str,
    headers: list[tuple[str, str]],
    body: list[bytes],
    *,
    method: str = "POST",
    version: tuple[int, int] = (1, 1),
    close: bool = False,
    room: int = 1 << 20,
) -> Socket:
    sock = Socket(room)
    request = SimpleNamespace(method=method, version=version, should_close=lambda: close)
    response: Any = kind(request, sock, Config())
    response.start_response(status, headers)
    for piece in body:
        response.write(piece)
    response.close()
    return sock


LENGTH_5 = [("Content-Type", "text/plain"), ("Content-Length", "5")]


@pytest.mark.parametrize(
    ("status", "headers", "body", "more"),
    [
        ("200 OK", LENGTH_5, [b"hello"], {}),
        ("200 OK", LENGTH_5, [b"hel", b"lo"], {}),
        ("200 OK", LENGTH_5, [b"", b"hello"], {}),
        ("200 OK", LENGTH_5, [b"hello, world"], {}),
        ("200 OK", LENGTH_5, [b"hello", b", world"], {}),
        ("200 OK", LENGTH_5, [b"hello"], {"method": "HEAD"}),
        ("200 OK", LENGTH_5, [b"hello"], {"close": True}),
        ("200 OK", [], [b"data: 1\n\n", b"data: 2\n\n"], {}),
        ("200 OK", [], [b"data: 1\n\n"], {"version": (1, 0)}),
        ("200 OK", [], [LARGE, b"end"], {}),
        ("200 OK", [("Content-Length", str(len(LARGE)))], [LARGE], {}),
        ("200 OK", [], [], {}),
        ("200 OK", [("Content-Length", "0")], [b""], {}),
        ("204 No Content", [], [], {}),
        ("304 Not Modified", [("ETag", "é")], [], {}),
        ("426 Upgrade Required", [("Upgrade", "HTTP/1.1")], [b"no"], {}),
    ],
)
def test_the_same_bytes_leave(
    status: str, headers: list[tuple[str, str]], body: list[bytes], more: dict[str, Any]
) -> None:
    ours = respond(GatewayResponse, status, headers, body, **more)
    theirs = respond(Response, status, headers, body, **more)
    assert ours.text == theirs.text
    assert len(ours.pieces) <= len(theirs.pieces)


def test_the_head_leaves_with_the_first_piece() -> None:
    assert len(respond(GatewayResponse, "200 OK", LENGTH_5, [b"hello"]).pieces) == 1
    first, second, end = respond(GatewayResponse, "200 OK", [], [b"one", b"two"]).pieces
    assert first.endswith(b"\r\n\r\n3\r\none\r\n")
    assert (second, end) == (b"3\r\ntwo\r\n", b"0\r\n\r\n")


def test_a_large_piece_is_not_copied() -> None:
    head, piece = respond(GatewayResponse, "200 OK", [("Content-Length", "100000")], [LARGE]).pieces
    assert head.endswith(b"\r\n\r\n")
    assert piece == LARGE


def test_what_the_socket_does_not_take_at_once_follows() -> None:
    whole = respond(GatewayResponse, "200 OK", [], [b"one", LARGE, b"two"])
    cut = respond(GatewayResponse, "200 OK", [], [b"one", LARGE, b"two"], room=10)
    assert cut.text == whole.text
    assert len(cut.pieces) > len(whole.pieces)


def test_relayed_headers_stand_in_the_place_of_the_servers_own() -> None:
    sock = Socket()
    request = SimpleNamespace(method="GET", version=(1, 1), should_close=lambda: False)
    response = GatewayResponse(request, sock, Config())
    headers = [("server", "upstream/1"), ("DATE", "Mon, 01 Jan 2024 00:00:00 GMT"), ("X-A", "b")]
    keep_own_headers(response.start_response, headers)
    response.start_response("200 OK", [*LENGTH_5, ("X-A", "b")])
    response.write(b"hello")
    lines = sock.pieces[0].split(b"\r\n")
    assert lines[1:4] == [
        b"server: upstream/1",
        b"DATE: Mon, 01 Jan 2024 00:00:00 GMT",
        b"Connection: keep-alive",
    ]
    assert sock.text.count(b"Server") == sock.text.count(b"Date") == 0


def test_a_connection_is_closed_behind_an_answer_when_asked_to() -> None:
    sock = Socket()
    request = SimpleNamespace(method="GET", version=(1, 1), should_close=lambda: False)
    response = GatewayResponse(request, sock, Config())
    close_behind(response.start_response)
    response.start_response("200 OK", LENGTH_5)
    response.write(b"hello")
    assert b"\r\nConnection: close\r\n" in sock.pieces[0]


def test_under_another_server_nothing_happens() -> None:
    keep_own_headers(print, [("Server", "x")])
    close_behind(print)
