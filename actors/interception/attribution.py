"""For which work a request was made: session, agents, project, repository, branch, commit.

Programs say some of it in headers of their own.  What they do not say, a user can have them
send in the gateway's headers, which begin with :data:`OWN_PREFIX`, count before a program's and
never go upstream.

All of it is a client's word.  A value that is too long or has characters that no such thing has
is dropped, and the caller is told which, so that it can be counted; a request never fails for it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final, TypeAlias

import msgspec
from attrs import field, frozen

from aigateway.actors.codec.headers import Headers, first_of, has_any
from aigateway.actors.interception.headers import OWN_PREFIX, Program
from aigateway.actors.values.attribution import Attribution

__all__ = [
    "ATTRIBUTING",
    "BRANCH",
    "COMMIT",
    "DROPPED",
    "PROJECT",
    "REPOSITORY",
    "SESSION",
    "attribution_of",
]

SESSION: Final = "X-AI-Gateway-Session"
PROJECT: Final = "X-AI-Gateway-Project"
REPOSITORY: Final = "X-AI-Gateway-Repository"
BRANCH: Final = "X-AI-Gateway-Branch"
COMMIT: Final = "X-AI-Gateway-Commit"

DROPPED: Final = (
    "session",
    "agent",
    "parent_agent",
    "project",
    "repository",
    "branch",
    "commit",
    "codex_metadata",
)
"""What :func:`attribution_of` may name as dropped."""

_ID_LIMIT: Final = 128
"""Characters of an id or a project.  Clients' ids are UUIDs or a little longer."""
_NAME_LIMIT: Final = 256
"""Characters of a repository or branch: git's own names of branches end at 255 bytes."""

_CODEX_METADATA: Final = "x-codex-turn-metadata"


@frozen
class _Lineage:
    """Where a program says which of its agents asks."""

    agent: str
    parent: str
    sessions: bool = False
    """Each agent is a session of its own, whose parent is the session that began it."""


_LINEAGES: Final = {
    "Claude Code": _Lineage("x-claude-code-agent-id", "x-claude-code-parent-agent-id"),
    "Codex": _Lineage("thread-id", "x-codex-parent-thread-id", sessions=True),
    "OpenCode": _Lineage("", "x-parent-session-id", sessions=True),
    "Kilo Code": _Lineage("", "x-parent-session-id", sessions=True),
}

_OWN: Final = frozenset(name.lower() for name in (SESSION, PROJECT, REPOSITORY, BRANCH, COMMIT))
assert all(name.startswith(OWN_PREFIX) for name in _OWN)

ATTRIBUTING: Final = _OWN | {_CODEX_METADATA}
"""Headers, in lower case, without which and without a session there is nothing to attribute."""

