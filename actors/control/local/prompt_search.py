"""Prompts and answers by their words: SQLite's FTS5, PostgreSQL's own.

SQLite's index costs more than a prompt's row, so it is not written with each request but in
small steps afterwards (:func:`index_more`).  What it has not come to yet is looked through as it
is, so a search finds all.  PostgreSQL keeps its index by itself.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Final, TypeAlias

from attrs import field, frozen

from aigateway.actors.control.local.schema import Database, transaction
from aigateway.actors.control.local.sessions import SessionFilter

__all__ = ["Hit", "index_again", "index_more", "phrases_of", "search_prompts", "unindexed"]

SEARCHED: Final = 16_384
"""Characters of a text that are searched; the schema says the same."""

_ROWS_AT_ONCE, _CHARACTERS_AT_ONCE = 100, 16_384
"""How much is indexed in one transaction, so that it holds up nobody for more than some ms."""

_EXCERPT: Final = 60
"""Characters of a text on either side of what was found."""

_PHRASE = re.compile(r'"([^"]*)"|([^\s"]+)')
_WORD = re.compile(r"[^\W_]+")
_TAIL = 2000
"""Prompts, and answers, that are looked through as they are."""


@frozen
class _Searched:
    """What is searched, and how it is indexed in SQLite."""

    what: str
    table: str
    column: str
    index: str
    view: str
    task: str
    """That of housekeeping which says how far the index has come."""


_SEARCHED: Final = (
    _Searched("prompt", "user_prompts", "prompt", "prompt_search", "searched_prompts", "search"),
    _Searched(
        "answer", "model_answers", "content", "answer_search", "searched_answers", "search answers"
    ),
)


@frozen
class Hit:
    """A prompt or an answer in which all was found."""

    session_id: str | None
    user_id: str
    username: str
    interception_id: str
    created_at: str
    """RFC 3339 in UTC."""
    excerpt: str = field(repr=False)
    what: str = "prompt"
    """``prompt`` or ``answer``."""


def phrases_of(text: str) -> list[str]:
    """What is sought: words, and what stands between quotes as it stands there."""
    found = (quoted or bare for quoted, bare in _PHRASE.findall(text))
    return [phrase for phrase in found if any(letter.isalnum() for letter in phrase)]


def search_prompts(connection: Database, text: str, wanted: SessionFilter, limit: int) -> list[Hit]:
    """Prompts and answers that have all words and phrases of ``text``, the latest first, ``limit``
    at most.

    ``wanted`` is about the requests that they are of.  Raises ValueError when there is no
    word in ``text``, and what :func:`~.sessions.find_sessions` raises.
    """
    phrases = phrases_of(text)
    if not phrases:
        raise ValueError("no word to search for")
    conditions, values = wanted.request_conditions()
    hits: list[Hit] = []
    for searched in _SEARCHED:
        if isinstance(connection, sqlite3.Connection):
            rows = _in_sqlite(connection, searched, phrases, conditions, values, limit)
        else:
            rows = _in_postgresql(connection, searched, phrases, conditions, values, limit)
        hits += [
            Hit(session, user, name, id, at, _excerpt(text, phrases), searched.what)
            for session, user, name, id, at, text in rows
        ]
    if {hit.what for hit in hits} == {"prompt", "answer"}:
        # Each come latest first; of what is equally old the order stays.
        hits.sort(key=lambda hit: hit.created_at, reverse=True)
    return hits[:limit]


_Row: TypeAlias = tuple[str | None, str, str, str, str, str]
_COLUMNS = "i.session_id, i.initiator_id, i.username, i.id, p.created_at"


def _in_sqlite(
    connection: sqlite3.Connection,
    searched: _Searched,
    phrases: list[str],
    conditions: list[str],
    values: list[str],
    limit: int,
) -> list[_Row]:
    query = " ".join(f'"{phrase}"' for phrase in phrases)
    also = "".join(f" AND {condition}" for condition in conditions)
    rows = connection.execute(
        f"""
        SELECT {_COLUMNS}, substr(p.{searched.column}, 1, {SEARCHED})
        FROM {searched.index} s
        JOIN {searched.table} p ON p.rowid = s.rowid
        JOIN interceptions i ON i.id = p.interception_id
        WHERE {searched.index} MATCH ? {also} ORDER BY s.rowid DESC LIMIT {int(limit)}
        """,
        (query, *values),
    ).fetchall()
    done = _done(connection, searched)
    tail = connection.execute(
        f"""
        SELECT {_COLUMNS}, substr(p.{searched.column}, 1, {SEARCHED})
        FROM {searched.table} p JOIN interceptions i ON i.id = p.interception_id
        WHERE p.rowid > ? {also} ORDER BY p.rowid DESC LIMIT {_TAIL}
        """,
        (done, *values),
    )
    sought = [_words(phrase) for phrase in phrases]
    fresh = [row for row in tail if all(map(_words(row[-1]).__contains__, sought))]
    return [*fresh, *rows][:limit]


def _words(text: str) -> str:
    """The words of a text with a space around each, as an index takes them."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "


