"""What the pages read from the database of ``--local``."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Final

from attrs import define, field, frozen

from aigateway.actors.control.local.address import LocalDatabaseError
from aigateway.actors.control.local.opening import database_errors, open_address, read_address
from aigateway.actors.control.local.schema import Database, marks, moment_of
from aigateway.actors.values.records import timestamp

__all__ = [
    "FILTERS",
    "Away",
    "Detail",
    "Entry",
    "Minute",
    "Records",
    "Text",
    "Tokens",
    "choices",
    "detail",
    "entries",
    "last_hour",
    "latencies",
    "whole_text",
    "spent_since",
]

FILTERS: Final[Mapping[str, str]] = {
    "user": "username",
    "model": "model",
    "provider": "provider_name",
    "client": "client",
    "session": "client_session_id",
}
"""What lists and sums can be narrowed by, and the columns."""

_SNIPPET: Final = 200
"""Letters of a prompt in a list."""
LONGEST: Final = 20_000
"""Letters of one text on a page; all of it has an address of its own."""
_MOST_RECORDS: Final = 200
"""Prompts, calls, thoughts, answers and token records of each kind on one page."""


class Away(Exception):
    """The records cannot be read; the text says why and what to do."""


class Records:
    """The database that ``--local-db`` names, opened for each look and each change."""

    def __init__(self, address: str) -> None:
        self._address = address

    def reading(self) -> AbstractContextManager[Database]:
        """For reading only.  Raises Away, also for what the database raises in the block."""
        return self._opened(read_address)

    def writing(self) -> AbstractContextManager[Database]:
        """For changes, with the schema brought up to date.  Raises Away as :meth:`reading`."""
        return self._opened(partial(open_address, create=False))

    @contextmanager
    def _opened(self, opened: Callable[[str], Database]) -> Iterator[Database]:
        try:
            database = opened(self._address)
            try:
                yield database
            finally:
                database.close()
        except LocalDatabaseError as ex:
            raise Away(str(ex)) from ex
        except database_errors() as ex:
            raise Away(" ".join(str(ex).split())) from ex


@frozen
class Tokens:
    """The sums of token records."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cost: int = 0
    """Nano-dollars of those that have a price."""
    priced: int = 0
    unpriced: int = 0

    @property
    def all(self) -> int:
        return self.input + self.output + self.cache_read + self.cache_write

    @property
    def all_input(self) -> int:
        """What the model read: uncached, from a cache, or written into one."""
        return self.input + self.cache_read + self.cache_write

    @property
    def nano_usd(self) -> int | None:
        """None: there are records, and none has a price."""
        return self.cost if self.priced or not self.unpriced else None

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            self.input + other.input,
            self.output + other.output,
            self.cache_read + other.cache_read,
            self.cache_write + other.cache_write,
            self.cost + other.cost,
            self.priced + other.priced,
            self.unpriced + other.unpriced,
        )


# PostgreSQL adds whole numbers up to a numeric, which is no int in Python.
TOKEN_SUMS: Final = """
    CAST(sum(input_tokens) AS BIGINT), CAST(sum(output_tokens) AS BIGINT),
    CAST(sum(cache_read_input_tokens) AS BIGINT), CAST(sum(cache_write_input_tokens) AS BIGINT),
    CAST(coalesce(sum(cost_nano_usd), 0) AS BIGINT), count(cost_nano_usd),
    count(*) - count(cost_nano_usd)
"""
"""The columns of :class:`Tokens`."""


@define
class Entry:
    """One interception in a list."""

    id: str
    username: str
    provider_name: str
    model: str
    client: str
    session: str
    started_at: str
    ended_at: str | None
    error_type: str | None
    user_id: str
    prompt: str = ""
    tools: tuple[str, ...] = ()
    """What the model called, each once."""
    tokens: Tokens = field(factory=Tokens)

    @property
    def seconds(self) -> float | None:
        """None while it runs."""
        if self.ended_at is None:
            return None
        return max(0.0, moment_of(self.ended_at) - moment_of(self.started_at))