_ID = re.compile(r"[\w.:@/+=~#-]+")
_COMMIT = re.compile(r"[0-9a-f]{7,64}", re.ASCII | re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_unreadable = (msgspec.MsgspecError, RecursionError, UnicodeError)
_read_metadata = msgspec.json.Decoder(dict[str, Any]).decode


def attribution_of(
    headers: Headers, info: Program, *, project: str = "", may_choose: bool = True
) -> tuple[Attribution, tuple[str, ...]]:
    """What a request says of the work that it is part of, and which of it was dropped.

    ``project`` is the project of the caller's key, which counts before anything a client says;
    without one a client ``may_choose`` its own.
    """
    lineage = _LINEAGES.get(info.client)
    found = _Found()
    session, agent, parent = _lineage(found, headers, lineage, info.session_id)
    repository = branch = commit = None
    if info.client == "Codex" and (told := first_of(headers, _CODEX_METADATA)):
        repository, branch, commit, dropped = _workspace(told)
        found.dropped.extend(dropped)
    chosen = None
    if has_any(headers, _OWN):
        session = found.id("session", first_of(headers, SESSION)) or session
        repository = found.repository(first_of(headers, REPOSITORY)) or repository
        branch = found.name("branch", first_of(headers, BRANCH)) or branch
        commit = found.commit(first_of(headers, COMMIT)) or commit
        chosen = found.name("project", first_of(headers, PROJECT), _ID_LIMIT)
        if chosen and chosen != project and (project or not may_choose):
            found.dropped.append("project")
            chosen = None
    return (
        Attribution(session, agent, parent, project or chosen, repository, branch, commit),
        tuple(found.dropped),
    )


def _lineage(
    found: _Found, headers: Headers, lineage: _Lineage | None, session_id: str | None
) -> tuple[str | None, str | None, str | None]:
    """The session, the agent and its parent."""
    session = found.id("session", session_id or "")
    if lineage is None:
        return session, None, None
    agent = found.id("agent", first_of(headers, lineage.agent)) if lineage.agent else session
    parent = found.id("parent_agent", first_of(headers, lineage.parent))
    if not lineage.sessions:
        return session, agent, parent if agent else None
    # A main thread is the session itself.
    if parent and session == agent:
        return parent, agent, None
    if agent == session:
        return session, None, None
    return session, agent, None if parent == session else parent


_Workspace: TypeAlias = tuple[str | None, str | None, str | None, tuple[str, ...]]


# PERF: a turn of Codex is many requests with the same metadata.
@lru_cache(maxsize=128)
def _workspace(told: str) -> _Workspace:
    """Repository, branch and commit of what Codex tells about a turn, and what was dropped of it.

    They are those of the first workspace that has a remote, or else of the first.
    """
    try:
        workspaces = _read_metadata(told.encode("latin-1")).get("workspaces")
    except _unreadable:
        return None, None, None, ("codex_metadata",)
    if not isinstance(workspaces, dict):
        return None, None, None, ()
    known = [each for each in workspaces.values() if isinstance(each, dict)]
    known.sort(key=lambda each: not each.get("associated_remote_urls"))
    if not known:
        return None, None, None, ()
    first = known[0]
    remotes = first.get("associated_remote_urls")
    urls = list(remotes.values()) if isinstance(remotes, dict) else []
    url = remotes.get("origin", urls[0]) if isinstance(remotes, dict) and urls else ""
    found = _Found()
    return (
        found.repository(url),
        found.name("branch", first.get("git_branch") or first.get("branch") or ""),
        found.commit(first.get("latest_git_commit_hash") or ""),
        tuple(found.dropped),
    )


@frozen
class _Found:
    """Reads values and remembers which were bad."""

    dropped: list[str] = field(factory=list)

    def id(self, kind: str, value: str) -> str | None:
        return self._good(kind, value, _ID_LIMIT, _ID)

    def name(self, kind: str, value: object, limit: int = _NAME_LIMIT) -> str | None:
        return self._good(kind, value, limit)

    def commit(self, value: object) -> str | None:
        good = self._good("commit", value, _NAME_LIMIT, _COMMIT)
        return good.lower() if good else None

    def repository(self, value: object) -> str | None:
        good = self._good("repository", value, 4 * _NAME_LIMIT)
        if good is None:
            return None
        named = _plain_repository(good)
        if not named or len(named) > _NAME_LIMIT:
            self.dropped.append("repository")
            return None
        return named

    def _good(
        self, kind: str, value: object, limit: int, form: re.Pattern[str] | None = None
    ) -> str | None:
        if not value:
            return None
        good = _good_text(value, limit, form) if isinstance(value, str) else None
        if good is None:
            self.dropped.append(kind)
        return good


# PERF: a session is many requests with the same values.
@lru_cache(maxsize=512)
def _good_text(value: str, limit: int, form: re.Pattern[str] | None) -> str | None:
    text = _text(value).strip()
    if not text or len(text) > limit or not text.isprintable():
        return None
    return text if form is None or form.fullmatch(text) else None


def _text(value: str) -> str:
    """A header's value as it was meant: servers read UTF-8 as Latin-1."""
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def _plain_repository(remote: str) -> str:
    """The address of a repository without what is not its name.

    APPSEC: a remote may hold a password or token, in front of the host or in a query.
    """
    remote = remote.partition("?")[0].partition("#")[0]
    scheme = _SCHEME.match(remote)
    if scheme:
        host, slash, path = remote[scheme.end() :].partition("/")
        host = host.rpartition("@")[2].partition(":")[0]
    else:
        # git@host:owner/name, as ssh is told; or a plain name.
        host, slash, path = remote.rpartition("@")[2].partition("/")
        first, colon, rest = host.partition(":")
        if colon:
            host, path = first, f"{rest}{slash}{path}"
            slash = "/"
    whole = f"{host.lower()}{slash}{path.strip('/')}" if slash else host
    return whole.removesuffix(".git").strip("/")
