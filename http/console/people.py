"""Users, groups and keys, the policy with what a change of it would do, and who changed what."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import falcon

from aigateway.actors.control.local.api_keys import ApiKey, list_keys
from aigateway.actors.control.local.audit import list_changes
from aigateway.actors.control.local.cap_holders import tills_in
from aigateway.actors.control.local.people import (
    NoSuch,
    User,
    find_user,
    list_groups,
    list_users,
    set_disabled,
)
from aigateway.actors.control.local.policies import StoredPolicy, apply, newest
from aigateway.actors.control.local.policy_document import (
    BadPolicy,
    differences,
    read_policy,
)
from aigateway.actors.control.local.schema import Database
from aigateway.actors.values.policy import Policy
from aigateway.http.console.forms import asked, sent, tried
from aigateway.http.console.pages import Site
from aigateway.http.console.templating import query
from aigateway.http.console.visitors import visitor_of

__all__ = ["People"]

_MOST: Final = 200
"""Users, groups and keys on one page each."""
_CHANGES: Final = 50
_AUDIT_FILTERS: Final = ("who", "action", "subject")


class People:
    """The handlers, by name of the page."""

    def __init__(self, site: Site) -> None:
        self._site = site

    # -- users, groups, keys

    def on_get_people(self, req: falcon.Request, resp: falcon.Response) -> None:
        sought = asked(req, "find")["find"]
        good = req.get_param("keys") != "all"
        now, part = time.time(), sought.casefold()
        with self._site.records.reading() as database:
            users = [each for each in list_users(database) if part in each.name.casefold()]
            groups = [each for each in list_groups(database) if part in each.name.casefold()]
            all_keys = list_keys(database)
        of_user: defaultdict[str, list[ApiKey]] = defaultdict(list)
        for key in all_keys:
            of_user[key.user_id].append(key)
        keys = [
            key
            for key in reversed(all_keys)
            if (not good or key.state(now) == "active")
            and part in f"{key.username} {key.name} {key.id}".casefold()
        ]
        self._site.templates.respond(
            req, resp, "people.html",
            find=sought, keys_shown="good" if good else "all", most=_MOST, now=now,
            users=users, groups=groups, keys=keys, uses={
                user.id: _uses(of_user[user.id], now) for user in users[:_MOST]
            },
        )  # fmt: skip

    def on_get_person(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        with self._site.records.reading() as database:
            user = _user(database, id)
            keys = list_keys(database, user_id=user.id)
        self._person(req, resp, user, keys)

    def on_post_person(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        does = sent(req).get("does")
        if does not in ("disable", "enable"):
            raise falcon.HTTPBadRequest(title="Nothing is done with that")
        with self._site.records.writing() as database:
            named = _user(database, id).id
            user = set_disabled(database, named, does == "disable", who=visitor_of(req).who)
            keys = list_keys(database, user_id=user.id)
        self._person(req, resp, user, keys)

    def _person(
        self, req: falcon.Request, resp: falcon.Response, user: User, keys: Sequence[ApiKey]
    ) -> None:
        self._site.templates.respond(
            req, resp, "person.html", user=user, keys=keys[::-1][:_MOST], now=time.time()
        )

    # -- the policy

    def on_get_policy(self, req: falcon.Request, resp: falcon.Response) -> None:
        with self._site.records.reading() as database:
            stored = newest(database)
        self._policy(req, resp, stored)

    def on_post_policy(self, req: falcon.Request, resp: falcon.Response) -> None:
        """First says what would change; a second form, with what was looked at, applies it."""
        fields = sent(req)
        document = f"{fields.get('document', '')}\n".lstrip("\n")
        over = fields.get("over", "")
        if not (over.isascii() and over.isdigit() and len(over) < 10):
            raise falcon.HTTPBadRequest(title="A change is made over a version")
        if fields.get("does") != "apply":
            with self._site.records.reading() as database:
                stored = newest(database)
            changes, problem, resp.status = tried(lambda: _changes(stored, document))
            self._policy(req, resp, stored, document, changes, problem)
            return
        with self._site.records.writing() as database:
            done, problem, resp.status = tried(
                lambda: apply(database, document, over=int(over), who=visitor_of(req).who)
            )
            stored = newest(database)
        self._policy(
            req, resp, stored, None if done else document, problem=problem, applied=bool(done)
        )

    def _policy(
        self, req: falcon.Request, resp: falcon.Response, stored: StoredPolicy,
        document: str | None = None, changes: Sequence[str] | None = None, problem: str = "",
        applied: bool = False,
    ) -> None:  # fmt: skip
        with self._site.records.reading() as database:
            caps = tills_in(database, time.time())
        try:
            holds = differences(Policy(), read_policy(stored.document))
        except BadPolicy as ex:
            # Written by a newer aigateway, perhaps; it can be replaced from here all the same.
            holds = []
            problem = problem or f"What is stored cannot be used, so nobody is let in: {ex}"
        self._site.templates.respond(
            req, resp, "policy.html",
            stored=stored, document=stored.document if document is None else document,
            changes=changes, problem=problem, applied=applied, caps=caps,
            holds=[_parted(line) for line in holds],
        )  # fmt: skip

    # -- who changed what

    def on_get_audit(self, req: falcon.Request, resp: falcon.Response) -> None:
        filters = asked(req, *_AUDIT_FILTERS)
        at, _, last = (req.get_param("before") or "").partition("~")
        with self._site.records.reading() as database:
            found = list_changes(
                database, _CHANGES + 1, (at, last) if last else None, **_storable(filters)
            )
        more = found[_CHANGES - 1] if len(found) > _CHANGES else None
        self._site.templates.respond(
            req, resp, "audit.html",
            filters=filters, first=not last, found=[_shown(each) for each in found[:_CHANGES]],
            older="" if more is None else query(filters, before=f"{more['at']}~{more['id']}"),
        )  # fmt: skip


def _uses(keys: Sequence[ApiKey], now: float) -> tuple[int, str | None]:
    """How many keys are good, and when one was used last."""
    used = [key.last_used_at for key in keys if key.last_used_at is not None]
    return sum(key.state(now) == "active" for key in keys), max(used, default=None)


def _user(database: Database, user_id: str) -> User:
    try:
        return find_user(database, user_id)
    except NoSuch as ex:
        raise falcon.HTTPNotFound(title="No such user") from ex


def _changes(stored: StoredPolicy, document: str) -> list[str]:
    """Raises BadPolicy."""
    new = read_policy(document)
    try:
        old = read_policy(stored.document)
    except BadPolicy:
        # What cannot be read is replaced as a whole.
        old = Policy()
    return differences(old, new)


def _parted(line: str) -> tuple[str, str]:
    path, _, value = line[2:].partition(": ")
    return path, value


def _storable(filters: Mapping[str, str]) -> dict[str, str]:
    """What no database holds is found in none."""
    return {
        name: value.replace("\0", "\N{REPLACEMENT CHARACTER}") for name, value in filters.items()
    }


def _shown(change: Mapping[str, Any]) -> dict[str, Any]:
    """With what was before and after as lines of fields, those that differ first."""
    before, after = change["before"] or {}, change["after"] or {}
    fields = [
        (name, _text(before, name), _text(after, name)) for name in dict.fromkeys((*before, *after))
    ]
    return {**change, "fields": sorted(fields, key=lambda each: each[1] == each[2])}


def _text(values: Mapping[str, Any], name: str) -> str | None:
    if name not in values:
        return None
    value = values[name]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
