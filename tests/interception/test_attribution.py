"""What clients say of the work that a request is part of, and what is made of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aigateway.actors.codec.headers import HeaderList
from aigateway.actors.interception.attribution import DROPPED, attribution_of
from aigateway.actors.interception.headers import for_upstream, identify
from aigateway.actors.values.attribution import NO_ATTRIBUTION, Attribution


def told(
    *headers: tuple[str, str], agent: str = "curl/8", **options: Any
) -> tuple[Attribution, tuple[str, ...]]:
    listed = HeaderList([("User-Agent", agent), *headers])
    return attribution_of(listed, identify(listed, lambda: b"{}"), **options)


def codex(*headers: tuple[str, str], **metadata: Any) -> tuple[Attribution, tuple[str, ...]]:
    line = json.dumps(metadata)
    return told(*headers, ("x-codex-turn-metadata", line), agent="codex_cli_rs/0.171")


def workspace(*remotes: str, **more: str) -> dict[str, Any]:
    names = ("origin", "fork")
    return {"associated_remote_urls": dict(zip(names, remotes, strict=False)), **more}


def test_a_client_that_says_nothing_is_not_attributed() -> None:
    assert told() == (NO_ATTRIBUTION, ())
    assert told(agent="claude-cli/2.1 (external)") == (NO_ATTRIBUTION, ())


def test_claude_code_names_session_agent_and_parent() -> None:
    session = ("x-claude-code-session-id", "s-1")
    agent = ("X-Claude-Code-Agent-Id", "a-1")
    parent = ("X-Claude-Code-Parent-Agent-Id", "a-0")
    client = "claude-cli/2.1"
    assert told(session, agent=client)[0] == Attribution("s-1")
    assert told(session, agent, agent=client)[0] == Attribution("s-1", "a-1")
    assert told(session, agent, parent, agent=client)[0] == Attribution("s-1", "a-1", "a-0")
    # Without an agent there is nobody whose parent it could be.
    assert told(session, parent, agent=client)[0] == Attribution("s-1")


def test_codex_threads_of_subagents_belong_to_the_session_that_began_them() -> None:
    session, thread = ("session-id", "t-1"), ("thread-id", "t-1")
    assert codex(session, thread)[0] == Attribution("t-1")
    child = ("thread-id", "t-2")
    parent = ("x-codex-parent-thread-id", "t-1")
    assert codex(session, child, parent)[0] == Attribution("t-1", "t-2")
    grandchild = (("thread-id", "t-3"), ("x-codex-parent-thread-id", "t-2"))
    assert codex(session, *grandchild)[0] == Attribution("t-1", "t-3", "t-2")
    # An older one calls each thread a session.
    assert codex(("session_id", "t-2"), child, parent)[0] == Attribution("t-1", "t-2")


def test_opencode_sessions_of_subagents_belong_to_their_parent() -> None:
    own = ("x-opencode-session", "ses_2")
    assert told(own, agent="opencode/1.9")[0] == Attribution("ses_2")
    parent = ("x-parent-session-id", "ses_1")
    assert told(own, parent, agent="opencode/1.9")[0] == Attribution("ses_1", "ses_2")


def test_codex_tells_repository_branch_and_commit() -> None:
    found, dropped = codex(
        ("session-id", "t-1"),
        workspaces={
            "/home/ada/notes": {"has_changes": True},
            "/home/ada/shop": workspace(
                "git@github.com:acme/shop.git",
                latest_git_commit_hash="ABCDEF0123456789abcdef0123456789abcdef01",
                git_branch="fix/größe",
            ),
        },
    )
    assert found == Attribution(
        "t-1",
        repository="github.com/acme/shop",
        branch="fix/größe",
        commit="abcdef0123456789abcdef0123456789abcdef01",
    )
    assert dropped == ()


@pytest.mark.parametrize(
    ("remote", "name"),
    [
        ("https://github.com/acme/shop.git", "github.com/acme/shop"),
        ("https://ada:ghp_secret@GitHub.com/acme/shop", "github.com/acme/shop"),
        (
            "https://git.acme.example:8443/team/shop.git?private_token=x",
            "git.acme.example/team/shop",
        ),
        ("ssh://git@github.com:22/acme/shop.git", "github.com/acme/shop"),
        ("git@github.com:acme/shop.git", "github.com/acme/shop"),
        ("github.com/acme/shop/", "github.com/acme/shop"),
        ("shop", "shop"),
    ],
)
def test_a_repository_is_named_alike_however_it_is_reached(remote: str, name: str) -> None:
    assert codex(workspaces={"/w": workspace(remote)})[0].repository == name
    assert told(("X-AI-Gateway-Repository", remote))[0].repository == name


def test_the_gateways_own_headers_count_before_a_programs() -> None:
    found, dropped = told(
        ("session-id", "t-1"),
        ("x-codex-turn-metadata", json.dumps({"workspaces": {"/w": workspace("x.example/a/b")}})),
        ("X-AI-Gateway-Session", "mine"),
        ("X-AI-Gateway-Project", "shop"),
        ("X-AI-Gateway-Repository", "https://y.example/c/d"),
        ("X-AI-Gateway-Branch", "fix/größe".encode().decode("latin-1")),
        ("X-AI-Gateway-Commit", "0123abc"),
        agent="codex_cli_rs/0.171",
    )
    assert found == Attribution(
        "mine",
        project="shop",
        repository="y.example/c/d",
        branch="fix/größe",
        commit="0123abc",
    )
    assert dropped == ()


def test_a_keys_project_counts_before_what_its_holder_says() -> None:
    said = ("X-AI-Gateway-Project", "casino")
    assert told(said)[0].project == "casino"
    found, dropped = told(said, project="shop")
    assert (found.project, dropped) == ("shop", ("project",))
    assert told(("X-AI-Gateway-Project", "shop"), project="shop") == (
        Attribution(project="shop"),
        (),
    )
    assert told(project="shop")[0].project == "shop"
    found, dropped = told(said, may_choose=False)
    assert (found.project, dropped) == (None, ("project",))


@pytest.mark.parametrize(
    ("header", "value", "kind"),
    [
        ("x-claude-code-session-id", "s" * 129, "session"),
        ("x-claude-code-session-id", "a b", "session"),
        ("x-claude-code-agent-id", "\x1b[31m", "agent"),
        ("x-claude-code-parent-agent-id", "<script>", "parent_agent"),
        ("X-AI-Gateway-Session", "s" * 129, "session"),
        ("X-AI-Gateway-Project", "p" * 129, "project"),
        ("X-AI-Gateway-Branch", "b" * 257, "branch"),
        ("X-AI-Gateway-Branch", "a\tb", "branch"),
        ("X-AI-Gateway-Commit", "HEAD", "commit"),
        ("X-AI-Gateway-Commit", "abc", "commit"),
        ("X-AI-Gateway-Repository", "r" * 257, "repository"),
        ("X-AI-Gateway-Repository", "https://", "repository"),
    ],
)
def test_a_bad_value_is_dropped_and_named(header: str, value: str, kind: str) -> None:
    good = ("x-claude-code-agent-id", "good")
    found, dropped = told((header, value), good, agent="claude-cli/2.1")
    assert dropped == (kind,)
    assert kind in DROPPED
    field = {"session": "session_id", "agent": "agent_id", "parent_agent": "parent_agent_id"}
    assert getattr(found, field.get(kind, kind)) is None


@pytest.mark.parametrize(
    "metadata",
    [
        "{",
        "[]",
        '"x"',
        '{"workspaces": {"\x00": 1}}',
        "\u0100",
        '{"workspaces": ' + "[" * 3000,
    ],
)
def test_metadata_that_cannot_be_read_is_dropped(metadata: str) -> None:
    listed = HeaderList([("User-Agent", "codex/1"), ("x-codex-turn-metadata", metadata)])
    found, dropped = attribution_of(listed, identify(listed, lambda: b"{}"))
    assert found == NO_ATTRIBUTION
    assert dropped == ("codex_metadata",)


@pytest.mark.parametrize(
    ("metadata", "dropped"),
    [
        ({}, ()),
        ({"workspaces": None}, ()),
        ({"workspaces": []}, ()),
        ({"workspaces": {}}, ()),
        ({"workspaces": {"/w": None}}, ()),
        ({"workspaces": {"/w": {"associated_remote_urls": ["x"]}}}, ()),
        ({"workspaces": {"/w": {"associated_remote_urls": {"origin": 7}}}}, ("repository",)),
        ({"workspaces": {"/w": {"latest_git_commit_hash": {}, "branch": []}}}, ()),
        (
            {"workspaces": {"/w": {"latest_git_commit_hash": 7, "branch": [1]}}},
            ("branch", "commit"),
        ),
    ],
)
def test_metadata_of_another_shape_is_no_error(metadata: Any, dropped: tuple[str, ...]) -> None:
    assert codex(**metadata) == (NO_ATTRIBUTION, dropped)


@pytest.mark.parametrize("passthrough", [False, True])
def test_the_gateways_own_headers_never_go_upstream(passthrough: bool) -> None:
    headers = [
        ("X-AI-Gateway-Project", "shop"),
        ("x_ai_gateway_branch", "main"),
        ("X-Ai-Gateway-Something-Else", "1"),
        ("x-claude-code-session-id", "s-1"),
    ]
    sent = for_upstream(headers, auth=(), actor=(), own_key=True, passthrough=passthrough)
    names = [name.lower() for name, _value in sent if name != "User-Agent"]
    assert names == ["x-claude-code-session-id"]