_ENTRY: Final = (
    "id, username, provider_name, model, client, coalesce(client_session_id, ''), started_at,"
    " ended_at, error_type, initiator_id"
)


def narrowed(filters: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Conditions for :data:`FILTERS` that have a value, and their values."""
    chosen = [(FILTERS[name], value) for name, value in filters.items() if value]
    return [f"{column} = ?" for column, _ in chosen], [value for _, value in chosen]


def _whose(owner: str | None) -> tuple[str, list[str]]:
    """What must hold of an interception of the user with this id; None: of anybody's."""
    return ("1 = 1", []) if owner is None else ("initiator_id = ?", [owner])


def entries(
    database: Database,
    *,
    owner: str | None = None,
    filters: Mapping[str, str] | None = None,
    status: str = "",
    since: float | None = None,
    before: tuple[str, str] | None = None,
    limit: int,
) -> list[Entry]:
    """The newest interceptions first, those of the user with the id ``owner`` alone if it is given.

    ``status`` is empty, ``running``, ``failed`` or ``good``; ``before`` is when the last one of
    the page before was started, and its id.
    """
    conditions, values = narrowed(filters or {})
    if owner is not None:
        conditions.append("initiator_id = ?")
        values.append(owner)
    if since is not None:
        conditions.append("started_at >= ?")
        values.append(timestamp(since))
    if before is not None:
        # The first condition is what the index on the time can use.
        conditions.append("started_at <= ? AND (started_at < ? OR id < ?)")
        values += [before[0], before[0], before[1]]
    told = {
        "running": "ended_at IS NULL",
        "failed": "error_type IS NOT NULL",
        "good": "ended_at IS NOT NULL AND error_type IS NULL",
    }
    if status in told:
        conditions.append(told[status])
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    rows = database.execute(
        f"SELECT {_ENTRY} FROM interceptions {where} ORDER BY started_at DESC, id DESC LIMIT ?",
        [*values, limit],
    ).fetchall()
    found = [Entry(*row) for row in rows]
    _fill(database, found)
    return found


def _fill(database: Database, found: Sequence[Entry]) -> None:
    """Prompts, tools and sums of tokens, for all at once."""
    if not found:
        return
    ids = [entry.id for entry in found]
    sums = {
        row[0]: Tokens(*row[1:])
        for row in database.execute(
            f"SELECT interception_id, {TOKEN_SUMS} FROM token_usages"
            f" WHERE interception_id IN ({marks(ids)}) GROUP BY interception_id",
            ids,
        ).fetchall()
    }
    prompts = {
        row[0]: row[1]
        for row in database.execute(
            f"SELECT interception_id, substr(prompt, 1, {_SNIPPET}) FROM user_prompts"
            f" WHERE interception_id IN ({marks(ids)}) ORDER BY created_at",
            ids,
        ).fetchall()
    }
    tools: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for interception_id, tool in database.execute(
        "SELECT interception_id, tool FROM tool_usages"
        f" WHERE interception_id IN ({marks(ids)}) ORDER BY created_at",
        ids,
    ).fetchall():
        tools[interception_id][tool] = None
    for entry in found:
        entry.tools = tuple(tools[entry.id])
        entry.tokens = sums.get(entry.id, entry.tokens)
        entry.prompt = " ".join(prompts.get(entry.id, "").split())


@frozen
class Minute:
    """What was started within one minute."""

    moment: float
    requests: int
    errors: int


def last_hour(database: Database, now: float, owner: str | None = None) -> list[Minute]:
    """Sixty minutes, the one that runs last, the empty ones too."""
    first = now // 60 * 60 - 59 * 60
    whose, owners = _whose(owner)
    rows = database.execute(
        "SELECT substr(started_at, 1, 16), count(*), count(error_type) FROM interceptions"
        f" WHERE started_at >= ? AND {whose} GROUP BY substr(started_at, 1, 16)",
        [timestamp(first), *owners],
    ).fetchall()
    found = {row[0]: (row[1], row[2]) for row in rows}
    moments = [first + 60 * number for number in range(60)]
    return [Minute(each, *found.get(timestamp(each)[:16], (0, 0))) for each in moments]


def latencies(
    database: Database, since: float, owner: str | None = None, *, limit: int = 2000
) -> list[float]:
    """Seconds that the newest whole answers took, shortest first."""
    whose, owners = _whose(owner)
    rows = database.execute(
        "SELECT started_at, ended_at FROM interceptions WHERE started_at >= ? AND"
        f" ended_at IS NOT NULL AND error_type IS NULL AND {whose}"
        " ORDER BY started_at DESC LIMIT ?",
        [timestamp(since), *owners, limit],
    ).fetchall()
    return sorted(max(0.0, moment_of(end) - moment_of(start)) for start, end in rows)


def spent_since(database: Database, since: float, owner: str | None = None) -> tuple[int, Tokens]:
    """How many interceptions were started since then, and what they used."""
    whose, owners = _whose(owner)
    begin = [timestamp(since), *owners]
    count = database.execute(
        f"SELECT count(*) FROM interceptions WHERE started_at >= ? AND {whose}", begin
    ).fetchall()[0][0]
    row = database.execute(
        f"SELECT {TOKEN_SUMS} FROM interceptions JOIN token_usages ON interception_id = id"
        f" WHERE started_at >= ? AND {whose}",
        begin,
    ).fetchall()[0]
    return count, Tokens(*(value or 0 for value in row))


def choices(database: Database, since: float, owner: str | None = None) -> dict[str, list[str]]:
    """What the filters can be set to, of the interceptions since then."""
    whose, owners = _whose(owner)
    columns = ("username", "provider_name", "model", "client")
    found: defaultdict[str, set[str]] = defaultdict(set)
    rows = database.execute(
        f"SELECT DISTINCT {', '.join(columns)} FROM"
        f" (SELECT {', '.join(columns)} FROM interceptions WHERE started_at >= ?"
        f"  AND {whose} ORDER BY started_at DESC LIMIT 20000) AS newest",
        [timestamp(since), *owners],
    ).fetchall()
    for row in rows:
        for name, value in zip(("user", "provider", "model", "client"), row, strict=True):
            found[name].add(value)
    return {name: sorted(values) for name, values in found.items()}


@frozen
class Step:
    """One record of an interception, in the order in which they came."""

    kind: str
    """prompt, thought, answer, tool or tokens."""
    at: str
    title: str
    """Whose prompt, which tool."""
    text: str
    """Cut after :data:`LONGEST` letters."""
    length: int
    """Letters in all."""
    number: int
    """Which of its kind, from 0: where all of it can be read."""
    failed: str = ""
    tokens: Tokens | None = None
    notes: Mapping[str, Any] = field(factory=dict)


@frozen
class Detail:
    """One interception with all its records."""

    entry: Entry
    row: Mapping[str, Any]
    """Its columns by name."""
    metadata: Mapping[str, Any]
    steps: Sequence[Step]
    neighbours: int
    """Interceptions of the same user's same session, this one among them."""


_COLUMNS: Final = (
    "provider", "api_key_id", "user_agent", "correlating_tool_call_id", "credential_kind",
    "credential_hint", "metadata", "error_message", "initiator_id", "session_id", "repository",
    "branch",
)  # fmt: skip
_ORDER: Final = "ORDER BY created_at, record_id"


def detail(database: Database, interception_id: str, owner: str | None = None) -> Detail | None:
    """None: there is no such interception, or it is not of the user with the id ``owner``."""
    whose, owners = _whose(owner)
    rows = database.execute(
        f"SELECT {_ENTRY}, {', '.join(_COLUMNS)} FROM interceptions WHERE id = ? AND {whose}",
        [interception_id, *owners],
    ).fetchall()
    if not rows:
        return None
    width = len(rows[0]) - len(_COLUMNS)
    entry = Entry(*rows[0][:width])
    _fill(database, [entry])
    row = dict(zip(_COLUMNS, rows[0][width:], strict=True))
    steps = sorted(_steps(database, interception_id), key=lambda step: step.at)
    neighbours = 1
    if entry.session:
        day = timestamp(moment_of(entry.started_at) - 86_400)
        neighbours = database.execute(
            "SELECT count(*) FROM interceptions WHERE started_at >= ? AND client_session_id = ?"
            " AND initiator_id = ?",
            [day, entry.session, row["initiator_id"]],
        ).fetchall()[0][0]
    return Detail(entry, row, _object(row["metadata"]), steps, neighbours)


def _steps(database: Database, interception_id: str) -> Iterator[Step]:
    def of(columns: str, table: str) -> Iterable[tuple[int, Sequence[Any]]]:
        rows = database.execute(
            f"SELECT {columns} FROM {table} WHERE interception_id = ? {_ORDER} LIMIT ?",
            [interception_id, _MOST_RECORDS],
        ).fetchall()
        return enumerate(rows)

    cut = f"substr({{0}}, 1, {LONGEST}), length({{0}})"
    for number, (at, text, length, notes) in of(
        f"created_at, {cut.format('prompt')}, metadata", "user_prompts"
    ):
        told = _object(notes)
        yield Step("prompt", at, _text(told.get("prompt_kind")), text, length, number, notes=told)
    for number, (at, text, length, notes) in of(
        f"created_at, {cut.format('content')}, metadata", "model_thoughts"
    ):
        yield Step("thought", at, "", text, length, number, notes=_object(notes))
    for number, (at, text, length, notes) in of(
        f"created_at, {cut.format('content')}, metadata", "model_answers"
    ):
        yield Step("answer", at, "", text, length, number, notes=_object(notes))
    for number, (at, text, length, tool, error, injected, server, notes) in of(
        f"created_at, {cut.format('input')}, tool, invocation_error, injected, server_url,"
        " metadata",
        "tool_usages",
    ):
        told = _object(notes)
        if injected:
            told = {"run by": f"the gateway, at {server}" if server else "the gateway", **told}
        yield Step("tool", at, tool, text, length, number, failed=error or "", notes=told)
    for number, (at, given, made, read, written, cost, price, notes) in of(
        "created_at, input_tokens, output_tokens, cache_read_input_tokens,"
        " cache_write_input_tokens, cost_nano_usd, price, metadata",
        "token_usages",
    ):
        priced = cost is not None
        tokens = Tokens(given, made, read, written, cost or 0, int(priced), int(not priced))
        told = _object(notes)
        if price:
            told = {"price": price, **told}
        yield Step("tokens", at, "", "", 0, number, tokens=tokens, notes=told)


@frozen
class Text:
    """A text, and the user whose it is."""

    text: str
    user_id: str
    username: str


_TEXTS: Final = {
    "prompt": ("prompt", "user_prompts"),
    "thought": ("content", "model_thoughts"),
    "answer": ("content", "model_answers"),
    "tool": ("input", "tool_usages"),
}


def whole_text(
    database: Database, interception_id: str, kind: str, number: int, owner: str | None = None
) -> Text | None:
    """All of one text of an interception; see :class:`Step`.

    None: there is none, or it is not of the user with the id ``owner``.
    """
    if kind not in _TEXTS:
        return None
    column, table = _TEXTS[kind]
    whose, owners = _whose(owner)
    rows = database.execute(
        f"SELECT r.{column}, i.initiator_id, i.username FROM {table} r"
        f" JOIN interceptions i ON i.id = r.interception_id WHERE r.interception_id = ? AND {whose}"
        " ORDER BY r.created_at, r.record_id LIMIT 1 OFFSET ?",
        [interception_id, *owners, number],
    ).fetchall()
    return Text(*rows[0]) if rows else None


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
