"""Which program is behind a request, and in which session: every row of the table."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.interception.headers import Program, identify

Pairs = list[tuple[str, str]]


def unread() -> bytes:
    raise AssertionError("the body is not needed")


ROWS: list[tuple[Pairs, str, str | None]] = [
    ([("User-Agent", "mux/0.9"), ("X-Mux-Workspace-Id", "w1")], "Xum", "w1"),
    ([("User-Agent", "xum/1.0"), ("x-mux-workspace-id", " w2 ")], "Xum", "w2"),
    ([("User-Agent", "mux/0.9")], "Xum", None),
    ([("User-Agent", "mux")], "Unknown", None),
    (
        [("User-Agent", "claude-cli/2.0 (external)"), ("X-Claude-Code-Session-Id", "c1")],
        "Claude Code",
        "c1",
    ),
    ([("User-Agent", "Claude-Code/1"), ("x-claude-code-session-id", "c2")], "Claude Code", "c2"),
    ([("User-Agent", "codex_cli_rs/0.1"), ("session_id", "x1")], "Codex", "x1"),
    (
        [("User-Agent", "codex/1"), ("session_id", "old"), ("session-id", "new")],
        "Codex",
        "new",
    ),
    ([("User-Agent", "codex/1"), ("session-id", "  "), ("session_id", "old")], "Codex", "old"),
    ([("User-Agent", "codex/1")], "Codex", None),
    ([("User-Agent", "Zed/0.200.0"), ("session_id", "ignored")], "Zed", None),
    ([("User-Agent", "zed")], "Unknown", None),
    (
        [("User-Agent", "GitHubCopilotChat/0.30.0"), ("x-interaction-id", "i1")],
        "GitHub Copilot (VS Code)",
        "i1",
    ),
    (
        [("User-Agent", "copilot/1.0.0"), ("X-Client-Session-Id", "s1")],
        "GitHub Copilot (CLI)",
        "s1",
    ),
    ([("User-Agent", "kilo-code/1.2.3"), ("X-KILOCODE-TASKID", "k1")], "Kilo Code", "k1"),
    ([("Originator", "kilo-code"), ("x-kilocode-taskid", "k2")], "Kilo Code", "k2"),
    ([("originator", "Kilo-Code")], "Unknown", None),
    ([("User-Agent", "roo-code/3"), ("session_id", "ignored")], "Roo Code", None),
    ([("User-Agent", "node"), ("originator", "roo-code")], "Roo Code", None),
    ([("originator", "Roo-Code")], "Unknown", None),
    ([("User-Agent", "coder-agents/1"), ("X-Coder-Chat-Id", "a1")], "Coder Agents", "a1"),
    ([("User-Agent", "Charm Crush/1")], "Charm Crush", None),
    ([("User-Agent", "Charm-Crush/1")], "Charm Crush", None),
    ([("User-Agent", "Go-http-client/2.0"), ("X-Cursor-Client-Version", "1.2")], "Cursor", None),
    ([("X-Cursor-Client-Version", "  ")], "Unknown", None),
    (
        [("User-Agent", "opencode/1"), ("x-session-affinity", "b"), ("X-OpenCode-Session", "a")],
        "OpenCode",
        "a",
    ),
    ([("User-Agent", "opencode/1"), ("X-Session-Affinity", "b")], "OpenCode", "b"),
    ([("User-Agent", "Junie:1.0"), ("session_id", "ignored")], "Junie", None),
    ([("User-Agent", "GeminiCLI/0.61.0/gemini-2.5-pro (linux; x64)")], "Gemini CLI", None),
    ([("User-Agent", "GeminiCLI-tui/0.61.0/gemini-2.5-pro (linux)")], "Gemini CLI", None),
    ([("User-Agent", "junie")], "Unknown", None),
    ([("User-Agent", "my claude"), ("session_id", "ignored")], "Unknown", None),
    ([("User-Agent", "python-requests/2")], "Unknown", None),
    ([], "Unknown", None),
    # Earlier rows win.
    ([("User-Agent", "claude-cli"), ("originator", "kilo-code")], "Claude Code", None),
    ([("User-Agent", "roo-code/3"), ("originator", "kilo-code")], "Kilo Code", None),
    ([("User-Agent", "opencode/1"), ("X-Cursor-Client-Version", "1")], "Cursor", None),
]


@pytest.mark.parametrize(("headers", "client", "session"), ROWS)
def test_each_program_and_its_session_are_recognised(
    headers: Pairs, client: str, session: str | None
) -> None:
    without_session = client == "Claude Code" and session is None
    reader = (lambda: b"{}") if without_session else unread
    assert identify(headers, reader) == Program(client, session)


def in_user_id(user_id: object) -> bytes:
    return json.dumps({"model": "m", "metadata": {"user_id": user_id}, "messages": []}).encode()


IN_BODY: list[tuple[bytes, str | None]] = [
    (in_user_id("user_ab_account_cd_session_f47ac10b"), "f47ac10b"),
    (in_user_id("user_ab_account__session_ f47 "), "f47"),
    (in_user_id("a_session_b_session_c"), "b_session_c"),
    (in_user_id("a_session_"), None),
    (in_user_id("a_session_   "), None),
    (in_user_id("user_ab"), None),
    (in_user_id(""), None),
    (in_user_id('{"device_id":"d","session_id":" j1 "}'), "j1"),
    (in_user_id('{"session_id":"","x":"a_session_b"}'), None),
    (in_user_id('{"session_id":null}'), None),
    (in_user_id('{"session_id":7}'), None),
    (in_user_id('{"x":"a_session_b"}'), 'b"}'),
    (in_user_id('["a_session_b"]'), 'b"]'),
    (in_user_id('{"session_id":'), None),
    (in_user_id("\ud800_session_x"), None),
    (in_user_id("[" * 100_000), None),
    (in_user_id(7), None),
    (in_user_id(None), None),
    (in_user_id({"session_id": "x"}), None),
    (b'{"metadata":{"user_id":"a_session_b\xff"}}', None),
    (b'{"metadata":null}', None),
    (b'{"metadata":"a_session_b"}', None),
    (b'{"metadata":{}}', None),
    (b"{}", None),
    (b"[]", None),
    (b'"a_session_b"', None),
    (b"", None),
    (b'{"metadata":{"user_id":"a_session_b"', None),
    (b'{"x":' + b"[" * 100_000, None),
]


@pytest.mark.parametrize(("body", "session"), IN_BODY)
def test_claude_codes_session_is_read_from_the_body(body: bytes, session: str | None) -> None:
    assert identify([("User-Agent", "claude-cli/2")], lambda: body).session_id == session


def test_a_blank_session_header_leaves_it_to_the_body() -> None:
    headers = [("User-Agent", "claude-cli/2"), ("X-Claude-Code-Session-Id", " ")]
    assert identify(headers, lambda: in_user_id("a_session_b")).session_id == "b"


def test_the_first_of_several_values_counts() -> None:
    headers = [("User-Agent", ""), ("user-agent", "zed/1"), ("User-Agent", "codex/1")]
    assert identify(headers, unread).client == "Zed"


def test_what_the_reader_raises_is_passed_on() -> None:
    def broken() -> bytes:
        raise OSError("client gone")

    with pytest.raises(OSError, match="client gone"):
        identify([("User-Agent", "claude-cli/2")], broken)


@given(st.binary(max_size=60) | st.text(max_size=60).map(in_user_id))
def test_no_body_breaks_the_detection(body: bytes) -> None:
    assert identify([("User-Agent", "claude-cli/2")], lambda: body).client == "Claude Code"
