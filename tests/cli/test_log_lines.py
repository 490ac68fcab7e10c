"""One entry as one line, in three forms; and secrets taken out."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.http.logs.lines import (
    MASK,
    LogEntry,
    SecretMask,
    format_exception,
    human_line,
    json_line,
    stackdriver_line,
)

AT = 1767225600.123456
"""2026-01-01 00:00:00.123456 UTC"""


def entry(message: str = "message", **fields: Any) -> LogEntry:
    return LogEntry(at=AT, level="info", name="ai-gateway", message=message, fields=fields)


def test_the_human_form_is_time_level_name_message_fields() -> None:
    line = human_line(entry("http server listening", addr="127.0.0.1:2112", name="prometheus"))
    assert line == (
        "2026-01-01 00:00:00.123 [info]  ai-gateway: http server listening"
        "  addr=127.0.0.1:2112  name=prometheus"
    )


@pytest.mark.parametrize(
    ("level", "shown"),
    [("debug", "debug"), ("warning", "warn"), ("error", "error"), ("critical", "crit")],
)
def test_the_human_form_shortens_long_levels(level: str, shown: str) -> None:
    line = human_line(LogEntry(at=AT, level=level, name="n", message="m"))
    assert f" [{shown}]  n: m" in line


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("word", "word"),
        ("two words", '"two words"'),
        ("", '""'),
        ('a"b', '"a\\"b"'),
        ("a=b", '"a=b"'),
        ("a\nb", '"a\\nb"'),
        ("\x1b[2J", '"\\u001b[2J"'),
        ("\x9b2J", '"\\u009b2J"'),
        ("\u2028", '"\\u2028"'),
        ("größe", "größe"),
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (0.25, "0.25"),
        (1.23456789, "1.23457"),
        ([1, "a"], '[1,"a"]'),
        ({"a": {"b": 1}}, '{"a":{"b":1}}'),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (b"x", "\"b'x'\""),
        (ValueError("bad thing"), '"bad thing"'),
    ],
)
def test_the_human_form_of_a_field(value: Any, shown: str) -> None:
    assert human_line(entry(k=value)).partition("  k=")[2] == shown


def test_a_traceback_follows_indented() -> None:
    line = human_line(
        LogEntry(at=AT, level="error", name="n", message="m", exception="Traceback\n  ValueError")
    )
    assert line.splitlines()[1:] == ["    Traceback", "      ValueError"]


def test_the_json_form_has_the_fields_apart() -> None:
    assert json.loads(json_line(entry("m", msg="own", n=1))) == {
        "ts": "2026-01-01T00:00:00.123456Z",
        "level": "INFO",
        "msg": "m",
        "logger_names": ["ai-gateway"],
        "fields": {"msg": "own", "n": 1},
    }


def test_the_stackdriver_form_has_googles_names() -> None:
    line = stackdriver_line(
        LogEntry(at=AT, level="warning", name="n", message="m", fields={"a": 1}, exception="trace")
    )
    assert json.loads(line) == {
        "severity": "WARNING",
        "time": "2026-01-01T00:00:00.123456Z",
        "message": "m",
        "logger": "n",
        "fields": {"a": 1},
        "stack_trace": "trace",
    }


def test_a_traceback_is_a_field_of_the_json_form() -> None:
    line = json_line(LogEntry(at=AT, level="error", name="n", message="m", exception="trace"))
    assert json.loads(line)["fields"] == {"exception": "trace"}


ring: list[Any] = []
ring.append(ring)


@pytest.mark.parametrize(
    "value", [{1: 2}, {(1, 2): [3]}, "\ud800", ["\ud800"], ring, {"a": object()}, float("nan")]
)
@pytest.mark.parametrize("form", [human_line, json_line, stackdriver_line])
def test_no_value_is_too_odd_for_a_line(form: Any, value: Any) -> None:
    line = form(entry(k=value))
    assert "\n" not in line
    line.encode("utf-8", "backslashreplace")
    if form is not human_line:
        json.loads(line)


@given(st.text(), st.text(), st.text())
def test_nothing_in_an_entry_can_end_its_line(message: str, key: str, value: str) -> None:
    for form in (human_line, json_line, stackdriver_line):
        line = form(LogEntry(at=AT, level="info", name="n", message=message, fields={key: value}))
        assert len(line.splitlines()) == 1 or form is not human_line
        assert "\n" not in line
        assert "\r" not in line
        assert "\x1b" not in line


def test_exceptions_are_formatted_whatever_form_they_have() -> None:
    error = ValueError("bad")
    assert format_exception(error) == "ValueError: bad"
    assert format_exception((ValueError, error, None)) == "ValueError: bad"
    assert format_exception((None, None, None)) == ""
    assert format_exception(None) == ""


# -- secrets


def test_known_secrets_are_masked_wherever_they_stand() -> None:
    mask = SecretMask()
    mask.add(["hunter2-hunter2", "  padded-secret\n"])
    assert mask.apply("a hunter2-hunter2b") == f"a {MASK}b"
    assert mask.apply("padded-secret") == MASK
    mask.clear()
    assert mask.apply("hunter2-hunter2") == "hunter2-hunter2"


def test_a_secret_is_masked_in_its_json_form_too() -> None:
    mask = SecretMask()
    secret = 'quo"te\\größe'
    mask.add([secret])
    for form in (human_line, json_line, stackdriver_line):
        line = mask.apply(form(entry(k=secret)))
        assert "quo" not in line
        assert MASK in line


def test_the_longer_of_two_secrets_is_masked_whole() -> None:
    mask = SecretMask()
    mask.add(["secret-a"])
    mask.add(["secret-a-and-more"])
    assert mask.apply("secret-a-and-more") == MASK


def test_short_and_empty_secrets_do_not_spoil_lines() -> None:
    mask = SecretMask()
    mask.add(["", "a", "info"])
    assert mask.apply("an info line") == "an info line"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Authorization: Bearer abcdefgh12345", f"Authorization: Bearer {MASK}"),
        ("bearer abcdefgh12345", f"bearer {MASK}"),
        ("Basic dXNlcjpwYXNz", f"Basic {MASK}"),
        ("key sk-ant-api03-abcdefghijklmnop", f"key {MASK}"),
        ("AKIAIOSFODNN7EXAMPLE", MASK),
        ("ghu_abcdefghijklmnopqrstu", MASK),
        ("redis://user:word@host/0", f"redis://{MASK}@host/0"),
        ("a basic idea, a bearer of news", "a basic idea, a bearer of news"),
        ("task-list and disk-io at https://host/a@b", "task-list and disk-io at https://host/a@b"),
    ],
)
def test_what_looks_like_a_key_is_masked(text: str, masked: str) -> None:
    assert SecretMask().apply(text) == masked
