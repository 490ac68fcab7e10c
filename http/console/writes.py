"""The pages that change something: each shows a form, and sends it to its own address.

What they do is done by the functions behind the commands and the admin API, with a row in the
table of changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import falcon
import structlog

from aigateway.actors.control.local.api_keys import (
    ApiKey,
    NewApiKey,
    WantedKey,
    create_keys,
    find_key,
    list_keys,
    revoke_key,
)
from aigateway.actors.control.local.audit import Change, note_changes
from aigateway.actors.control.local.looks import look_at_one
from aigateway.actors.control.local.people import NoSuch
from aigateway.actors.control.local.schema import Database, transaction
from aigateway.actors.values.records import timestamp
from aigateway.http.console import clients
from aigateway.http.console.forms import LONGEST, sent, tried
from aigateway.http.console.gateway import merged_providers
from aigateway.http.console.pages import Offered, Site
from aigateway.http.console.records import Away, detail
from aigateway.http.console.visitors import Role, visitor_of

__all__ = ["Writes"]

_DAY: Final = 86_400
_KEYS: Final = 50
"""Of one's own, the newest."""
_GOOD_FOR: Final = {
    "30": "30 days",
    "90": "90 days",
    "365": "a year",
    "": "until it is revoked",
}
"""For how many days a key is good."""

log = structlog.get_logger("ai-gateway.console")


