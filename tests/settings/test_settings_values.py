"""How each kind of value is written, read and shown."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from aigateway.http.settings import OPTIONS, Option, SettingsError, load
from aigateway.http.settings._kinds import (
    ADDRESS,
    BOOL,
    DURATION,
    HEADER,
    NETWORKS,
    ORIGINS,
    PATH,
    REGEXES,
    SIZE,
    STORAGE,
    STRING,
    TIMEOUT,
    URL,
    Kind,
    choice,
    number,
    split_address,
    whole_number,
)

GOOD = [
    (BOOL, "true", True),
    (BOOL, "1", True),
    (BOOL, "T", True),
    (BOOL, "yes", True),
    (BOOL, "FALSE", False),
    (BOOL, "0", False),
    (BOOL, "off", False),
    (BOOL, True, True),
    (whole_number(), "0", 0),
    (whole_number(), " 12 ", 12),
    (whole_number(), "+3", 3),
    (whole_number(), 5, 5),
    (number(), "1.5", 1.5),
    (number(), 2, 2.0),
    (DURATION, "0", 0.0),
    (DURATION, 0, 0.0),
    (DURATION, "250ms", 0.25),
    (DURATION, "1h30m", 5400.0),
    (DURATION, "1.5s", 1.5),
    (DURATION, ".5s", 0.5),
    (DURATION, "1us", 1e-6),
    (TIMEOUT, "1ms", 0.001),
    (SIZE, "0", 0),
    (SIZE, "1024", 1024),
    (SIZE, "32MiB", 32 * 2**20),
    (SIZE, "1 gb", 10**9),
    (SIZE, 77, 77),
    (STRING, "", ""),
    (STRING, "a b", "a b"),
    (NETWORKS, "", ()),
    (NETWORKS, "10.0.0.0/8, ::1", (ip_network("10.0.0.0/8"), ip_network("::1/128"))),
    (ORIGINS, "", ()),
    (ORIGINS, "*", ("*",)),
    (
        ORIGINS,
        "HTTPS://A.example:443/, http://[::1]:5173,http://b.test:443",
        ("https://a.example", "http://[::1]:5173", "http://b.test:443"),
    ),
    (ORIGINS, ["chrome-extension://abc"], ("chrome-extension://abc",)),
    (NETWORKS, ["192.0.2.1"], (ip_network("192.0.2.1/32"),)),
    (PATH, "", ""),
    (PATH, "/x", "/x"),
    (choice("a", "b"), "b", "b"),
    (HEADER, "X-A", "X-A"),
    (HEADER, "", ""),
    (ADDRESS, "127.0.0.1:0", "127.0.0.1:0"),
    (ADDRESS, ":4001", ":4001"),
    (ADDRESS, "[::1]:80", "[::1]:80"),
    (URL, "https://h/p", "https://h/p"),
    (URL, "", ""),
    (STORAGE, "memory://", "memory://"),
    (STORAGE, "rediss://h:1/0", "rediss://h:1/0"),
    (REGEXES, "", ()),
    (REGEXES, "a,b", ("a", "b")),
    (REGEXES, '"a{1,2}",b', ("a{1,2}", "b")),
    (REGEXES, ["x", "y"], ("x", "y")),
]

BAD: list[tuple[Kind, Any]] = [
    (BOOL, ""),
    (BOOL, "maybe"),
    (BOOL, 1),
    (whole_number(), "-1"),
    (whole_number(1), "0"),
    (whole_number(1), 0),
    (whole_number(), "1.0"),
    (whole_number(), "1_000"),
    (whole_number(), "١"),
    (whole_number(), "9" * 5000),
    (whole_number(), True),
    (whole_number(), 1.5),
    (number(), "nan"),
    (number(), "inf"),
    (number(), "-0.1"),
    (number(), False),
    (DURATION, ""),
    (DURATION, "10"),
    (DURATION, "10 s"),
    (DURATION, "s"),
    (DURATION, "-1s"),
    (DURATION, "1d"),
    (DURATION, 10),
    (DURATION, True),
    (DURATION, "9" * 400 + "h"),
    (TIMEOUT, "0"),
    (TIMEOUT, "0s"),
    (SIZE, "-1"),
    (SIZE, "1.5MiB"),
    (SIZE, "1XB"),
    (SIZE, -5),
    (SIZE, False),
    (STRING, 5),
    (STRING, "a\0b"),
    (PATH, ["x"]),
    (choice("a"), "c"),
    (NETWORKS, "10.0.0.1/8"),
    (ORIGINS, "chat.example.com"),
    (ORIGINS, "https://a.example/path"),
    (ORIGINS, "https://a.example?x"),
    (ORIGINS, "https://u@a.example"),
    (ORIGINS, "https://a.example:x"),
    (ORIGINS, "https://*.example"),
    (ORIGINS, [["*"]]),
    (NETWORKS, "proxy.example"),
    (NETWORKS, [["10.0.0.0/8"]]),
    (HEADER, "a b"),
    (HEADER, "a:"),
    (ADDRESS, ""),
    (ADDRESS, "localhost"),
    (ADDRESS, "h:65536"),
    (ADDRESS, "::1:80"),
    (ADDRESS, "http://h:80"),
    (ADDRESS, "h:-1"),
    (URL, "h"),
    (URL, "ftp://h"),
    (STORAGE, ""),
    (STORAGE, "postgres://h"),
    (REGEXES, "("),
    (REGEXES, 5),
    (REGEXES, [5]),
]


@pytest.mark.parametrize(("kind", "raw", "value"), GOOD)
def test_a_good_value_is_read(kind: Kind, raw: Any, value: Any) -> None:
    read = kind.read(raw)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(("kind", "raw"), BAD)
def test_a_bad_value_is_refused_with_what_it_must_be(kind: Kind, raw: Any) -> None:
    with pytest.raises(ValueError, match=r"^must be "):
        kind.read(raw)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (DURATION, "1h30m"),
        (DURATION, "5m"),
        (DURATION, "250ms"),
        (DURATION, "0"),
        (DURATION, "1.5s"),
        (SIZE, "32MiB"),
        (SIZE, "1GiB"),
        (SIZE, "1000"),
        (SIZE, "0"),
        (BOOL, "true"),
        (REGEXES, "a,b"),
    ],
)
def test_values_are_shown_as_they_are_written(kind: Kind, text: str) -> None:
    assert kind.show(kind.read(text)) == text


def test_passwords_in_addresses_are_not_shown() -> None:
    assert STORAGE.show("redis://user:planted@host:1/0") == "redis://****@host:1/0"
    assert URL.show("https://user:planted@host/") == "https://****@host/"


def test_a_home_folder_is_expanded() -> None:
    assert not PATH.read("~/x").startswith("~")


def test_addresses_are_split() -> None:
    assert split_address("[::1]:80") == ("::1", 80)
    assert split_address(":80") == ("", 80)


def test_a_bad_expression_is_shown_with_its_fault() -> None:
    with pytest.raises(SettingsError, match=r'^CODER_LOG_FILTER: "\(" must be a list of'):
        load({"local": True}, {"CODER_LOG_FILTER": "("})


def test_a_repeated_flag_adds_to_its_list() -> None:
    settings = load({"local": True, "log_filter": ("a,b", "c")}, {})
    assert settings.log_filter == ("a", "b", "c")


@pytest.mark.parametrize("row", OPTIONS, ids=lambda row: row.name)
def test_every_default_reads_and_no_secret_is_shown(row: Option) -> None:
    row.default_value({"HOME": "/home/x"})
    if row.secret:
        assert row.show("planted") == "********"
        assert not row.yaml
