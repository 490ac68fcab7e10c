"""The short ways through a request's head come to what gunicorn's own ways come to."""

from __future__ import annotations

import io
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.body import EOFReader
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from hypothesis import example, given
from hypothesis import strategies as st

from aigateway.http.server.parts import GatewayRequest, create, plain_headers

gunicorn_create = wsgi.create

PLAIN = b"Host: gateway\r\nsession_id: 7\r\nX-Api-Key:  k \t\r\nEmpty:\r\nX-Twice: 1\r\nx-twice: 2"

SPECIAL = ["Host", "host", "Content-Type", "Content-Length", "X-Forwarded-Proto", "Expect"]
FRAMING = ["Content-Length", "Transfer-Encoding", "Connection", "CONTENT_LENGTH", "SCRIPT_NAME"]
USUAL = ["X-Forwarded-SSL", "Authorization", "session_id", "X-A", "x!#$%&'*+-.^_`|~9"]
WRONG = ["", " X", "X ", "Ä", "X\t"]
VALUES = ["", " v ", "\tv\t", "a: b", "https", "100-continue", "\x00", "\x7f", "é", "v\r"]
FRAMES = ["5", "0", "²", "-1", "+5", "chunked", "gzip, chunked", "close", "keep-alive", "/"]

names = st.sampled_from([*SPECIAL, *FRAMING, *USUAL, *WRONG])
values = st.one_of(
    st.sampled_from([*VALUES, *FRAMES]), st.text(st.characters(max_codepoint=255), max_size=12)
)
lines = st.builds("{}{}{}".format, names, st.sampled_from([":", ": ", "", " :"]), values)
heads = st.lists(lines, max_size=6).flatmap(
    lambda found: st.sampled_from(["\r\n", "\n", "\r\n "]).map(lambda end: end.join(found))
)


class FakeSocket:
    def send(self, data: bytes) -> int:
        return len(data)


def request_of(
    kind: type[Request], head: bytes, line: bytes = b"POST / HTTP/1.1", **changed: Any
) -> Request:
    """A request with ``head`` for its headers, or what gunicorn raises for it."""
    config = Config()
    # As the gateway sets it; see gunicorn_options.
    for name, value in {"header_map": "dangerous", "forwarder_headers": "", **changed}.items():
        config.set(name, value)
    source = IterUnreader(iter([line + b"\r\n" + head + b"\r\n\r\n"]))
    return kind(config, source, ("127.0.0.1", 9))


def read(kind: type[Request], head: bytes, **changed: Any) -> Any:
    try:
        request = request_of(kind, head, **changed)
    except Exception as ex:
        return type(ex), str(ex)
    line = (request.method, request.uri, request.path, request.query, request.fragment)
    kept = (request.headers, request.scheme, request._expected_100_continue)
    framing = request.body.reader
    # Chunks are counted by a reader of our own.
    length = getattr(framing, "length", None if isinstance(framing, EOFReader) else "chunks")
    return line, request.version, kept, length, [request.should_close() for _ in range(2)]


@given(heads)
@example("Host: a\r\nHost: b")
@example("Content-Type: a\r\ncontent-type: b")
@example("X-Forwarded-Proto: https")
@example("X-Forwarded-Proto: https\r\nX-Forwarded-SSL: off")
@example("Expect: 100-continue")
@example("A: b\r\n folded")
@example("A: b\nC: d")
@example("Transfer-Encoding: 5")
@example("Content-Length: 5\r\nTransfer-Encoding: chunked")
@example("Content-Length: 5\r\nContent-Length: 5")
def test_any_headers_are_read_as_gunicorn_reads_them(text: str) -> None:
    head = text.encode("latin-1")
    assert read(GatewayRequest, head) == read(Request, head)


@pytest.mark.parametrize(
    "changed",
    [
        {"limit_request_fields": 5},
        {"limit_request_field_size": 10},
        {"header_map": "drop"},
        {"header_map": "refuse"},
        {"secure_scheme_headers": {"SESSION_ID": "7"}},
        {"forwarded_allow_ips": ""},
    ],
)
def test_gunicorn_s_settings_hold(changed: dict[str, Any]) -> None:
    assert read(GatewayRequest, PLAIN, **changed) == read(Request, PLAIN, **changed)


@given(heads, st.sampled_from([b"POST /a%20b?c HTTP/1.1", b"GET http://h/a%zz HTTP/1.0"]))
@example("A: b\r\na: c\r\nA: d", b"GET / HTTP/1.1")
@example("CONTENT_TYPE: a\r\nContent-Type: b", b"GET / HTTP/1.1")
@example("SCRIPT_NAME: /a", b"GET /a/b HTTP/1.1")
def test_any_request_s_environment_is_that_which_gunicorn_makes(text: str, line: bytes) -> None:
    try:
        request = request_of(GatewayRequest, text.encode("latin-1"), line)
    except Exception:
        return

    def made(make: Any) -> Any:
        peer, here = ("127.0.0.1", 9), ("127.0.0.1", 80)
        try:
            environ = make(request, FakeSocket(), peer, here, request.cfg)[1]
        except Exception as ex:
            return type(ex), str(ex)
        told = {"wsgi.early_hints", "wsgi.errors", "gunicorn.socket"}
        return {name: value for name, value in environ.items() if name not in told}

    assert made(create) == made(gunicorn_create)


def test_a_part_of_a_path_that_the_environment_names_is_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = request_of(GatewayRequest, PLAIN, b"GET /below/path HTTP/1.1")
    monkeypatch.setenv("SCRIPT_NAME", "/below")
    _, environ = create(request, None, ("127.0.0.1", 9), ("127.0.0.1", 80), request.cfg)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/below", "/path")


methods = st.sampled_from(["POST", "GET", "get", "G", "OPTIONS", "CONNECT", "PO ST", "P\x00T", ""])
targets = st.sampled_from(
    [
        "/",
        "/openai/v1/chat/completions",
        "/a?b=c",
        "/a#b",
        "//a/b",
        "*",
        "http://h/a?b",
        "h:1",
        "/\xe9",
        "",
        "/" * 300,
    ]
)
versions = st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/1.10", "http/1.1", ""])


@given(methods, targets, versions)
def test_any_request_line_is_read_as_gunicorn_reads_it_each_time(
    method: str, target: str, version: str
) -> None:
    line = f"{method} {target} {version}".encode("latin-1")
    expected = read(Request, PLAIN, line=line)
    for _ in range(3):
        assert read(GatewayRequest, PLAIN, line=line) == expected


def test_what_is_plain_goes_the_short_way() -> None:
    assert plain_headers(PLAIN) == [
        ("HOST", "gateway"),
        ("SESSION_ID", "7"),
        ("X-API-KEY", "k"),
        ("EMPTY", ""),
        ("X-TWICE", "1"),
        ("X-TWICE", "2"),
    ]


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"Host: a\r\nHost: b",
        b"X-Forwarded-Proto: https",
        b"Expect: 100-continue",
        b"A: b\r\n folded",
        b"A: b\nC: d",
        b"A: b\r\n\r\nC: d",
        b"A : b",
        b"A: b\r\n",
        b": b",
        b"A",
        b"A: \x00",
    ],
)
def test_what_is_special_does_not(head: bytes) -> None:
    assert plain_headers(head) is None


def test_a_long_line_takes_no_longer_than_it_is_long() -> None:
    # Patterns that try again at each place would take minutes.
    text = io.BytesIO()
    for _ in range(200):
        text.write(b"A" * 300 + b":" + b" " * 300 + b"\r\n")
    assert plain_headers(text.getvalue() + b"A\x00") is None
