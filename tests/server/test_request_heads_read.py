"""The short ways through a request's head come to what gunicorn's own ways come to."""

from __future__ import annotations

import io
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from hypothesis import example, given
from hypothesis import strategies as st

from aigateway.http.server.parts import GatewayRequest, plain_headers

PLAIN = b"Host: gateway\r\nsession_id: 7\r\nX-Api-Key:  k \t\r\nEmpty:\r\nX-Twice: 1\r\nx-twice: 2"

SPECIAL = ["Host", "host", "Content-Type", "Content-Length", "X-Forwarded-Proto", "Expect"]
USUAL = ["X-Forwarded-SSL", "Authorization", "session_id", "X-A", "x!#$%&'*+-.^_`|~9"]
WRONG = ["", " X", "X ", "Ä", "X\t"]
VALUES = ["", " v ", "\tv\t", "a: b", "https", "100-continue", "\x00", "\x7f", "é", "v\r"]

names = st.sampled_from([*SPECIAL, *USUAL, *WRONG])
values = st.one_of(st.sampled_from(VALUES), st.text(st.characters(max_codepoint=255), max_size=12))
lines = st.builds("{}{}{}".format, names, st.sampled_from([":", ": ", "", " :"]), values)
heads = st.lists(lines, max_size=6).flatmap(
    lambda found: st.sampled_from(["\r\n", "\n", "\r\n "]).map(lambda end: end.join(found))
)


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
    return line, request.version, kept


@given(heads)
@example("Host: a\r\nHost: b")
@example("Content-Type: a\r\ncontent-type: b")
@example("X-Forwarded-Proto: https")
@example("X-Forwarded-Proto: https\r\nX-Forwarded-SSL: off")
@example("Expect: 100-continue")
@example("A: b\r\n folded")
@example("A: b\nC: d")
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
