"""The files of a dump: what is in them, what is not, and what happens when they cannot be."""

from __future__ import annotations

import http.client
import io
import json
import os
import stat
from pathlib import Path
from typing import Any, cast

import pytest
from attrs import frozen
from structlog.testing import capture_logs

from aigateway.actors.upstream.exchange import Exchange
from aigateway.http.request.dump import Dump, dump_of_interception, dump_of_passthrough

URL = "https://api.example.com/v1/messages"


@frozen
class _Answer:
    status: int = 200
    reason: str = "OK"
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "text/event-stream"),)


def answered(dump: Dump, **changes: Any) -> None:
    dump.answer(cast(Exchange, _Answer(**changes)))


@pytest.fixture
def dump(tmp_path: Path) -> Dump:
    return Dump(tmp_path / "a" / "b" / "1-x")


def text(tmp_path: Path, suffix: str) -> bytes:
    return (tmp_path / "a" / "b" / f"1-x.{suffix}.txt").read_bytes()


# -- requests


def test_a_request_is_written_as_http_with_a_readable_body(dump: Dump, tmp_path: Path) -> None:
    body = b'{"b":1.0,"a":[1e400,{"\\u00e9":"\xc3\xa9"}]}'
    headers = [("X-B", "2"), ("content-length", "5"), ("A", "1"), ("a", "3")]
    dump.request("POST", f"{URL}?beta=true", headers, body)
    raw = text(tmp_path, "req")
    first, _, rest = raw.partition(b"\r\n")
    assert first == b"POST /v1/messages?beta=true HTTP/1.1"
    parsed = http.client.parse_headers(io.BytesIO(rest))
    assert parsed.keys() == ["A", "a", "Content-Length", "X-B"]
    shown = raw.partition(b"\r\n\r\n")[2]
    assert len(shown) - 1 == int(parsed["Content-Length"])
    assert shown.endswith(b"}\n")
    assert b'"b": 1.0' in shown
    assert b"1e400" in shown
    assert shown.count(b"\n") > 4


@pytest.mark.parametrize("body", [b"", b"\x1f\x8b\x00\xff", b"{"])
def test_a_body_that_is_no_json_is_written_as_it_is(
    dump: Dump, tmp_path: Path, body: bytes
) -> None:
    dump.request("POST", URL, [], body)
    assert text(tmp_path, "req").endswith(b"\r\n\r\n" + body + b"\n")


def test_a_request_without_a_body_declares_no_length(dump: Dump, tmp_path: Path) -> None:
    dump.request("GET", "https://h", [], b"")
    assert text(tmp_path, "req") == b"GET / HTTP/1.1\r\n\r\n\n"


SECRET = "super-secret-value-0123456789"


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "X-Api-Key",
        "Api-Key",
        "X-Auth-Token",
        "Cookie",
        "Proxy-Authorization",
        "X-Amz-Security-Token",
        "X-Goog-Api-Key",
        "Coder-Session-Token",
        "Set-Cookie",
        "Www-Authenticate",
        "Proxy-Authenticate",
        "X-Coder-AI-Governance-Token",
        "x-coder-ai-governance-session-token",
    ],
)
def test_credentials_are_masked_in_both_directions(dump: Dump, tmp_path: Path, name: str) -> None:
    dump.request("POST", URL, [(name, f"Bearer {SECRET}")], b"")
    answered(dump, headers=((name, SECRET),))
    dump.close()
    for suffix, shown in (("req", b"Bear...6789"), ("resp", b"supe...6789")):
        raw = text(tmp_path, suffix)
        assert SECRET.encode() not in raw
        assert f"{name}: ".encode() + shown in raw


@pytest.mark.parametrize("name", ["key", "api_key", "access_token", "client-secret", "KEY"])
def test_credentials_in_a_query_are_masked(dump: Dump, tmp_path: Path, name: str) -> None:
    dump.request("GET", f"{URL}?a=1&{name}={SECRET}&monkey=b", [], b"")
    raw = text(tmp_path, "req")
    assert SECRET.encode() not in raw
    assert f"?a=1&{name}=...&".encode() in raw


