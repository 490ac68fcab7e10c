"""What somebody asks of their own records with their key: ``GET /api/me/v1/…``.

Only with the embedded control plane, which has them.  A query is read in a thread of its own
where a call of SQLite would hold up all greenlets, and few at once, so that whoever looks at a year
of sessions slows nobody's request.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import msgspec
import structlog
from attrs import asdict

from aigateway.actors.actor.aside import aside
from aigateway.actors.control.local.address import LocalDatabaseError, is_postgresql
from aigateway.actors.control.local.cap_holders import tills_in
from aigateway.actors.control.local.opening import database_errors, read_address
from aigateway.actors.control.local.prompt_search import phrases_of, search_prompts
from aigateway.actors.control.local.schema import Database
from aigateway.actors.control.local.sessions import SessionFilter, described, find_sessions
from aigateway.actors.control.local.timeline import timeline
from aigateway.actors.control.local.usage import GROUPS, usage_by
from aigateway.actors.control.messages import Caller
from aigateway.actors.values.records import moment_told
from aigateway.http.metrics.reasons import Reason
from aigateway.http.request.answers import Answer, json_message
from aigateway.http.request.inbound import Call

__all__ = ["OwnRecords"]

AT_ONCE: Final = 2
"""Questions that one worker process answers at the same time."""
PATIENCE: Final = 2.0
"""Seconds for which another one waits."""
LARGEST_PAGE: Final = 1000
_PAGE: Final = 100
_MOST_REQUESTS: Final = 5000
"""Of one session that is told."""
_TEXTS: Final = ("client", "model", "project", "repository", "branch")

log = structlog.get_logger("ai-gateway")


class _BadQuestion(ValueError):
    """The text says what is wrong with it."""


class _NoSuch(LookupError):
    """What is asked for is not there, or not the asker's."""


class OwnRecords:
    """Answers for one database.  Safe to use from many threads."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._places = threading.BoundedSemaphore(AT_ONCE)

    def answer(self, call: Call, caller: Caller, what: str, now: float) -> Answer:
        """What ``caller`` hears of ``what``, the path below the own records'.  ``now`` in Unix
        seconds."""
        if call.inbound.method != "GET":
            return _problem(405, "use GET")
        call.route = "me"
        try:
            look = _look(what, call.inbound.query, caller, now)
        except _BadQuestion as ex:
            return _problem(400, str(ex))
        if look is None:
            return _problem(404, f"there is no {call.inbound.shown_path}")
        if not self._places.acquire(timeout=PATIENCE):
            return _problem(503, "others are looking at their records; ask again", 1)
        try:
            found = self._read(look)
        except _NoSuch as ex:
            return _problem(404, str(ex))
        except (ValueError, OverflowError) as ex:
            # A time that no calendar has.
            return _problem(400, str(ex))
        except (LocalDatabaseError, OSError) as ex:
            return _away(ex)
        except database_errors() as ex:
            return _away(ex)
        finally:
            self._places.release()
        return Answer(200, found, "application/json", (("Cache-Control", "no-store"),))

    def _read(self, look: Callable[[Database], Any]) -> bytes:
        looked = partial(_looked, self._address, look)
        return looked() if is_postgresql(self._address) else aside(looked)


def _away(ex: Exception) -> Answer:
    log.warning("own records cannot be read", error=" ".join(str(ex).split()))
    return _problem(503, "the records cannot be read now", 5)


def _looked(address: str, look: Callable[[Database], Any]) -> bytes:
    """JSON.  Raises what the database and ``look`` raise."""
    with closing(read_address(address)) as database:
        if isinstance(database, sqlite3.Connection):
            # One snapshot for all of it, also while others go on writing.
            database.execute("BEGIN")
        return msgspec.json.encode(look(database)) + b"\n"


def _look(what: str, query: str, caller: Caller, now: float) -> Callable[[Database], Any] | None:
    """What is to be read for a question; None: there is no such address."""
    owner = caller.user_id
    if what == "user":
        _asked(query, ())
        told = {
            "id": owner, "name": caller.username, "key": caller.api_key_id,
            "groups": list(caller.groups), "project": caller.project,
        }  # fmt: skip
        return lambda _database: told
    if what == "sessions":
        given = _asked(query, (*_TEXTS, "since", "until", "limit", "search"))
        wanted = SessionFilter(
            owner=owner,
            since=_moment(given, "since"),
            until=_moment(given, "until"),
            **{name: given.get(name) for name in _TEXTS},
        )
        limit, text = _limit(given), given.get("search")
        if text is None:
            return lambda database: [
                asdict(each) for each in find_sessions(database, wanted, limit)
            ]
        if not phrases_of(text):
            raise _BadQuestion("search has no word to search for")
        return lambda database: [
            asdict(each) for each in search_prompts(database, text, wanted, limit)
        ]
    if what.startswith("sessions/"):
        _asked(query, ())
        session = unquote(what.removeprefix("sessions/"))
        if "\0" in session:
            raise _BadQuestion("a text has the character NUL")
        return lambda database: _session(database, owner, session)
    if what == "usage":
        given = _asked(query, ("by", "since", "until"))
        by = tuple(dict.fromkeys(given.get("by", "model").split(",")))
        since, until = _moment(given, "since"), _moment(given, "until")
        for name in by:
            if name not in GROUPS:
                raise _BadQuestion(f"cannot sum up by {name}: choose from {', '.join(GROUPS)}")
        return lambda database: _usage(database, owner, by, since, until, now)
    return None


def _session(database: Database, owner: str, session: str) -> dict[str, Any]:
    found = described(database, [(owner, session)])
    if not found:
        raise _NoSuch("you have no such session")
    (row,) = found
    if row.requests > _MOST_REQUESTS:
        raise ValueError(f"the session has more than {_MOST_REQUESTS} requests")
    return {**asdict(row), "timeline": asdict(timeline(database, (owner, session)))}


def _usage(
    database: Database,
    owner: str,
    by: tuple[str, ...],
    since: float | None,
    until: float | None,
    now: float,
) -> dict[str, Any]:
    rows = usage_by(database, by, since=since, until=until, owner=owner)
    return {
        "by": by,
        "rows": [asdict(row) for row in rows],
        "caps": [asdict(cap) for cap in tills_in(database, now, owner)],
    }


def _asked(query: str, known: tuple[str, ...]) -> Mapping[str, str]:
    given = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in given.items():
        if name not in known:
            raise _BadQuestion(f'there is no parameter "{name}" here')
        # What no database can store.
        if "\0" in value:
            raise _BadQuestion("a text has the character NUL")
    return {name: value for name, value in given.items() if value}


def _limit(given: Mapping[str, str]) -> int:
    text = given.get("limit", str(_PAGE))
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= LARGEST_PAGE):
        raise _BadQuestion(f"limit must be a whole number from 1 to {LARGEST_PAGE}")
    return int(text)


def _moment(given: Mapping[str, str], name: str) -> float | None:
    if name not in given:
        return None
    try:
        return moment_told(given[name])
    except (ValueError, OverflowError) as ex:
        raise _BadQuestion(f"{name} must be a date or an RFC 3339 time") from ex


def _problem(status: int, text: str, retry_after: int | None = None) -> Answer:
    headers = [] if retry_after is None else [("Retry-After", str(retry_after))]
    reasons = {404: Reason.NO_ROUTE, 503: Reason.CAPACITY}
    return json_message(
        status, text, reason=reasons.get(status, Reason.BAD_REQUEST), headers=headers
    )
