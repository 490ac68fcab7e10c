"""What somebody may see and change: every address of the console is tried as each role."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest
from falcon import inspect, testing
from two_users import ISSUER, NAME, SECRET, Place, told

from aigateway.actors.control.local.api_keys import WantedKey, create_keys, list_keys
from aigateway.actors.control.local.audit import list_changes
from aigateway.actors.control.local.console_sessions import ConsoleSession, begin_session
from aigateway.actors.control.local.people import set_disabled
from aigateway.actors.control.local.store import Store
from aigateway.http.console import pages
from aigateway.http.console.routes import ENTRANCE, ROUTES
from aigateway.http.console.visitors import Role


def of(place: Place, name: str) -> dict[str, list[str]]:
    """Addresses of somebody's things, by route."""
    user, key = place.users[name], place.keys[name]
    return {
        "/": ["/"],
        "/now": ["/now"],
        "/now/events": ["/now/events"],
        "/spend": ["/spend", f"/spend?user={name}", f"/spend?by=model&user={name}&days=90"],
        "/spend.csv": ["/spend.csv?by=model", f"/spend.csv?by=project&user={name}"],
        "/sessions": ["/sessions", f"/sessions?user={name}", f"/sessions?user={user}"],
        "/sessions/one": [f"/sessions/one?user={user}&session=s-{name}"],
        "/requests": ["/requests", f"/requests?user={name}", f"/requests?session=s-{name}",
                      "/requests?before=9999-01-01T00:00:00.000000Z~z"],
        "/requests/{id}": [f"/requests/i-{name}"],
        "/requests/{id}/{kind}/{number:int}": [
            f"/requests/i-{name}/{kind}/0" for kind in ("prompt", "thought", "tool", "answer")
        ],
        "/keys/{id}": [f"/keys/{key}"],
        "/setup": ["/setup"],
        "/providers": ["/providers"],
        "/actors": ["/actors"],
        "/actors/trace": ["/actors/trace?worker=1"],
        "/actors/restart": ["/actors/restart?worker=1&role=recorder"],
        "/requests/{id}/raw": [f"/requests/i-{name}/raw"],
        "/providers/test": ["/providers/test?name=anthropic"],
        "/people": ["/people"],
        "/people/{id}": [f"/people/{user}"],
        "/policy": ["/policy"],
        "/audit": ["/audit"],
    }  # fmt: skip


def test_the_table_of_routes_is_that_of_the_app(place: Place) -> None:
    """So that no address is beside it, and the tests here come to all."""
    served = {route.path for route in inspect.inspect_routes(place.app)}
    assert served == {*ROUTES, *ENTRANCE}
    assert set(of(place, NAME)) == set(ROUTES)


@pytest.mark.parametrize("route", ROUTES)
def test_who_sees_what_is_theirs_sees_nothing_of_others(place: Place, route: str) -> None:
    cookie = place.cookie(Role.OWN)
    for path in of(place, NAME)[route]:
        if route == "/now/events":
            assert "apple" in (page := place.first_event(cookie))
        else:
            answer = place.get(cookie, path)
            page = answer.text
            if Role.OWN not in ROUTES[route].reads:
                assert answer.status_code == 403
            else:
                assert answer.status_code in (200, 303, 404)
        assert SECRET not in page
        if NAME not in path:
            assert NAME not in page


@pytest.mark.parametrize("route", ROUTES)
def test_who_sees_what_is_theirs_sees_that(place: Place, route: str) -> None:
    if Role.OWN not in ROUTES[route].reads or route in ("/", "/now/events", "/setup"):
        return
    cookie = place.cookie(Role.OWN)
    for path in of(place, "ada")[route]:
        answer = place.get(cookie, path)
        assert answer.status_code == 200
        if "before" not in path:
            assert "apple" in answer.text, path


@pytest.mark.parametrize("role", [Role.VIEWER, Role.ADMIN])
@pytest.mark.parametrize("route", ROUTES)
def test_those_who_see_all_see_others(place: Place, route: str, role: Role) -> None:
    if route == "/now/events":
        assert SECRET in place.first_event(place.cookie(role))
        return
    for path in of(place, NAME)[route]:
        status = place.get(place.cookie(role), path).status_code
        # There is no gateway here, and so neither actors nor providers.
        assert status == (200 if role in ROUTES[route].reads else 403) or (
            status in (303, 404)
            and route in ("/", "/actors/trace", "/actors/restart", "/providers/test")
        )


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("route", ROUTES)
def test_nobody_changes_what_they_may_not(place: Place, route: str, role: Role) -> None:
    cookie = place.cookie(role)
    with closing(place.database()) as database:
        before = len(list_changes(database, 1000))
    body = f"form_token={place.token(cookie)}&does=disable&reason=r&over=0&document=x"
    allowed = role in ROUTES[route].writes
    for path in of(place, NAME)[route]:
        status = place.ask(cookie, "POST", path, body).status_code
        assert (status == 403) is not allowed, path
    with closing(place.database()) as database:
        changes = list_changes(database, 1000)[: -before or None]
        (key,) = list_keys(database, user_id=place.users[NAME])
    if role is not Role.ADMIN:
        # What may be changed is one's own.
        assert {change["action"] for change in changes} <= {"key.create"}
        assert SECRET not in str(changes)
        assert key.state(time.time()) == "active"


