"""The policy of a database: its versions, and the one that holds."""

from __future__ import annotations

import time
from collections.abc import Callable

from attrs import evolve, frozen

from aigateway.actors.control.local.api_keys import KnownKey
from aigateway.actors.control.local.audit import Change, note_changes
from aigateway.actors.control.local.policy_document import BadPolicy, read_policy, read_rules
from aigateway.actors.control.local.schema import Database, transaction
from aigateway.actors.control.messages import Caller
from aigateway.actors.values.policy import Policy
from aigateway.actors.values.records import timestamp

__all__ = ["BadStoredPolicy", "PolicyChanged", "PolicyInForce", "StoredPolicy", "apply", "newest"]

LOOK_EVERY = 1.0
"""Seconds between two looks at whether there is another policy."""
_REMEMBERED = 10_000
"""Callers who are remembered with their rules."""


class PolicyChanged(Exception):
    """Somebody else applied a policy meanwhile."""


class BadStoredPolicy(Exception):
    """What is stored cannot be read by this aigateway: a newer one may have written it."""


@frozen
class StoredPolicy:
    """One version of the policy; version 0 is none at all."""

    version: int = 0
    document: str = ""
    """As it was applied, comments and all."""
    created_by: str = ""
    created_at: str = ""


def newest(database: Database) -> StoredPolicy:
    """The policy that holds.  Raises what the database raises."""
    row = database.execute(
        "SELECT version, document, created_by, created_at FROM policies"
        " ORDER BY version DESC LIMIT 1"
    ).fetchone()
    return StoredPolicy() if row is None else StoredPolicy(*row)


def apply(
    database: Database, document: str, *, over: int, who: str, now: float | None = None
) -> StoredPolicy:
    """Let ``document`` hold from now on, in the place of version ``over``.

    Raises :class:`~.policy_document.BadPolicy`, :class:`PolicyChanged` when another version holds
    by now, and what the database raises.
    """
    read_policy(document)
    now = time.time() if now is None else now
    with transaction(database):
        old = newest(database)
        if old.version != over:
            raise PolicyChanged(
                f"version {old.version} of the policy was applied meanwhile,"
                f" at {old.created_at} by {old.created_by}"
            )
        new = StoredPolicy(over + 1, document, who, timestamp(now))
        made = database.execute(
            "INSERT INTO policies (version, document, created_by, created_at)"
            " VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (new.version, new.document, new.created_by, new.created_at),
        )
        if not made.rowcount:
            raise PolicyChanged(f"version {new.version} of the policy was applied meanwhile")
        before = {"version": old.version, "document": old.document} if old.version else None
        after = {"version": new.version, "document": new.document}
        note_changes(database, who, [Change("policy.apply", "policy", before, after)], now)
    return new


class PolicyInForce:
    """The policy as one process knows it, at most :data:`LOOK_EVERY` seconds old.

    For one thread at a time.  ``clock`` is monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_at: float | None = None
        self._version = 0
        self._has_groups = False
        self._policy = Policy()
        self._admitted: dict[tuple[Caller, str | None, bool], Caller] = {}

    @property
    def version(self) -> int:
        return self._version

    @property
    def has_groups(self) -> bool:
        """Whether there are groups, as the policy is known.  Where there are none nobody's need be
        looked up; where there are, records name them whether a policy speaks of them or not."""
        return self._has_groups

    def look(self, database: Database) -> None:
        """Read the policy if it was not looked at for a while and is another one.

        Raises what the database raises, and :class:`BadStoredPolicy`: then nobody may be let in,
        since what is allowed is not known.
        """
        now = self._clock()
        if self._looked_at is not None and now - self._looked_at < LOOK_EVERY:
            return
        version, has_groups = database.execute(
            "SELECT (SELECT coalesce(max(version), 0) FROM policies), EXISTS (SELECT 1 FROM groups)"
        ).fetchone() or (0, False)
        if version != self._version:
            stored = newest(database)
            try:
                self._policy = read_policy(stored.document)
            except BadPolicy as ex:
                raise BadStoredPolicy(
                    f"version {stored.version} of the policy cannot be used: {ex}"
                ) from ex
            self._version = stored.version
            self._admitted.clear()
        self._has_groups = bool(has_groups)
        self._looked_at = now

    def admitted(self, key: KnownKey) -> Caller:
        """The caller with the rules that hold.

        Raises :class:`BadStoredPolicy` when what the key itself may cannot be read.
        """
        caller = key.caller
        if not self._version and key.rules is None:
            return caller
        machine = key.group_id is not None
        known = (caller, key.rules, machine)
        admitted = self._admitted.get(known)
        if admitted is None:
            try:
                own = None if key.rules is None else read_rules(key.rules)
            except BadPolicy as ex:
                raise BadStoredPolicy(
                    f"the rules of the key {caller.api_key_id} cannot be used: {ex}"
                ) from ex
            rules = self._policy.rules_for(
                user_id=caller.user_id,
                username="" if machine else caller.username,
                groups=caller.groups,
                key_id=caller.api_key_id,
                project=caller.project,
                own=own,
            )
            if len(self._admitted) >= _REMEMBERED:
                self._admitted.clear()
            admitted = self._admitted[known] = evolve(caller, rules=rules)
        return admitted
