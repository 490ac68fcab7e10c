"""A console over a database in which there are ada and bob, and what each has done."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import falcon
from attrs import frozen
from falcon import testing

from aigateway.actors.control.local.api_keys import WantedKey, create_keys
from aigateway.actors.control.local.console_sessions import ConsoleSession, begin_session
from aigateway.actors.control.local.opening import open_address
from aigateway.actors.control.local.schema import Database
from aigateway.actors.control.local.store import Store
from aigateway.actors.values.attribution import Attribution
from aigateway.actors.values.records import (
    InterceptionBegun,
    ModelAnswer,
    ModelThought,
    PromptUsage,
    TokenUsage,
    ToolUsage,
    timestamp,
)
from aigateway.http.console.app import ConsoleApp, Sources, create_app
from aigateway.http.console.door import Door
from aigateway.http.console.oidc import OidcSettings
from aigateway.http.console.visitors import Role

__all__ = ["ISSUER", "NAME", "SECRET", "Place", "console_of", "place_in", "told"]

ISSUER = "http://localhost:1"
SECRET = "zebra"
"""In all that is of the other one, but for the name and the ids."""
NAME = "bob"

OIDC = OidcSettings(
    issuer=ISSUER, client_id="console", client_secret="", scopes=("openid",), user_claim="email",
    groups_claim="groups", admins=frozenset({"admins"}), viewers=frozenset({"viewers"}),
)  # fmt: skip
GROUPS = {Role.OWN: (), Role.VIEWER: ("viewers",), Role.ADMIN: ("admins",)}


@frozen
class Place:
    """A console over a database in which the own one is ada, and the other one bob."""

    app: ConsoleApp
    address: str
    keys: dict[str, str]
    users: dict[str, str]

    def database(self) -> Database:
        return open_address(self.address)

    def cookie(self, role: Role, name: str = "ada") -> str:
        session = ConsoleSession(issuer=ISSUER, subject="s", name=name, groups=GROUPS[role])
        with closing(self.database()) as database:
            secret = begin_session(
                database, session, who=name, role=role.value, seconds=60, now=time.time()
            )
        return f"aigateway-console-80=oidc-{secret}"

    def ask(self, cookie: str, method: str, path: str, body: str | None = None) -> testing.Result:
        path, _, query = path.partition("?")
        headers = {"Host": "127.0.0.1", "Cookie": cookie, "Sec-Fetch-Site": "same-origin"}
        if body is not None:
            headers["Content-Type"] = falcon.MEDIA_URLENCODED
        return testing.TestClient(self.app).simulate_request(
            method, path, query_string=query, headers=headers, body=body
        )

    def get(self, cookie: str, path: str) -> testing.Result:
        return self.ask(cookie, "GET", path)

    def token(self, cookie: str) -> str:
        found = re.search(r'form_token" value="([0-9a-f]+)"', self.get(cookie, "/setup").text)
        # Viewers are shown no form; what they send is refused for what they are.
        return found[1] if found is not None else "none"

    def first_event(self, cookie: str) -> str:
        """What a page that is open is told first."""
        environ = testing.create_environ(
            "/now/events", headers={"Host": "127.0.0.1", "Cookie": cookie}
        )
        answer = iter(self.app(environ, testing.StartResponseMock()))
        try:
            return next(text for each in answer if "Running" in (text := each.decode()))
        finally:
            answer.close()  # type: ignore[attr-defined]


def told(store: Store, name: str, user_id: str, key: str, mark: str) -> None:
    """A session of one request, with something of each kind."""
    now, id = time.time(), f"i-{name}"
    store.write(
        [
            InterceptionBegun(
                id=id, initiator_id=user_id, username=name, api_key_id=key,
                provider="anthropic", provider_name=f"p-{mark}", model=f"m-{mark}",
                client=f"c-{mark}", client_session_id=f"s-{name}",
                attribution=Attribution(
                    session_id=f"s-{name}", repository=f"r-{mark}", branch=f"b-{mark}",
                    project=f"j-{mark}",
                ),
                user_agent=f"a-{mark}", started_at=now,
            )
        ],
        [
            PromptUsage(interception_id=id, msg_id="m", prompt=f"prompt {mark}", created_at=now),
            ModelThought(interception_id=id, content=f"thought {mark}", created_at=now),
            ToolUsage(interception_id=id, msg_id="m", tool=f"t-{mark}", input=f'"{mark}"',
                      created_at=now),
            ModelAnswer(interception_id=id, msg_id="m", content=f"answer {mark}", created_at=now),
            TokenUsage(interception_id=id, msg_id="m", input_tokens=10, output_tokens=1,
                       created_at=now),
        ],
    )  # fmt: skip


def console_of(address: str, folder: Path) -> ConsoleApp:
    """A console of a database, without a gateway."""
    return create_app(
        Sources(
            local_db=address, runtime_dir=str(folder), client_address="http://gateway", oidc=OIDC
        ),
        Door(),
    )


@contextmanager
def place_in(folder: Path) -> Iterator[Place]:
    """A console of a database of its own."""
    address = folder / "local.db"
    keys, users = {}, {}
    with closing(open_address(str(address))) as database:
        for name, mark in (("ada", "apple"), (NAME, SECRET)):
            made = create_keys(database, [WantedKey(username=name, name=f"k-{mark}")], who="test")[
                0
            ].key
            keys[name], users[name] = made.id, made.user_id
        for name, mark in (("ada", "apple"), (NAME, SECRET)):
            database.execute(
                "INSERT INTO cap_tills (scope, scope_id, period, starts_at, ends_at, name,"
                " cap_nano_usd, spent_nano_usd, reserved_nano_usd, running, next_id, next_until)"
                " VALUES ('user', ?, 'day', ?, ?, ?, 7, 1, 0, 0, '', 0)",
                (users[name], timestamp(0), timestamp(time.time() + 60), f"till {mark}"),
            )
    with closing(Store(address, 5.0)) as store:
        told(store, "ada", users["ada"], keys["ada"], "apple")
        told(store, NAME, users[NAME], keys[NAME], SECRET)
    app = console_of(str(address), folder)
    yield Place(app, str(address), keys, users)
    app.pulses.stop()
