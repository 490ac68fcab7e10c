"""Each page: from an address with its filters to a template with its values."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Final

import falcon
from attrs import field, frozen

from aigateway.actors.control.local.audit import Change, note_changes
from aigateway.actors.control.local.cache_breaks import in_words
from aigateway.actors.control.local.cap_holders import tills_in
from aigateway.actors.control.local.looks import look_at_many, look_at_one
from aigateway.actors.control.local.schema import moment_of, transaction
from aigateway.actors.control.local.sessions import SessionFilter, described, find_sessions
from aigateway.actors.control.local.timeline import timeline
from aigateway.http.console.asking import Gateways
from aigateway.http.console.forms import LONGEST, asked
from aigateway.http.console.gateway import merged_providers
from aigateway.http.console.now import Observer, Pulses
from aigateway.http.console.records import (
    FILTERS,
    Away,
    Entry,
    Records,
    choices,
    detail,
    entries,
    whole_text,
)
from aigateway.http.console.spending import (
    DIMENSIONS,
    PERIODS,
    SERIES,
    as_csv,
    chart,
    period,
    spending,
    unpriced_models,
)
from aigateway.http.console.templating import Templates
from aigateway.http.console.templating import query as _query
from aigateway.http.console.visitors import visitor_of
from aigateway.http.diagnosis.report import as_text

__all__ = ["Offered", "Pages", "Site"]

_ROWS: Final = 50
_SESSIONS: Final = 100
_SESSION_FILTERS: Final = ("user", "model", "client", "repository", "branch", "project")
_MOST_TURNS: Final = 400
"""Requests of a session that one page shows as a tree."""
_LONGEST_SAID: Final = 2_000
"""Letters of one text of a session; its request has more."""
_DAY: Final = 86_400
_A_VISIT: Final = 60.0
"""Seconds within which a page and what goes on on it are one look."""


LOOK_EVERY: Final = 15.0
"""Seconds after which an open page's visitor is looked at again."""


@frozen
class Offered:
    """The models that a provider said it has."""

    at: str
    """When, RFC 3339 in UTC."""
    models: Sequence[str]


@frozen
class Site:
    """What all pages are made from."""

    records: Records
    gateways: Gateways
    templates: Templates
    client_address: str
    """Where clients find the gateway: scheme, host and port."""
    offered: dict[str, Offered] = field(factory=dict)
    """What providers said when they were tested last, by name."""