# -- answers


def test_an_answer_is_written_as_it_comes(dump: Dump, tmp_path: Path) -> None:
    answered(dump, headers=(("X-B", "2"), ("Content-Type", "text/event-stream")))
    assert not list(tmp_path.iterdir())
    dump.data(b"event: a\n")
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-B: 2\r\n\r\n"
    assert text(tmp_path, "resp") == head + b"event: a\n"
    dump.data(b"")
    dump.data(b"\xff\x00")
    dump.close()
    assert text(tmp_path, "resp") == head + b"event: a\n\xff\x00"
    dump.data(b"late")
    dump.close()
    assert text(tmp_path, "resp").endswith(b"\x00")


def test_an_answer_without_a_body_has_a_file_too(dump: Dump, tmp_path: Path) -> None:
    answered(dump, status=204, reason="", headers=())
    dump.close()
    assert text(tmp_path, "resp") == b"HTTP/1.1 204\r\n\r\n"


def test_what_broke_is_written(dump: Dump, tmp_path: Path) -> None:
    dump.error("connection reset by peer")
    dump.close()
    assert text(tmp_path, "req_error") == b"connection reset by peer\n"
    assert not list(tmp_path.rglob("*.resp.txt"))


# -- files


def test_only_the_gateways_user_can_read_them(dump: Dump, tmp_path: Path) -> None:
    dump.request("POST", URL, [], b"{}")
    answered(dump)
    dump.close()
    for path in (tmp_path / "a").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600)


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        ("claude-x", "claude-x"),
        ("openai/gpt-4.1", "openai-gpt-4.1"),
        ("../../etc", "-..-etc"),
        ("..", "-"),
        ("", "unknown"),
        ("a\0b\nc", "a-b-c"),
        ("anthropic.claude-v1:0", "anthropic.claude-v1:0"),
        ("é" * 500, "-" * 120),
    ],
)
def test_no_model_leads_out_of_the_folder(tmp_path: Path, model: str, folder: str) -> None:
    found = dump_of_interception(str(tmp_path), "prov", model, "int-1")
    found.error("x")
    (file,) = tmp_path.rglob("*.txt")
    assert file.parent == tmp_path / "prov" / folder
    assert file.name.endswith("-int-1.req_error.txt")
    assert file.name.split("-")[0].isdigit()


def test_passed_through_requests_have_a_folder_of_their_own(tmp_path: Path) -> None:
    for url in ("https://h/v1/models/a?x=1", "https://h/" + "b" * 400):
        dump_of_passthrough(str(tmp_path), "prov", url).error("x")
    names = sorted(file.name for file in (tmp_path / "prov" / "passthrough").iterdir())
    assert any("-v1-models-a-" in name for name in names)
    assert len(names) == 2


def test_a_dump_that_cannot_be_written_is_logged_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    dump = dump_of_interception(str(tmp_path / "file"), "prov", "m", "int-1")
    with capture_logs() as logs:
        dump.request("POST", URL, [("X-Api-Key", SECRET)], json.dumps({"a": 1}).encode())
        answered(dump)
        dump.data(b"x")
        dump.error("y")
        dump.close()
    assert [line["log_level"] for line in logs] == ["warning"]
    assert "--ai-gateway-dump-dir" in logs[0]["event"]
    assert SECRET not in repr(logs)


def test_every_folder_that_is_made_is_for_nobody_else(tmp_path: Path) -> None:
    top = tmp_path / "a" / "b"
    before = os.umask(0)
    try:
        dump = dump_of_interception(str(top), "anthropic", "m", "1")
        dump.request("POST", "http://x/", [], b"{}")
    finally:
        os.umask(before)
    for path in (tmp_path / "a").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
