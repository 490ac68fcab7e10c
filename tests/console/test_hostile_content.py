"""What others chose is shown as text, whatever it is."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from html import unescape

import pytest
from console_process import ConsoleProcess

from aigateway.actors.control.local.audit import Change, note_changes
from aigateway.actors.control.local.opening import open_address
from aigateway.actors.control.local.policies import apply
from aigateway.actors.control.local.store import Store
from aigateway.actors.values.attribution import Attribution
from aigateway.actors.values.records import (
    InterceptionBegun,
    InterceptionEnded,
    ModelAnswer,
    ModelThought,
    PromptUsage,
    TokenUsage,
    ToolUsage,
    timestamp,
)
from aigateway.http.console.wording import visible

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'`{{7*7}}{% raw %}"
ESCAPES = "\x1b[31mred\x1b]0;title\x07\x00"
BIDI = "user\u202etxt.exe\u2066hidden\u2069"
SURROGATE = "half \ud83d of a sign"
LINE = "x" * 1_000_000
STORED = f"{SCRIPT}{ESCAPES[:-1]}{BIDI}"
"""What a database holds as it is."""
ALL = f"{SCRIPT}{ESCAPES}{BIDI}{SURROGATE}"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleProcess]:
    """Every text that a client or a model can choose is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    at = time.time() - 60
    start = InterceptionBegun(
        id="one",
        initiator_id=ALL,
        username=ALL,
        api_key_id=ALL,
        provider=ALL,
        provider_name=ALL,
        model=ALL,
        client=ALL,
        user_agent=ALL,
        started_at=at,
        client_session_id=ALL,
        credential_hint=ALL,
        metadata={ALL: ALL},
        attribution=Attribution(
            session_id=ALL, agent_id=ALL, project=ALL, repository=ALL, branch=ALL
        ),
    )
    told = {"interception_id": "one", "created_at": at + 1}
    with closing(Store(folder / "hostile.db", 5.0)) as store:
        store.write(
            [start],
            [
                PromptUsage(msg_id="m", prompt=ALL, record_id="1", metadata={ALL: ALL}, **told),  # type: ignore[arg-type]
                PromptUsage(msg_id="m", prompt=LINE, record_id="2", **told),  # type: ignore[arg-type]
                ModelThought(content=ALL, record_id="3", **told),  # type: ignore[arg-type]
                ModelAnswer(msg_id="m", content=ALL, record_id="6", **told),  # type: ignore[arg-type]
                ToolUsage(
                    msg_id="m",
                    tool=ALL,
                    input=ALL,
                    invocation_error=ALL,
                    record_id="4",
                    **told,  # type: ignore[arg-type]
                ),
                TokenUsage(msg_id="m", input_tokens=1, output_tokens=1, record_id="5", **told),  # type: ignore[arg-type]
                InterceptionEnded(
                    id="one", ended_at=at + 2, error_type=ALL[:90], error_message=ALL
                ),
            ],
        )
    with closing(open_address(str(folder / "hostile.db"))) as database:
        # Not what commands let in, but what a row may hold.
        database.execute("INSERT INTO users (id, name, created_at) VALUES (?, ?, ?)",
                         ("one-user", STORED, timestamp(at)))  # fmt: skip
        database.execute(
            "INSERT INTO api_keys (id, secret_sha256, user_id, username, created_at, name, project,"
            " rules) VALUES ('one-key', '', 'one-user', ?, ?, ?, ?, ?)",
            (STORED, timestamp(at), STORED, STORED, STORED),
        )
        document = f"contact: {json.dumps(SCRIPT)}  # {LINE}"
        apply(database, document, over=0, who=STORED)
        change = Change(STORED, STORED, {STORED: STORED}, {STORED: LINE, "list": [STORED]})
        note_changes(database, STORED, [change], at)
    with ConsoleProcess(folder, folder / "hostile.db") as console:
        yield console


