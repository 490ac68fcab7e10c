"""The admin API, as a process of its own, in front of either kind of database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
from waiting import wait_until

from aigateway.actors.control.local.admin_keys import create_admin_key, revoke_admin_key
from aigateway.actors.control.local.api_keys import create_key
from aigateway.actors.control.local.audit import list_changes
from aigateway.actors.control.local.opening import open_address
from aigateway.actors.control.local.people import create_users
from aigateway.actors.control.local.postgres_store import PostgresStore
from aigateway.actors.control.local.price_files import load_pricing
from aigateway.actors.control.local.store import Store
from aigateway.actors.values.records import timestamp
from aigateway.http.admin.openapi import PREFIX, document
from aigateway.http.admin.operations import OPERATIONS
from aigateway.http.admin.service import answer_to, problem_of
from aigateway.http.admin.shapes import SCHEMAS, Schema

POLICY = "everybody: {models: [claude-*]}\n"
OWN_PRICES = """\
version: acme
models:
- {model: claude-sonnet-4-5, provider: house, input: 0.000001, hours: "00:00-12:00"}
- {model: claude-sonnet-4-5, provider: house, input: 0.000001, hours: "12:00-00:00"}
- model: house-model
  input: 0
  output: 1.5
  web_search: 10
  over: {1000: {input: 3}}
  tiers: {batch: {output: 1, over: {1000: {output: 2}}}}
  geo: {us: 1.1}
  since: 2026-01-01
