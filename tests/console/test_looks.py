"""Whoever looks at what others have said is in the audit log."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from two_users import NAME, SECRET, Place

from aigateway.actors.control.local.audit import list_changes
from aigateway.http.console.visitors import Role


def looks(place: Place) -> list[tuple[str, str, str]]:
    """Who, what and whose, the oldest first; sign-ins and keys are left out."""
    with closing(place.database()) as database:
        found = list_changes(database, 1000, action="look.")
    return [(each["who"], each["action"], each["subject"]) for each in reversed(found)]


def of_bob(place: Place) -> dict[str, tuple[str, str]]:
    """Addresses with what bob has said, and what is noted of a look."""
    return {
        f"/sessions/one?user={place.users[NAME]}&session=s-{NAME}": (
            "look.session", f"session s-{NAME} of user {NAME}",
        ),
        f"/requests/i-{NAME}": ("look.request", f"request i-{NAME} of user {NAME}"),
        f"/requests/i-{NAME}/prompt/0": (
            "look.text", f"prompt 0 of request i-{NAME} of user {NAME}",
        ),
        f"/requests/i-{NAME}/tool/0": (
            "look.text", f"tool 0 of request i-{NAME} of user {NAME}",
        ),
        f"/requests/i-{NAME}/answer/0": (
            "look.text", f"answer 0 of request i-{NAME} of user {NAME}",
        ),
        "/requests": ("look.requests", f"prompts of requests of {NAME}"),
        f"/requests?user={NAME}": ("look.requests", f"prompts of requests of {NAME}"),
        "/sessions": ("look.sessions", f"first prompts of sessions of {NAME}"),
        "/now": ("look.now", f"newest requests of {NAME}"),
    }  # fmt: skip


@pytest.mark.parametrize("role", [Role.VIEWER, Role.ADMIN])
def test_each_look_at_another_is_noted(place: Place, role: Role) -> None:
    cookie = place.cookie(role)
    for path, (action, subject) in of_bob(place).items():
        before = len(looks(place))
        assert SECRET in place.get(cookie, path).text
        assert looks(place)[before:] == [("console: ada", action, subject)], path


@pytest.mark.parametrize("role", Role)
def test_a_look_at_ones_own_is_not(place: Place, role: Role) -> None:
    cookie = place.cookie(role)
    user = place.users["ada"]
    for path in (
        f"/sessions/one?user={user}&session=s-ada",
        "/requests/i-ada",
        "/requests/i-ada/prompt/0",
        "/requests?user=ada",
        "/sessions?user=ada",
        "/spend",
    ):
        assert place.get(cookie, path).status_code == 200
    assert looks(place) == []


def test_who_is_no_user_looks_at_others_always(place: Place) -> None:
    cookie = place.cookie(Role.ADMIN, "boss@example.org")
    place.get(cookie, "/requests")
    assert looks(place) == [
        ("console: boss@example.org", "look.requests", f"prompts of requests of ada, {NAME}")
    ]


def test_what_is_not_there_is_no_look(place: Place) -> None:
    cookie = place.cookie(Role.ADMIN)
    for path in ("/requests/none", "/requests/i-bob/prompt/9", "/requests?model=none"):
        place.get(cookie, path)
    assert looks(place) == []


@pytest.mark.parametrize("path", ["/requests", "/sessions", "/now"])
def test_lists_without_what_was_said_are_no_look(place: Place, path: str) -> None:
    with closing(place.database()) as database:
        database.execute("DELETE FROM user_prompts")
    assert SECRET in place.get(place.cookie(Role.VIEWER), path).text
    assert looks(place) == []


def test_a_page_that_goes_on_is_one_look(place: Place) -> None:
    cookie = place.cookie(Role.VIEWER)
    place.get(cookie, "/now")
    place.first_event(cookie)
    assert [action for _who, action, _subject in looks(place)] == ["look.now"]
    other = place.cookie(Role.VIEWER)
    assert SECRET in place.first_event(other)
    assert [subject for _who, _action, subject in looks(place)][1:] == [
        "newest requests of all, as they come"
    ]
    place.first_event(place.cookie(Role.OWN))
    assert len(looks(place)) == 2


def test_what_cannot_be_noted_is_not_shown(place: Place) -> None:
    cookie = place.cookie(Role.ADMIN)
    with closing(place.database()) as database:
        assert isinstance(database, sqlite3.Connection)
        database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT raise(ABORT, 'full'); END"
        )
    for path in of_bob(place):
        answer = place.get(cookie, path)
        assert answer.status_code == 503
        assert "cannot be noted" in answer.text
        assert SECRET not in answer.text
    assert place.get(cookie, "/requests/i-ada").status_code == 200
    assert place.get(cookie, "/spend").status_code == 200