def test_who_sees_what_is_theirs_makes_and_revokes_keys_for_themselves(place: Place) -> None:
    cookie = place.cookie(Role.OWN)
    token = place.token(cookie)
    page = place.ask(cookie, "POST", "/setup", f"form_token={token}&user={NAME}&name=n&days=30")
    assert "This is the key of <bdi>ada</bdi>" in page.text
    with closing(place.database()) as database:
        keys = list_keys(database, user_id=place.users["ada"])
        assert len(list_keys(database)) == 3
    assert [key.name for key in keys] == ["k-apple", "n"]
    path = f"/keys/{keys[1].id}"
    assert path in place.get(cookie, "/setup").text
    assert place.ask(cookie, "POST", path, f"form_token={token}").status_code == 200
    with closing(place.database()) as database:
        newest = list_changes(database, 1)[0]
    assert (newest["who"], newest["action"]) == ("console: ada", "key.revoke")


def test_the_navigation_leads_to_what_one_may_see(place: Place) -> None:
    for role in Role:
        page = place.get(place.cookie(role), "/setup").text
        for route in ("/now", "/spend", "/people", "/audit", "/policy", "/providers"):
            assert (f'href="{route}"' in page) is (role in ROUTES[route].reads)


def test_who_is_no_user_of_the_gateway_is_told_so(place: Place) -> None:
    cookie = place.cookie(Role.OWN, "eve@example.org")
    for path in ("/now", "/spend", "/requests/i-ada"):
        answer = place.get(cookie, path)
        assert answer.status_code == 403
        assert "eve@example.org" in answer.text
        assert "has no user of that name" in answer.text
        assert "apple" not in answer.text
    assert place.get(place.cookie(Role.VIEWER, "eve@example.org"), "/spend").status_code == 200


@pytest.mark.parametrize("role", Role)
def test_a_disabled_user_sees_nothing_any_more(place: Place, role: Role) -> None:
    cookie = place.cookie(role)
    assert place.get(cookie, "/spend").status_code == 200
    with closing(place.database()) as database:
        set_disabled(database, "ada", True, who="test")
    answer = place.get(cookie, "/spend")
    assert answer.status_code == 403
    assert "disabled" in answer.text


def test_a_user_is_meant_by_name_and_never_by_id(place: Place) -> None:
    answer = place.get(place.cookie(Role.OWN, place.users[NAME]), "/requests")
    assert answer.status_code == 403


def test_of_two_users_with_one_name_nobody_is_let_in(place: Place) -> None:
    with closing(place.database()) as database:
        database.execute(
            "INSERT INTO users (id, name, created_at) VALUES ('other', 'ada', '2026-01-01')"
        )
    answer = place.get(place.cookie(Role.OWN), "/requests")
    assert answer.status_code == 403
    assert "several users" in answer.text


@pytest.mark.parametrize("by", ["model", "day"])
def test_sums_are_of_the_user_also_where_another_has_used_the_name(place: Place, by: str) -> None:
    """A key may have been made for the name with another id."""
    with closing(place.database()) as database:
        other = "5b3fd5f1-93a5-4c52-a7b1-000000000000"
        create_keys(database, [WantedKey(username=NAME, user_id=other)], who="test")
    with closing(Store(Path(place.address), 5.0)) as store:
        told(store, "ada", "u-other", "k", "pear")
    with closing(place.database()) as database:
        database.execute("UPDATE api_keys SET username = 'ada' WHERE user_id = ?", (other,))
    page = place.get(place.cookie(Role.OWN), f"/spend.csv?by={by}").text
    assert page.splitlines()[1].split(",")[1] == "1"
    assert "pear" not in page


@pytest.mark.parametrize("role", [Role.OWN, Role.ADMIN])
def test_an_open_page_is_told_nothing_more_once_its_visitor_has_left(
    place: Place, role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "LOOK_EVERY", 0.0)
    cookie = place.cookie(role)
    environ = testing.create_environ("/now/events", headers={"Host": "127.0.0.1", "Cookie": cookie})
    told_so_far = iter(place.app(environ, testing.StartResponseMock()))
    assert next(told_so_far)
    assert place.ask(cookie, "POST", "/sign-out", "").status_code == 303
    assert list(told_so_far) == []


def test_a_session_of_another_provider_is_nobodys(place: Place) -> None:
    session = ConsoleSession(issuer="http://localhost:2", subject="s", name="ada")
    with closing(place.database()) as database:
        secret = begin_session(
            database, session, who="ada", role="own", seconds=60, now=time.time()
        )
        over = begin_session(
            database, ConsoleSession(issuer=ISSUER, subject="s", name="ada"),
            who="ada", role="own", seconds=-1, now=time.time(),
        )  # fmt: skip
    for each in (secret, over, "", "x"):
        cookie = f"aigateway-console-80=oidc-{each}"
        assert place.get(cookie, "/spend").status_code == 401