"""


class Api:
    """A running admin API and one who may use it."""

    def __init__(self, url: str, token: str, database: str) -> None:
        self.url, self.token, self.database = url, token, database
        self.seen: set[str] = set()

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}"} | options.pop("headers", {})
        return requests.request(
            method, f"{self.url}{path}", json=body, headers=headers, timeout=30, **options
        )

    def done(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """What is answered, which must be as the document says."""
        answer = self.call(method, path, body, **options)
        operation = next(
            each
            for each in OPERATIONS
            if each.method == method and _fits(each.path, path.partition("?")[0])
        )
        self.seen.add(operation.name)
        assert answer.status_code == operation.status, answer.text
        data = answer.json()
        assert check(data, SCHEMAS[operation.answers]) is None
        assert answer.headers["Cache-Control"] == "no-store"
        return data

    def refused(self, status: int, method: str, path: str, body: Any = None, **more: Any) -> str:
        answer = self.call(method, path, body, **more)
        assert answer.status_code == status, answer.text
        assert check(answer.json(), SCHEMAS["Error"]) is None
        return str(answer.json()["error"]["message"])


def _fits(template: str, path: str) -> bool:
    parts, asked = template.split("/"), path.split("/")
    return len(parts) == len(asked) and all(
        part == each or part.startswith("{") for part, each in zip(parts, asked, strict=True)
    )


def check(value: Any, schema: Schema) -> str | None:
    """As :func:`problem_of`, with references looked up."""

    def resolved(each: Any) -> Any:
        if isinstance(each, dict):
            if "$ref" in each:
                return resolved(SCHEMAS[each["$ref"].rpartition("/")[2]])
            return {name: resolved(inner) for name, inner in each.items()}
        return each

    return problem_of(value, resolved(schema))


@pytest.fixture
def api(address: str, tmp_path: Path) -> Iterator[Api]:
    with closing(open_address(address)) as database:
        token = create_admin_key(database, "ops", who="a test").token
    log, own = tmp_path / "admin.log", tmp_path / "prices.yaml"
    own.write_text(OWN_PRICES)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "aigateway.http", "admin", "serve"),
            *("--address", "127.0.0.1:0", "--log-human", str(log), "--prices", str(own)),
        ],
        env={**os.environ, "CODER_AI_GATEWAY_LOCAL_DB": address, "PYTHONWARNINGS": "error"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:

        def listening() -> str | None:
            assert process.poll() is None, process.stderr and process.stderr.read()
            text = log.read_text() if log.exists() else ""
            lines = [line for line in text.splitlines() if "admin API listening" in line]
            return lines[0] if lines else None

        line = wait_until(listening, "the admin API listens")
        where = line.partition("address=")[2].split()[0].strip('"')
        yield Api(f"http://{where}{PREFIX}", token, address)
        process.terminate()
        assert process.wait(30) == 0
        assert token.rpartition("-")[2] not in log.read_text()
    finally:
        process.kill()
        process.communicate()


def test_all_that_the_document_names_can_be_done(api: Api) -> None:
    done = api.done
    ada = done("POST", "/users", {"name": "ada"})
    done("POST", "/groups", {"name": "lab"})
    assert done("PUT", "/groups/lab/members/ada")["members"] == ["ada"]
    assert done("GET", "/users?group=lab")["items"] == [done("GET", "/users/ada")]
    assert done("GET", f"/users/{ada['id']}")["groups"] == ["lab"]
    assert done("PATCH", "/users/ada", {"disabled": True})["state"] == "disabled"
    assert done("PATCH", "/users/ada", {"disabled": False})["state"] == "active"
    rules = {"models": ["*-mini"], "requests_per_minute": 5, "caps": [{"usd": 0.5, "every": "day"}]}
    made = done("POST", "/keys", {"group": "lab", "name": "ci", "project": "web", **rules})
    assert made["key"].startswith(made["id"] + "-")
    assert made["rules"] == rules
    assert done("GET", "/keys?group=lab")["items"] == [done("GET", f"/keys/{made['id']}")]
    assert done("DELETE", f"/keys/{made['id']}")["state"] == "revoked"
    assert done("DELETE", "/groups/lab/members/ada")["members"] == []
    assert done("DELETE", "/groups/lab")["name"] == "lab"
    assert done("GET", "/groups")["items"] == []
    assert done("GET", "/policy")["version"] == 0
    compared = done("POST", "/policy/diff", {"document": POLICY})
    assert compared == {"over": 0, "changes": ["+ everybody.models: [claude-*]"]}
    assert done("PUT", "/policy", {"document": POLICY, "over": 0})["document"] == POLICY
    done("POST", "/groups", {"name": "ops"})
    assert done("GET", "/groups/ops")["members"] == []
    changes = done("GET", "/audit")["items"]
    assert {change["who"].partition(": ")[2] for change in changes[:-1]} == {"ops"}
    assert [change["action"] for change in changes[:2]] == ["group.create", "policy.apply"]
    assert done("GET", "/prices?model=nonesuch") == {"items": [], "next": None}
    assert done("GET", "/prices/unpriced") == {"items": [], "next": None}
    assert done("GET", "/caps") == done("GET", "/usage") == {"items": [], "next": None}
    assert api.seen == {operation.name for operation in OPERATIONS}


def test_each_change_leaves_a_row_and_reading_none(api: Api) -> None:
    def rows() -> int:
        with closing(open_address(api.database)) as database:
            return len(list_changes(database, 100))

    before = rows()
    api.done("POST", "/users", {"name": "ada"})
    assert rows() == before + 1
    api.refused(409, "POST", "/users", {"name": "ada"})
    for path in ("/users", "/groups", "/keys", "/policy", "/audit", "/users/ada"):
        api.done("GET", path)
    api.done("POST", "/policy/diff", {"document": POLICY})
    assert rows() == before + 1


def test_the_document_is_the_table_of_operations(api: Api) -> None:
    served = requests.get(f"{api.url}/openapi.json", timeout=30).json()
    assert served["openapi"] == "3.1.0"
    described = {
        (method.upper(), path): operation
        for path, methods in served["paths"].items()
        for method, operation in methods.items()
    }
    assert set(described) == {(each.method, each.path) for each in OPERATIONS}
    for (method, path), operation in described.items():
        asked = path
        for parameter in operation["parameters"]:
            if parameter["in"] == "path":
                asked = asked.replace(f"{{{parameter['name']}}}", "nobody")
        # Each is there: what is refused is the name or the empty body, never the route.
        assert api.call(method, asked).status_code in (200, 400, 404)
        if "{" in path:
            assert "there is no /" not in api.call(method, asked).text
    references = str(document("1")).split("'#/components/schemas/")[1:]
    assert {text.partition("'")[0] for text in references} == set(SCHEMAS) & {
        text.partition("'")[0] for text in references
    }


def test_only_admin_keys_in_the_header_are_let_in(api: Api) -> None:
    with closing(open_address(api.database)) as database:
        user = create_key(database, "ada").token
        gone = create_admin_key(database, "gone", who="a test")
        revoke_admin_key(database, gone.key.id, who="a test")
    wrong = api.token[:-1] + ("a" if api.token[-1] != "a" else "b")
    for header in (
        "",
        api.token,
        f"Basic {api.token}",
        f"Bearer {user}",
        f"Bearer {wrong}",
        f"Bearer {gone.token}",
        "Bearer aigwadm-x-y",
        "Bearer ",
    ):
        answer = api.call("GET", "/users", headers={"Authorization": header})
        assert answer.status_code == 401, header
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for options in (
        {"params": {"key": api.token, "access_token": api.token}},
        {"cookies": {"key": api.token}},
        {"headers": {"Authorization": "", "X-Api-Key": api.token}},
    ):
        options.setdefault("headers", {"Authorization": ""})
        assert api.call("GET", "/users", **options).status_code == 401
    assert api.call("GET", "/nothing", headers={"Authorization": ""}).status_code == 401
    assert "ada" in api.call("GET", "/users", headers={"Authorization": f"bearer {api.token}"}).text


def test_caps_say_what_is_spent_reserved_and_left(api: Api) -> None:
    now = time.time()
    with closing(open_address(api.database)) as database:
        for scope, name, spent in (("user", "ada", 3), ("group", "lab", 12), ("user", "eve", 1)):
            database.execute(
                "INSERT INTO cap_tills (scope, scope_id, name, period, starts_at, ends_at,"
                " cap_nano_usd, spent_nano_usd, reserved_nano_usd, running, next_id, next_until)"
                " VALUES (?, ?, ?, 'day', ?, ?, 10, ?, 2, 1, '', 0)",
                (scope, name, name, timestamp(now - 9), timestamp(now + 3600), spent),
            )
    [lab, ada, eve] = api.done("GET", "/caps")["items"]
    assert (lab["name"], lab["spent_part"], lab["left_nano_usd"]) == ("lab", 1.2, 0)
    assert (ada["spent_nano_usd"], ada["reserved_nano_usd"], ada["left_nano_usd"]) == (3, 2, 5)
    assert ada["resets_at"] == timestamp(now + 3600)
    first = api.done("GET", "/caps?per=user&limit=1")
    assert first["items"] == [ada]
    assert api.done("GET", f"/caps?per=user&after={first['next']}")["items"] == [eve]
    assert "per must be" in api.refused(400, "GET", "/caps?per=planet")


def test_prices_are_what_the_command_says(
    api: Api, run_admin: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    own = ("--prices", str(tmp_path / "prices.yaml"))
    for model, asked in (
        ("claude-sonnet-4-5-20250929", {}),
        ("claude-sonnet-4-5", {"provider": "house"}),
        ("house-model", {}),
        ("deepseek-chat", {}),
        ("house-model", {"provider": "openai"}),
    ):
        named = ("--provider", asked["provider"]) if asked else ()
        said = run_admin("show", model, *named, *own, "--json", command="prices").stdout
        query = urlencode({"model": model, **asked})
        assert api.done("GET", f"/prices?{query}")["items"] == sorted(
            json.loads(said)["prices"], key=lambda each: (each["table"] != "acme", each["price"])
        )
    found = api.done("GET", "/prices?model=claude-sonnet-4-5")["items"]
    assert (found[0]["price"], found[0]["input"]) == ("house/claude-sonnet-4-5", "0.000001")
    assert found[0]["hours"] in ("00:00-12:00", "12:00-00:00")
    [house] = api.done("GET", "/prices?model=house-model")["items"]
    assert house == {
        "table": "acme",
        "price": "house-model",
        "provider": "",
        "model": "house-model",
        "input": "0",
        "output": "1.5",
        "web_search": "10",
        "over": {"1000": {"input": "3"}},
        "tiers": {"batch": {"output": "1", "over": {"1000": {"output": "2"}}}},
        "geo": {"us": "1.1"},
        "since": "2026-01-01",
    }


def test_prices_come_in_pages(api: Api) -> None:
    whole = api.done("GET", "/prices?model=claude-sonnet-4-5")["items"]
    assert len(whole) == 3
    seen, after = [], ""
    while True:
        page = api.done("GET", f"/prices?model=claude-sonnet-4-5&limit=2{after}")
        seen += page["items"]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen == whole


def test_what_has_no_price_is_told_as_the_command_tells_it(
    api: Api,
    records: Any,
    run_admin: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    now = time.time()
    starts = [
        records.start(model=model, started_at=now - days * 86_400)
        for model, days in (("nonesuch", 1), ("elsewhere", 2), ("long-ago", 40), ("house-model", 1))
    ]
    postgresql = "://" in api.database
    store: Any = PostgresStore(api.database, 1, 10) if postgresql else Store(api.database, 5)
    store.write(starts, [records.tokens(each.id) for each in starts])
    store.close()
    own = ("--prices", str(tmp_path / "prices.yaml"))
    said = json.loads(run_admin("check", *own, "--json", command="prices").stdout)["unpriced"]
    assert {each["model"] for each in said} == {"nonesuch", "elsewhere"}
    found = api.done("GET", "/prices/unpriced")
    assert found == {"items": sorted(said, key=lambda each: str(each["model"])), "next": None}
    first = api.done("GET", "/prices/unpriced?limit=1")
    rest = api.done("GET", f"/prices/unpriced?limit=1&after={first['next']}")
    assert (first["items"] + rest["items"], rest["next"]) == (found["items"], None)
    since = timestamp(now - 50 * 86_400)
    assert len(api.done("GET", f"/prices/unpriced?since={since}")["items"]) == 3
    assert "since must be" in api.refused(400, "GET", "/prices/unpriced?since=soon")


def test_prices_that_cannot_be_read_stop_it_before_it_listens(
    run_admin: Callable[..., subprocess.CompletedProcess[str]], address: str, tmp_path: Path
) -> None:
    open_address(address).close()
    (tmp_path / "wrong.yaml").write_text("models: [{model: m, input: 4,5}]")
    ended = run_admin("serve", "--address", "127.0.0.1:0", "--prices", str(tmp_path / "wrong.yaml"))
    assert ended.returncode == 1
    assert "wrong.yaml: models[0]" in ended.stderr


def test_usage_is_what_the_command_says(api: Api, records: Any) -> None:
    noon = 1_772_280_000.0
    starts = [
        records.start(username=name, model=model, started_at=noon + hours * 3600)
        for name, model, hours in (("ada", "m", 0), ("ada", "n", 24), ("eve", "m", 48))
    ]
    postgresql = "://" in api.database
    store: Any = PostgresStore(api.database, 1, 10) if postgresql else Store(api.database, 5)
    store.write(starts, [records.tokens(each.id) for each in starts])
    store.close()
    found = api.done("GET", "/usage")["items"]
    assert [(each["user"], each["interceptions"]) for each in found] == [("ada", 2), ("eve", 1)]
    assert (found[0]["input_tokens"], found[0]["cost_nano_usd"], found[0]["unpriced"]) == (
        20,
        None,
        2,
    )
    page = api.done("GET", "/usage?by=day,model&limit=2")
    assert [(each["day"], each["model"]) for each in page["items"]] == [
        ("2026-02-28", "m"),
        ("2026-03-01", "n"),
    ]
    rest = api.done("GET", f"/usage?by=day,model&limit=2&after={page['next']}")
    assert [each["day"] for each in rest["items"]] == ["2026-03-02"]
    [one] = api.done("GET", "/usage?by=model&since=2026-03-01&until=2026-03-02T12:00:00Z")["items"]
    assert (one["model"], one["interceptions"]) == ("n", 1)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("by=moon", "cannot group by moon"),
        ("by=", "cannot group by"),
        ("since=yesterday", "since must be a date"),
        ("until=99999-01-01", "until must be a date"),
        ("since=2026-03-02&until=2026-03-01", "since must be before until"),
        ("limit=0", "limit must be"),
        ("after=x", "after must be"),
    ],
)
def test_usage_that_cannot_be_summed_up_is_refused(api: Api, query: str, said: str) -> None:
    assert said in api.refused(400, "GET", f"/usage?{query}")


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_pages_have_everything_once_though_more_comes(api: Api, limit: int) -> None:
    with closing(open_address(api.database)) as database:
        create_users(database, [(f"u{number}", None) for number in range(5)], who="a test")
        for number in range(5):
            create_key(database, f"u{number}")
    for path, name in (("/users", "name"), ("/keys", "username"), ("/audit", "id")):
        seen: list[str] = []
        after = ""
        while True:
            page = api.done("GET", f"{path}?limit={limit}{after}")
            seen += [each[name] for each in page["items"]]
            assert len(page["items"]) <= limit
            if page["next"] is None:
                break
            if len(seen) == limit:
                # What is new by name or time comes behind, or before all that were shown.
                api.done("POST", "/users", {"name": "a-new-one"})
                api.call("PATCH", "/users/a-new-one", {"disabled": True})
            after = f"&after={page['next']}"
        assert len(seen) == len(set(seen))
        assert len(seen) >= 5
        with closing(open_address(api.database)) as database:
            database.execute("DELETE FROM users WHERE name = 'a-new-one'")


@pytest.mark.parametrize(
    ("status", "method", "target", "body", "said"),
    [
        (404, "GET", "/users/nobody", None, 'no user "nobody"'),
        (404, "GET", "/keys/nobody", None, "no key"),
        (404, "DELETE", "/keys/nobody", None, "no key"),
        (404, "GET", "/nothing", None, "there is no /nothing"),
        (405, "POST", "/audit", None, "use GET"),
        (400, "POST", "/users", {}, 'the field "name" is missing'),
        (400, "POST", "/users", {"name": 7}, 'the field "name" must be of type string'),
        (400, "POST", "/users", {"name": "x", "colour": 1}, 'no field "colour"; there are name'),
        (400, "POST", "/users", [], "the body must be of type object"),
        (400, "POST", "/users", {"name": "a\0b"}, "NUL"),
        (400, "POST", "/users", {"name": "a\nb"}, "control characters"),
        (400, "POST", "/users", {"name": "\ud800"}, "control characters"),
        (400, "PATCH", "/users/ada", {"disabled": 1}, "must be of type boolean"),
        (400, "GET", "/users/a%00b", None, "NUL"),
        (400, "GET", "/users?limit=0", None, "from 1 to 1000"),
        (400, "GET", "/users?limit=x", None, "from 1 to 1000"),
        (400, "GET", "/users?after=x", None, "what next was"),
        (400, "GET", "/users?after=WzEsIDJd", None, "what next was"),
        (400, "GET", "/users?colour=red", None, 'no parameter "colour"'),
        (400, "GET", "/prices", None, "model must name a model"),
        (400, "GET", "/prices?model=", None, "model must name a model"),
        (400, "GET", "/prices?model=m&limit=0", None, "from 1 to 1000"),
        (405, "POST", "/prices?model=m", None, "use GET"),
        (404, "GET", "/users?group=nobody", None, 'no group "nobody"'),
        (400, "POST", "/keys", {}, "user name is empty"),
        (400, "POST", "/keys", {"username": "a", "expires_in": -1}, "more than 0"),
        (400, "POST", "/keys", {"username": "a", "group": "b"}, "not of both"),
        (404, "POST", "/keys", {"group": "b", "name": "c"}, 'no group "b"'),
        (
            400,
            "POST",
            "/keys",
            {"username": "a", "caps": [{"usd": 1}]},
            '"caps[0].every" is missing',
        ),
        (400, "PUT", "/policy", {"document": "[", "over": 0}, "not valid YAML"),
        (409, "PUT", "/policy", {"document": "", "over": 7}, "applied meanwhile"),
        (400, "POST", "/policy/diff", {"document": "x: 1"}, 'no field "x"'),
    ],
)
def test_what_cannot_be_done_is_told(
    address: str, status: int, method: str, target: str, body: Any, said: str
) -> None:
    with closing(open_address(address)) as database:
        token = create_admin_key(database, "ops", who="a test").token
    sent = b"" if body is None else json.dumps(body).encode()
    answer = answer_to(
        address, load_pricing(), method, f"{PREFIX}{target}", f"Bearer {token}", sent
    )
    assert answer.status == status, answer.data
    assert check(answer.data, SCHEMAS["Error"]) is None
    assert said in answer.data["error"]["message"]


def test_bodies_that_are_no_bodies_are_refused(api: Api) -> None:
    def post(data: Any, **headers: str) -> requests.Response:
        return requests.post(
            f"{api.url}/users",
            data=data,
            headers={"Authorization": f"Bearer {api.token}", **headers},
            timeout=30,
        )

    assert "must be JSON" in post(b"{").text
    assert "must be JSON" in post(b"\xff").text
    assert "must be JSON" in post(b"[" * 100_000).text
    assert post(iter([b"{}"])).status_code == 411
    assert post(b"", **{"Content-Length": "99999999"}).status_code == 413
    assert api.done("GET", "/users")["items"] == []


def test_a_group_that_is_still_needed_is_a_conflict(api: Api) -> None:
    api.done("POST", "/groups", {"name": "lab"})
    api.done("POST", "/keys", {"group": "lab", "name": "ci"})
    assert "revoke them first" in api.refused(409, "DELETE", "/groups/lab")
    assert "already" in api.refused(409, "POST", "/groups", {"name": "lab"})


# The PostgreSQL server is shared by all tests.
@pytest.mark.parametrize("address", ["sqlite"], indirect=True)
def test_a_database_that_is_away_is_told_and_waited_for(
    api: Api, address: str, tmp_path: Path
) -> None:
    Path(address).rename(tmp_path / "elsewhere.db")
    assert "not available" in api.refused(503, "GET", "/users")
    assert not Path(address).exists()
    (tmp_path / "elsewhere.db").rename(address)
    assert api.done("GET", "/users")["items"] == []


def test_admin_keys_are_made_and_revoked_by_commands(
    api: Api, run_admin: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    made = run_admin("create", "night shift")
    token = made.stdout.strip()
    assert token.startswith("aigwadm-")
    assert "Admin key" in made.stderr
    key_id = token.split("-")[1]
    headers = {"Authorization": f"Bearer {token}"}
    assert api.call("GET", "/users", headers=headers).ok
    assert "night shift" in run_admin("list").stdout
    assert token not in run_admin("list", "--json").stdout
    assert run_admin("revoke", key_id).returncode == 0
    assert api.call("GET", "/users", headers=headers).status_code == 401
    assert "no such admin key" in run_admin("revoke", key_id).stderr
    assert "name is empty" in run_admin("create", " ").stderr
    assert "write it as" in run_admin("serve", "--address", "4011").stderr


@pytest.fixture
def run_admin(address: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str, command: str = "admin") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "aigateway.http", command, *arguments],
            env={**os.environ, "CODER_AI_GATEWAY_LOCAL_DB": address},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run
