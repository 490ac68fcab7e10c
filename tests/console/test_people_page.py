"""Users, groups, keys, the policy and the audit log, in a real browser."""

from __future__ import annotations

import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from console_process import ConsoleProcess
from playwright.sync_api import Page, expect
from waiting import PATIENCE

from aigateway.actors.control.local.api_keys import (
    NewApiKey,
    WantedKey,
    create_keys,
    find_key,
    revoke_key,
)
from aigateway.actors.control.local.audit import list_changes
from aigateway.actors.control.local.opening import open_address, read_address
from aigateway.actors.control.local.people import add_members, create_group, find_user
from aigateway.actors.control.local.policies import apply, newest

DAY = 86_400
HOSTILE = "<script>alert(1)</script>' onfocus=alert(2)"
POLICY = """\
# What everybody may.
everybody:
  models: ["claude-*"]
"""


@pytest.fixture(scope="module")
def database(weeks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With people of its own, which tests may change."""
    path = tmp_path_factory.mktemp("people") / "people.db"
    shutil.copy(weeks, path)
    with closing(open_address(str(path))) as opened:
        create_group(opened, "research", who="test")
        create_keys(
            opened,
            [
                WantedKey(username="hopper", name="laptop", expires_in=DAY),
                WantedKey(username=HOSTILE, name=HOSTILE, project=HOSTILE),
                WantedKey(group="research", name="nightly"),
                WantedKey(username="old", expires_in=DAY),
            ],
            who=HOSTILE,
            now=time.time() - 10,
        )
        create_keys(
            opened,
            [WantedKey(username="old", expires_in=DAY)],
            who="test",
            now=time.time() - 9 * DAY,
        )
        add_members(opened, "research", ["hopper"], who="test")
    return path


@pytest.fixture(scope="module")
def console(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleProcess]:
    with ConsoleProcess(tmp_path_factory.mktemp("console"), database) as running:
        yield running


def made(database: Path, **wanted: Any) -> NewApiKey:
    with closing(open_address(str(database))) as opened:
        return create_keys(opened, [WantedKey(**wanted)], who="test")[0]


def changes(database: Path, **filters: str) -> list[dict[str, Any]]:
    with closing(read_address(str(database))) as opened:
        return list_changes(opened, 100, **filters)


def form_token(console: ConsoleProcess, path: str) -> str:
    found = re.search(r'name="form_token" value="([0-9a-f]+)"', console.get(path).text)
    assert found is not None
    return found[1]


def test_people_groups_and_good_keys_are_listed(page: Page, console: ConsoleProcess) -> None:
    page.goto(f"{console.url}/people")
    users = page.get_by_role("region", name="Users")
    expect(
        users.get_by_role("row", name=re.compile("^hopper research active 1 never"))
    ).to_have_count(1)
    expect(page.get_by_role("row", name=re.compile("^research 1 hopper"))).to_have_count(1)
    keys = page.get_by_role("region", name="Keys")
    expect(keys.get_by_text("research/nightly")).to_be_visible()
    expect(keys.get_by_text("expired")).to_have_count(0)
    page.get_by_role("combobox", name="Keys").select_option("all")
    expect(keys.get_by_text("expired")).to_have_count(1)
    page.get_by_label("Find").fill("HOPP")
    page.get_by_label("Find").press("Tab")
    expect(users.get_by_role("row")).to_have_count(2)
    expect(page).to_have_url(re.compile("find=HOPP"))
    page.goto(f"{console.url}/people?find=nobody-is-called-so")
    expect(page.get_by_role("heading", name="Nobody has such a name")).to_be_visible()


def test_a_user_is_refused_and_let_in_again(
    page: Page, console: ConsoleProcess, database: Path
) -> None:
    key = made(database, username="curie").key
    page.goto(f"{console.url}/people?find=curie")
    page.get_by_role("region", name="Users").get_by_role("link", name="curie").click()
    page.get_by_role("button", name="Refuse all keys").click()
    expect(page.get_by_text("disabled", exact=True).first).to_be_visible()
    with closing(read_address(str(database))) as opened:
        assert find_key(opened, key.id).state(time.time()) == "disabled"
    (row,) = changes(database, action="user.disable")
    assert row["who"].startswith("console: ")
    assert (row["before"], row["after"]) == ({"state": "active"}, {"state": "disabled"})
    page.get_by_role("button", name="Let this user in again").click()
    expect(page.get_by_role("button", name="Refuse all keys")).to_be_visible()
    with closing(read_address(str(database))) as opened:
        assert find_user(opened, "curie").state == "active"
    console.get("/people/nobody", status=404)


def test_a_policy_is_looked_at_before_it_holds(
    page: Page, console: ConsoleProcess, database: Path
) -> None:
    page.goto(f"{console.url}/policy")
    expect(page.get_by_text("There is none yet")).to_be_visible()
    page.get_by_role("textbox", name="The document").fill(POLICY)
    page.get_by_role("button", name="Show what changes").click()
    expect(page.locator(".diff .added")).to_have_text(["+ everybody.models: [claude-*]"])
    with closing(read_address(str(database))) as opened:
        assert newest(opened).version == 0
    page.get_by_role("button", name="Apply as version 1").click()
    expect(page.get_by_role("status")).to_contain_text("Version 1 holds")
    with closing(read_address(str(database))) as opened:
        stored = newest(opened)
    # Comments and all.
    assert (stored.version, stored.document) == (1, POLICY)
    (row,) = changes(database, action="policy.apply")
    assert row["who"] == stored.created_by
    assert row["who"].startswith("console: ")
    assert (row["before"], row["after"]["document"]) == (None, POLICY)
    expect(
        page.get_by_role("region", name="Rules that hold").get_by_text("claude-*")
    ).to_be_visible()


def test_a_policy_that_is_none_is_told_and_kept_in_the_form(
    console: ConsoleProcess, database: Path
) -> None:
    before = len(changes(database, action="policy"))
    token = form_token(console, "/policy")
    answer = console.browser.post(
        f"{console.url}/policy",
        data={"form_token": token, "over": "0", "document": f"everybody: {HOSTILE}"},
        headers={"Origin": console.url},
        timeout=PATIENCE,
    )
    assert answer.status_code == 400
    assert 'class="notice bad"' in answer.text
    assert "<script>alert" not in answer.text
    assert f"everybody: {HOSTILE}" in unescape(answer.text)
    assert len(changes(database, action="policy")) == before


def test_a_policy_is_not_applied_over_one_that_nobody_looked_at(
    console: ConsoleProcess, database: Path
) -> None:
    with closing(open_address(str(database))) as opened:
        version = newest(opened).version
        apply(opened, "contact: somebody else\n", over=version, who="test")
    answer = console.browser.post(
        f"{console.url}/policy",
        data={
            "form_token": form_token(console, "/policy"), "over": str(version),
            "document": POLICY, "does": "apply",
        },
        headers={"Origin": console.url},
        timeout=PATIENCE,
    )  # fmt: skip
    assert answer.status_code == 409
    assert "was applied meanwhile" in answer.text
    with closing(read_address(str(database))) as opened:
        assert newest(opened).document == "contact: somebody else\n"


def test_a_stored_policy_that_cannot_be_used_is_told_and_replaced(
    weeks: Path, tmp_path: Path
) -> None:
    path = tmp_path / "newer.db"
    shutil.copy(weeks, path)
    with closing(open_address(str(path))) as opened:
        opened.execute(
            "INSERT INTO policies (version, document, created_by, created_at)"
            " VALUES (1, 'from_next_year: 1', 'somebody', '2026-11-01T00:00:00Z')"
        )
        if isinstance(opened, sqlite3.Connection):
            opened.commit()
    with ConsoleProcess(tmp_path, path) as console:
        assert "What is stored cannot be used" in console.get("/policy").text
        fields = {"form_token": form_token(console, "/policy"), "over": "1", "document": POLICY}
        headers = {"Origin": console.url}
        told = console.browser.post(
            f"{console.url}/policy", data=fields, headers=headers, timeout=PATIENCE
        )
        assert "+ everybody.models" in told.text
        done = console.browser.post(
            f"{console.url}/policy",
            data={**fields, "does": "apply"},
            headers=headers,
            timeout=PATIENCE,
        )
    assert "Version 2 holds" in done.text


def test_the_audit_log_is_filtered_and_has_pages(
    page: Page, console: ConsoleProcess, database: Path
) -> None:
    keys = [made(database, username="paging").key for _ in range(60)]
    with closing(open_address(str(database))) as opened:
        revoke_key(opened, keys[0].id, who="100% mine")
    page.goto(f"{console.url}/audit?action=KEY.create")
    rows = page.get_by_role("region", name="Changes").get_by_role("row")
    expect(rows).to_have_count(51)
    page.get_by_role("link", name="Older").click()
    expect(rows.nth(1)).to_be_visible()
    expect(page).to_have_url(re.compile("action=KEY.create"))
    seen = rows.count() - 1
    assert 10 <= seen <= 50
    page.goto(f"{console.url}/audit")
    page.get_by_label("Who").fill("100%")
    page.get_by_label("Who").press("Tab")
    expect(rows).to_have_count(2)
    expect(rows.nth(1)).to_contain_text(f"key {keys[0].id}")
    rows.nth(1).locator("summary").click()
    expect(rows.nth(1).locator("del")).to_have_text("null")
    page.goto(f"{console.url}/audit?who=100_")
    expect(page.get_by_role("heading", name="No such change")).to_be_visible()


@pytest.mark.parametrize(
    "path",
    [
        "/people",
        "/people?keys=all&find=%3Cscript%3E%22%27",
        "/audit",
        "/audit?who=%00%22%3E%3Cscript",
    ],
)
def test_names_that_are_hostile_are_text(page: Page, console: ConsoleProcess, path: str) -> None:
    page.goto(console.url + path)
    expect(page.locator("h1")).to_be_visible()
    assert page.locator("script:not([src]), main script").count() == 0
    assert "<script>alert" not in page.content().replace("&lt;script&gt;", "")


def test_users_and_keys_with_hostile_names_have_pages(
    console: ConsoleProcess, database: Path
) -> None:
    with closing(read_address(str(database))) as opened:
        user = find_user(opened, HOSTILE)
    told = console.get(f"/people/{user.id}").text
    assert "<script>" not in told.replace('<script src="', "")
    (address,) = re.findall(r'href="(/keys/[^"]+)"', told)
    assert "<script>alert" not in console.get(address).text


@pytest.mark.parametrize("path", ["/people/{user}", "/policy"])
def test_another_page_cannot_change_people_or_the_policy(
    console: ConsoleProcess, database: Path, path: str
) -> None:
    with closing(read_address(str(database))) as opened:
        path = path.format(user=find_user(opened, "hopper").id)
    before = changes(database)
    for token in ("", "0" * 64):
        answer = console.browser.post(
            console.url + path,
            data={"form_token": token, "does": "disable", "over": "0", "document": ""},
            headers={"Origin": console.url},
            timeout=PATIENCE,
        )
        assert answer.status_code == 403
    assert changes(database) == before