class Pages:
    """The handlers, by name of the page."""

    def __init__(self, site: Site, pulses: Pulses) -> None:
        self._site = site
        self._pulses = pulses
        self._watching: dict[str, float] = {}
        """When visitors, by their form's token, have opened the page Now."""

    def _show(
        self, req: falcon.Request, resp: falcon.Response, template: str, **values: Any
    ) -> None:
        self._site.templates.respond(req, resp, template, **values)

    # -- looks at what others have said: each is noted before it is shown

    def _note(self, req: falcon.Request, kind: str, what: str, user_id: str, username: str) -> None:
        """Raises Away: then nothing is shown."""
        if not visitor_of(req).is_user(user_id):
            self._noted(req, look_at_one(kind, what, user_id, username))

    def _note_list(
        self,
        req: falcon.Request,
        kind: str,
        what: str,
        whose: Iterable[tuple[str, str, str]],
    ) -> None:
        """Of a list with each user's id, name, and content.  Raises Away."""
        visitor = visitor_of(req)
        others = [each for each in whose if not visitor.is_user(each[0])]
        look = look_at_many(kind, what, others, address=req.relative_uri[:LONGEST])
        if look is not None:
            self._noted(req, look)

    def _note_now(self, req: falcon.Request, shown: Iterable[Entry]) -> None:
        visitor = visitor_of(req)
        self._watching = {
            token: at for token, at in self._watching.items() if time.monotonic() - at < _A_VISIT
        }
        self._watching[visitor.form_token] = time.monotonic()
        told = [(each.user_id, each.username, each.prompt) for each in shown]
        self._note_list(req, "now", "newest requests", told)

    def _note_live(self, req: falcon.Request) -> None:
        """Of a page that goes on showing what comes; the page itself was noted a moment ago."""
        visitor = visitor_of(req)
        at = self._watching.get(visitor.form_token)
        if visitor.sees_all and (at is None or time.monotonic() - at >= _A_VISIT):
            self._noted(req, Change("look.now", "newest requests of all, as they come"))

    def _noted(self, req: falcon.Request, look: Change) -> None:
        try:
            with self._site.records.writing() as database, transaction(database):
                note_changes(database, visitor_of(req).who, [look], time.time())
        except Away as ex:
            raise Away(
                f"The look cannot be noted in the audit log, so nothing is shown: {ex}"
            ) from ex

    # -- Now

    def on_get_home(self, req: falcon.Request, resp: falcon.Response) -> None:
        raise falcon.HTTPSeeOther("/now")

    def on_get_now(self, req: falcon.Request, resp: falcon.Response) -> None:
        # A look of its own, since the pulse may be resting: the page is whole without scripts.
        owner = visitor_of(req).owner
        if owner is None:
            self._site.gateways.expect()
        view = Observer(self._site.records, self._site.gateways, owner=owner).look()
        self._note_now(req, [*view.newest, *view.elsewhere])
        self._show(req, resp, "now.html", view=view)

    def on_get_events(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._note_live(req)
        stream = self._pulses.listen(visitor_of(req).owner)
        if stream is None:
            raise falcon.HTTPServiceUnavailable(
                title="Too many live pages", description="Close one of them.", retry_after=10
            )
        resp.content_type = "text/event-stream"
        resp.stream = _while_here(stream, req.context.still_here)

    # -- Spend

    def _spend(self, req: falcon.Request) -> tuple[dict[str, str], str, int]:
        by = req.get_param("by") or "user"
        days = req.get_param_as_int("days", default=14)
        if by not in DIMENSIONS or days not in PERIODS:
            raise falcon.HTTPBadRequest(
                title="No such sum",
                description=f"Sum up by one of {', '.join(DIMENSIONS)}, over one of"
                f" {', '.join(map(str, PERIODS))} days.",
            )
        return asked(req, "user", "model", "provider", "client"), by, days

    def on_get_spend(self, req: falcon.Request, resp: falcon.Response) -> None:
        filters, by, days = self._spend(req)
        now, owner = time.time(), visitor_of(req).owner
        with self._site.records.reading() as database:
            found = spending(database, by, days, filters, now, owner)
            since, _names = period(days, now)
            unpriced = []
            # PERF: it sums up once more.
            if found.total.tokens.unpriced:
                unpriced = unpriced_models(database, since, filters, owner)
            options = choices(database, since, owner)
            caps = tills_in(database, now, owner)
        self._show(
            req, resp, "spend.html",
            found=found, by=by, days=days, filters=filters, options=options,
            unpriced=unpriced, caps=caps,
            chart=chart(by, found), periods=PERIODS, dimensions=DIMENSIONS, series_count=SERIES,
        )  # fmt: skip

    def on_get_csv(self, req: falcon.Request, resp: falcon.Response) -> None:
        filters, by, days = self._spend(req)
        owner = visitor_of(req).owner
        with self._site.records.reading() as database:
            found = spending(database, by, days, filters, time.time(), owner)
        resp.content_type = "text/csv; charset=utf-8"
        resp.set_header("Content-Disposition", f'attachment; filename="spend-by-{by}.csv"')
        resp.text = "".join(as_csv(by, found))

    # -- Sessions

    def on_get_sessions(self, req: falcon.Request, resp: falcon.Response) -> None:
        filters = asked(req, *_SESSION_FILTERS)
        user, model, client, repository, branch, project = (
            filters[name] or None for name in _SESSION_FILTERS
        )
        owner = visitor_of(req).owner
        wanted = SessionFilter(
            owner=owner, user=user, model=model, client=client,
            repository=repository, branch=branch, project=project,
        )  # fmt: skip
        with self._site.records.reading() as database:
            found = find_sessions(database, wanted, limit=_SESSIONS)
            options = choices(database, time.time() - 90 * _DAY, owner)
        told = [(row.user_id, row.username, row.prompt) for row in found]
        self._note_list(req, "sessions", "first prompts of sessions", told)
        self._show(
            req, resp, "sessions.html",
            found=found, filters=filters, options=options, most=_SESSIONS,
        )  # fmt: skip

    def on_get_session(self, req: falcon.Request, resp: falcon.Response) -> None:
        # Both ids are in the query: they may have slashes.
        key = (req.get_param("user") or "", req.get_param("session") or "")
        with self._site.records.reading() as database:
            found = described(database, [key]) if visitor_of(req).sees(key[0]) else []
            if not found:
                raise falcon.HTTPNotFound(
                    title="No such session", description="It was never recorded, or was deleted."
                )
            (row,) = found
            tree = None
            if row.requests <= _MOST_TURNS:
                tree = timeline(database, (row.user_id, row.session_id))
        self._note(req, "session", f"session {row.session_id}", row.user_id, row.username)
        self._show(
            req, resp, "session.html",
            row=row, tree=tree, longest=_LONGEST_SAID, in_words=in_words,
        )  # fmt: skip

    # -- Requests

    def on_get_requests(self, req: falcon.Request, resp: falcon.Response) -> None:
        filters = asked(req, *FILTERS, "status")
        at, _, last = (req.get_param("before") or "").partition("~")
        columns = {name: value for name, value in filters.items() if name in FILTERS}
        owner = visitor_of(req).owner
        with self._site.records.reading() as database:
            found = entries(
                database, owner=owner, filters=columns, status=filters["status"],
                before=(at, last) if last else None, limit=_ROWS + 1,
            )  # fmt: skip
            options = choices(database, time.time() - 90 * _DAY, owner)
        more = found[_ROWS - 1] if len(found) > _ROWS else None
        told = [(each.user_id, each.username, each.prompt) for each in found[:_ROWS]]
        self._note_list(req, "requests", "prompts of requests", told)
        self._show(
            req, resp, "requests.html",
            found=found[:_ROWS], filters=filters, options=options, first=not last,
            older="" if more is None else _query(filters, before=f"{more.started_at}~{more.id}"),
        )  # fmt: skip

    def on_get_request(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        with self._site.records.reading() as database:
            found = detail(database, id, visitor_of(req).owner)
        if found is None:
            raise falcon.HTTPNotFound(
                title="No such request", description="It was never recorded, or was deleted."
            )
        entry = found.entry
        self._note(req, "request", f"request {entry.id}", entry.user_id, entry.username)
        began = moment_of(entry.started_at)
        after = [moment_of(step.at) - began for step in found.steps]
        self._show(req, resp, "request.html", found=found, after=after)

    def on_get_text(
        self, req: falcon.Request, resp: falcon.Response, id: str, kind: str, number: int
    ) -> None:
        with self._site.records.reading() as database:
            found = whole_text(database, id, kind, number, visitor_of(req).owner)
        if found is None:
            raise falcon.HTTPNotFound(title="No such text")
        self._note(req, "text", f"{kind} {number} of request {id}", found.user_id, found.username)
        resp.content_type = "text/plain; charset=utf-8"
        resp.data = found.text.encode(errors="replace")

    # -- The gateways

    def on_get_providers(self, req: falcon.Request, resp: falcon.Response) -> None:
        answers = self._site.gateways.ask("providers")
        health: dict[str, Any] = {}
        trouble = ""
        try:
            with self._site.records.reading() as database:
                found = spending(database, "provider", 1, {}, time.time())
                health = {group.name: group for group in found.groups}
        except Away as ex:
            trouble = str(ex)
        self._show(
            req, resp, "providers.html",
            answers=answers, providers=merged_providers(answers), health=health, no_records=trouble,
            offered=self._site.offered,
        )  # fmt: skip

    def on_get_actors(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._show(req, resp, "actors.html", answers=self._site.gateways.ask("list"))

    def on_get_trace(self, req: falcon.Request, resp: falcon.Response) -> None:
        wanted = req.get_param("worker", required=True)
        for each in self._site.gateways.ask("list").speaking:
            if each.id == wanted:
                said = self._site.gateways.trace(wanted)
                problem = str(said.get("error") or "")
                text = "" if problem else as_text(said)
                self._show(req, resp, "trace.html", worker=each, problem=problem, text=text)
                return
        raise falcon.HTTPNotFound(title="No such worker", description="It may have ended.")


def _while_here(stream: Generator[bytes], is_still_here: Callable[[], bool]) -> Generator[bytes]:
    """A stream that ends when its visitor has signed out, or may see something else now."""
    looked = time.monotonic()
    try:
        for piece in stream:
            if time.monotonic() - looked >= LOOK_EVERY:
                if not is_still_here():
                    return
                looked = time.monotonic()
            yield piece
    finally:
        stream.close()