PAGES = (
    "/now", "/requests", "/requests/one", "/sessions", "/spend", "/spend?by=model",
    "/spend?by=client",
    "/setup?address=" + "%3Cscript%3Ealert(1)%3C/script%3E%22onfocus=%22x",
    "/requests?user=%3Cscript%3Ealert(1)%3C/script%3E&session=%22%3E%3Cimg+src=x%3E",
    "/people?keys=all", "/people?find=%3Cscript%3E%22onfocus=%22x", "/people/one-user",
    "/keys/one-key", "/policy", "/audit", "/audit?who=%3Cscript%3E&before=%22%3E%3Cimg+src=x%3E~x",
    "/nothing/%3Cscript%3Ealert(1)%3C/script%3E",
)  # fmt: skip


@pytest.mark.parametrize("path", PAGES)
def test_nothing_that_was_sent_becomes_part_of_the_page(hostile: ConsoleProcess, path: str) -> None:
    answer = hostile.browser.get(hostile.url + path, timeout=30)
    assert answer.status_code in (200, 404)
    page = answer.content.decode()
    assert "<script>" not in page
    assert "<img" not in page
    assert "onerror=alert" not in re.sub(r"&lt;.*?&gt;", "", page)
    # Neither a terminal's commands nor what turns the text around it, but in what a form sends.
    page = re.sub(r' value="[^"]*"', "", page)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", page)


def test_what_cannot_be_seen_is_shown_by_a_sign(hostile: ConsoleProcess) -> None:
    page = hostile.get("/requests/one").text
    assert '<span class="kind">answer</span>' in page
    assert '<span class="sign" title="U+001B">␛</span>[31mred' in page
    assert '<span class="sign" title="U+202E">U+202E</span>txt.exe' in page
    assert "{{7*7}}{% raw %}" in page


def test_a_session_with_a_hostile_name_can_be_opened(hostile: ConsoleProcess) -> None:
    (address,) = re.findall(r'href="(/sessions/[^"]+)"', hostile.get("/sessions").text)
    page = hostile.get(unescape(address)).text
    assert "<script>" not in page
    assert "<strong>Subagent</strong>" in page
    assert '<span class="kind">answer</span>' in page
    assert '<span class="sign" title="U+202E">U+202E</span>txt.exe' in page
    assert len(page) < 200_000


def test_a_megabyte_is_cut_and_can_be_had_whole(hostile: ConsoleProcess) -> None:
    page = hostile.get("/requests/one").text
    assert len(page) < 200_000
    assert "1.00M characters" in page
    (address,) = re.findall(r'href="(/requests/one/prompt/\d)"', page)
    answer = hostile.get(address)
    assert answer.text == LINE
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_list_stays_small_whatever_was_sent(hostile: ConsoleProcess) -> None:
    assert len(hostile.get("/requests").text) < 40_000


def test_the_audit_log_stays_small_whatever_was_changed(hostile: ConsoleProcess) -> None:
    page = hostile.get("/audit").text
    assert len(page) < 200_000
    assert '<span class="sign" title="U+202E">U+202E</span>txt.exe' in page


def test_a_csv_has_no_formula(hostile: ConsoleProcess) -> None:
    lines = hostile.get("/spend.csv?by=user").text.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith('"')


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "<bdi>plain</bdi>"),
        ("a < b & c", "<bdi>a &lt; b &amp; c</bdi>"),
        ("line\nline\t.", "<bdi>line\nline\t.</bdi>"),
        ("\u05e9\u05dc\u05d5\u05dd", "<bdi>\u05e9\u05dc\u05d5\u05dd</bdi>"),
        ("👩\u200d👧", "<bdi>👩\u200d👧</bdi>"),
        ("a\u00a0b", "<bdi>a\u00a0b</bdi>"),
        ("\r", '<bdi><span class="sign" title="U+000D">␍</span></bdi>'),
        ("<\x7f", '<bdi>&lt;<span class="sign" title="U+007F">␡</span></bdi>'),
        ("\ud800", '<bdi><span class="sign" title="U+D800">U+D800</span></bdi>'),
    ],
)
def test_a_text_is_shown_as_text(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_text_is_cut_between_its_letters() -> None:
    assert visible("abc<", 3) == "<bdi>abc…</bdi>"
    assert visible("abc", 3) == "<bdi>abc</bdi>"