# As the schema has it; the question mark cannot stand here, which is a place for a value.
_INDEXED: Final = (
    f"to_tsvector('simple', translate(left(p.{{}}, {SEARCHED}),"
    " '!\"#$%&''()*+,-./:;<=>@[\\]^_`{|}~' || chr(63), repeat(' ', 32)))"
)


_NO_WORD: Final = "[^[:alnum:]]"
_GAP: Final = f"{_NO_WORD}+"
"""What is between two words of a phrase, as a pattern of PostgreSQL's."""


def _in_postgresql(
    connection: Database,
    searched: _Searched,
    phrases: list[str],
    conditions: list[str],
    values: list[str],
    limit: int,
) -> list[_Row]:
    words = [_WORD.findall(phrase) for phrase in phrases]
    several = [_GAP.join(phrase) for phrase in words if len(phrase) > 1]
    column = searched.column
    conditions = [*(f"left(t.{column}, {SEARCHED}) ~* ?" for _ in several), *conditions]
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    # PERF: the index knows no phrases.  So places of prompts that have all the words come first, in
    # their order, and no more of the prompts are read than is needed.
    return connection.execute(
        f"""
        SELECT {_COLUMNS}, left(t.{column}, {SEARCHED})
        FROM (
            SELECT p.ctid AS place, p.interception_id, p.created_at
            FROM {searched.table} p WHERE {_indexed(column)} @@ plainto_tsquery('simple', ?)
            ORDER BY p.created_at DESC OFFSET 0
        ) p
        CROSS JOIN LATERAL (
            SELECT t.{column} FROM {searched.table} t WHERE t.ctid = p.place OFFSET 0
        ) t
        JOIN interceptions i ON i.id = p.interception_id
        {where} ORDER BY p.created_at DESC LIMIT {int(limit)}
        """,
        (
            " ".join(word for phrase in words for word in phrase),
            *(f"(^|{_NO_WORD}){pattern}({_NO_WORD}|$)" for pattern in several),
            *values,
        ),
    ).fetchall()


def _indexed(column: str) -> str:
    return _INDEXED.replace("{}", column, 1)


def _excerpt(prompt: str, phrases: list[str]) -> str:
    """The prompt around the first thing that was found, in one line."""
    found = re.search("|".join(map(re.escape, phrases)), prompt, re.IGNORECASE)
    at = found.start() if found else 0
    start, end = max(0, at - _EXCERPT), at + 2 * _EXCERPT
    line = " ".join(prompt[start:end].split())
    return f"{'…' if start else ''}{line}{'…' if end < len(prompt) else ''}"


# -- SQLite's index


def _done(connection: sqlite3.Connection, searched: _Searched) -> int:
    row = connection.execute(
        "SELECT done FROM housekeeping WHERE task = ?", (searched.task,)
    ).fetchone()
    return int(row[0])


def unindexed(connection: Database) -> bool:
    """Whether :func:`index_more` has something to do."""
    if not isinstance(connection, sqlite3.Connection):
        return False
    return bool(_behind(connection))


def _behind(connection: sqlite3.Connection) -> list[_Searched]:
    """What has texts that its index has not come to."""
    return [
        each
        for each in _SEARCHED
        if connection.execute(
            f"SELECT coalesce(max(rowid), 0) > ? FROM {each.table}", (_done(connection, each),)
        ).fetchone()[0]
    ]


def index_more(connection: Database) -> bool:
    """Take some more texts into the indexes; says whether there may be others left."""
    if not isinstance(connection, sqlite3.Connection):
        return False
    more = [_index_more(connection, each) for each in _behind(connection)]
    return any(more)


def _index_more(connection: sqlite3.Connection, searched: _Searched) -> bool:
    with transaction(connection):
        done = _done(connection, searched)
        last, characters, rows = done, 0, 0
        found = connection.execute(
            f"SELECT rowid, min(length({searched.column}), {SEARCHED}) FROM {searched.table}"
            f" WHERE rowid > ? ORDER BY rowid LIMIT {_ROWS_AT_ONCE}",
            (done,),
        )
        for last, length in found:  # noqa: B007
            characters, rows = characters + length, rows + 1
            if characters >= _CHARACTERS_AT_ONCE:
                break
        if last > done:
            connection.execute(
                f"INSERT INTO {searched.index} (rowid, {searched.column})"
                f" SELECT place, {searched.column} FROM {searched.view}"
                " WHERE place > ? AND place <= ?",
                (done, last),
            )
            connection.execute(
                "UPDATE housekeeping SET done = ? WHERE task = ?", (last, searched.task)
            )
    return characters >= _CHARACTERS_AT_ONCE or rows == _ROWS_AT_ONCE


def index_again(connection: sqlite3.Connection) -> None:
    """Forget the indexes, so that all is taken into them again: SQLite may number rows again when a
    file is rewritten."""
    with transaction(connection):
        for each in _SEARCHED:
            connection.execute(f"INSERT INTO {each.index} ({each.index}) VALUES ('delete-all')")
            connection.execute("UPDATE housekeeping SET done = 0 WHERE task = ?", (each.task,))