class Writes:
    """The handlers, by name of the page."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def _note(self, req: falcon.Request, change: Change) -> None:
        """Of what is done elsewhere than in the database.  Raises Away: then it is not done."""
        who = visitor_of(req).who
        with self._site.records.writing() as database, transaction(database):
            note_changes(database, who, [change], time.time())
        log.info("done through the console", who=who, action=change.action, subject=change.subject)

    # -- Set up a client, and its key

    def on_get_setup(self, req: falcon.Request, resp: falcon.Response) -> None:
        address = req.get_param("address") or self._site.client_address
        self._setup(req, resp, address)

    def on_post_setup(self, req: falcon.Request, resp: falcon.Response) -> None:
        fields = sent(req)
        made, problem, resp.status = None, "", falcon.HTTP_200
        days = fields.get("days", "")
        if days not in _GOOD_FOR:
            raise falcon.HTTPBadRequest(title="A key is not made for so long")
        visitor = visitor_of(req)
        name: str = fields.get("user", "")[:LONGEST]
        user_id: str | None = None
        if visitor.role is Role.OWN:
            assert visitor.user is not None
            # Whatever the form says.
            name, user_id = visitor.user.name, visitor.user.id
        wanted = WantedKey(
            username=name,
            user_id=user_id,
            name=fields.get("name", "")[:LONGEST],
            expires_in=int(days) * _DAY if days else None,
        )

        def make(database: Database) -> NewApiKey:
            return create_keys(database, [wanted], who=visitor.who)[0]

        with self._site.records.writing() as database:
            made, problem, resp.status = tried(lambda: make(database))
        address = fields.get("address") or self._site.client_address
        self._setup(req, resp, address, made, problem, fields)

    def _setup(
        self, req: falcon.Request, resp: falcon.Response, address: str,
        made: NewApiKey | None = None, problem: str = "", fields: Any = None,
    ) -> None:  # fmt: skip
        answers = self._site.gateways.ask("providers")
        address, trouble = address[:LONGEST], ""
        user = visitor_of(req).user
        keys: list[ApiKey] = []
        try:
            with self._site.records.reading() as database:
                if user is not None:
                    keys = list_keys(database, user_id=user.id)
        except Away as ex:
            trouble = str(ex)
        served = [(each.name, each.type) for each in merged_providers(answers) if each.enabled]
        self._site.templates.respond(
            req, resp, "setup.html",
            answers=answers, address=address, made=made, problem=problem, no_records=trouble,
            keys=keys[::-1][:_KEYS], now=time.time(),
            given={"user": "", "name": "", "days": "90", **(fields or {})}, good_for=_GOOD_FOR,
            recipes=clients.recipes(address, served, made.token if made else ""),
        )  # fmt: skip

    def on_get_key(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        with self._site.records.reading() as database:
            key = self._key(req, database, id)
        self._show_key(req, resp, key)

    def on_post_key(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        sent(req)
        with self._site.records.writing() as database:
            self._key(req, database, id)
            revoke_key(database, id, who=visitor_of(req).who)
            key = self._key(req, database, id)
        self._show_key(req, resp, key)

    def _key(self, req: falcon.Request, database: Database, key_id: str) -> ApiKey:
        try:
            key = find_key(database, key_id)
        except NoSuch as ex:
            raise falcon.HTTPNotFound(title="No such key") from ex
        if not visitor_of(req).sees(key.user_id):
            raise falcon.HTTPNotFound(title="No such key")
        return key

    def _show_key(self, req: falcon.Request, resp: falcon.Response, key: ApiKey) -> None:
        self._site.templates.respond(req, resp, "key.html", key=key, state=key.state(time.time()))

    # -- Actors

    def on_get_restart(self, req: falcon.Request, resp: falcon.Response) -> None:
        actor = self._actor(req)
        self._site.templates.respond(req, resp, "restart.html", actor=actor, done=None, problem="")

    def on_post_restart(self, req: falcon.Request, resp: falcon.Response) -> None:
        reason = sent(req).get("reason", "")[:LONGEST]
        actor, done, problem = self._actor(req), None, ""
        if not reason:
            problem, resp.status = "Say why: the audit log keeps it.", falcon.HTTP_400
        else:
            before = {name: actor[name] for name in ("state", "restarts", "last_error")}
            where = f" at {actor['host']}" if actor["host"] else ""
            subject = f"actor {actor['role']} of worker {actor['pid']}{where}"
            self._note(req, Change("actor.restart", subject, before, {"reason": reason}))
            answer = self._site.gateways.command(
                {"command": "restart", "role": actor["role"]}, actor["worker"]
            )
            done, problem = bool(answer.get("done")), str(answer.get("error", ""))
            if not done and not problem:
                problem = "There is no such actor any more."
        self._site.templates.respond(
            req, resp, "restart.html", actor=actor, done=done, problem=problem
        )

    def _actor(self, req: falcon.Request) -> dict[str, Any]:
        """The one that the address names, with the ``worker``, its ``pid`` and its ``host``."""
        worker, role = req.get_param("worker", required=True), req.get_param("role")
        for each in self._site.gateways.ask("list").speaking:
            for actor in each.said.get("actors", ()):
                if each.id == worker and actor["role"] == role:
                    return {**actor, "worker": each.id, "pid": each.pid, "host": each.host}
        raise falcon.HTTPNotFound(title="No such actor", description="Its worker may have ended.")

    # -- What was written of a request

    def on_get_raw(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        self._raw(req, resp, id, None)

    def on_post_raw(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        sent(req)
        # APPSEC: there is a record, and with it somebody whose it is, and it is noted first.
        self._raw(req, resp, id, lambda: self._site.gateways.dumped(id))

    def _raw(
        self, req: falcon.Request, resp: falcon.Response, id: str,
        read: Callable[[], Sequence[Mapping[str, Any]]] | None,
    ) -> None:  # fmt: skip
        with self._site.records.reading() as database:
            found = detail(database, id)
        if found is None:
            raise falcon.HTTPNotFound(title="No such request")
        files = None
        if read is not None:
            whose = found.row["initiator_id"], found.entry.username
            self._note(req, look_at_one("raw", f"request {id}", *whose))
            files = read()
        self._site.templates.respond(req, resp, "raw.html", entry=found.entry, files=files)

    # -- Providers

    def on_get_test(self, req: falcon.Request, resp: falcon.Response) -> None:
        name = self._provider(req)
        self._site.templates.respond(req, resp, "test.html", name=name, dialled=None, problem="")

    def on_post_test(self, req: falcon.Request, resp: falcon.Response) -> None:
        sent(req)
        name = self._provider(req)
        self._note(req, Change("provider.test", f"provider {name}"))
        # One worker will do: all have the same keys and go the same way.
        answer = self._site.gateways.dial(name)
        models = {each for told in answer.get("dialled", ()) for each in told["models"]}
        if models:
            self._site.offered[name] = Offered(timestamp(time.time()), sorted(models))
        self._site.templates.respond(
            req, resp, "test.html",
            name=name, dialled=answer.get("dialled", []), problem=str(answer.get("error", "")),
        )  # fmt: skip

    def _provider(self, req: falcon.Request) -> str:
        name = req.get_param("name") or ""
        if any(
            each.name == name for each in merged_providers(self._site.gateways.ask("providers"))
        ):
            return name
        raise falcon.HTTPNotFound(title="No such provider")
