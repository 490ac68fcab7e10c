"""The policy of a team as values: what callers may do, how often, and for how much money.

A policy is made of *statements* about everybody, about groups, users, keys and projects
(:class:`Rules`).  :meth:`Policy.rules_for` works out what of it holds for one caller:

- Models, providers, and how often: the most specific statement holds, that about the key before
  the user before the groups before everybody.  Each is looked for by itself: a group may state its
  models and leave the rest to what is said of everybody.
- Of several groups' statements the most generous holds: the models and providers of all of
  them together, and the largest number.  A group that states nothing takes no part in this.
- Content: the least of what the statements that apply say.  A policy can only lower it.
- Unpriced models: the most specific statement, ``refuse`` if there is none.
- What is shared by a whole group (``shared_*_per_minute``), and caps: all that apply hold.
- What a key was given itself when it was made comes on top of all this: it can only narrow.

In the globs of models ``*`` stands for any number of characters, ``?`` for one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Generic, Literal, TypeAlias, TypeVar

from attrs import field, frozen

__all__ = [
    "CONTENT_LEVELS",
    "AppliedCap",
    "CallerRules",
    "Cap",
    "Every",
    "Limit",
    "Per",
    "Policy",
    "Rules",
    "Stated",
    "Subject",
    "content_level",
    "glob_matches",
]

T = TypeVar("T")

CONTENT_LEVELS: Final = ("none", "prompts", "full")
"""How much is recorded of what users and models say, from nothing on: ``prompts`` are these, tools'
inputs and thoughts; ``full`` is also what models answer and all that is sent to them."""

Every: TypeAlias = Literal["day", "week", "month"]
"""In the policy's time zone; a week begins on Monday."""
Per: TypeAlias = Literal["user", "group", "key", "project"]
"""Whose spending is added up: for ``group`` that of all its members and keys together."""


@frozen
class Cap:
    """So much may be spent in each day, week or month."""

    nano_usd: int
    every: Every
    per: Per


@frozen
class Rules:
    """One statement of the policy; None and empty: it does not speak of that."""

    models: tuple[str, ...] | None = None
    """Globs; empty: no model at all."""
    providers: tuple[str, ...] | None = None
    """Names or globs of the gateway's providers; empty: none at all."""
    content: Literal["prompts", "none"] | None = None
    requests_per_minute: int | None = None
    """Of each user (in a statement about a key: of that key)."""
    tokens_per_minute: int | None = None
    shared_requests_per_minute: int | None = None
    """Of all in a group together; only statements about groups have it."""
    shared_tokens_per_minute: int | None = None
    unpriced: Literal["refuse", "allow"] | None = None
    caps: tuple[Cap, ...] = ()


@frozen
class Stated(Generic[T]):
    """What holds, and the statement that says so."""

    value: T
    rule: str
    """Where it stands in the document: ``groups.engineering.models``."""


@frozen
class Subject:
    """Whose requests, tokens or money are counted together."""

    per: Per
    id: str
    """A user's or key's id, a group's or project's name."""

    def __str__(self) -> str:
        return f"{self.per}:{self.id}"


@frozen
class Limit:
    """At most so many requests or tokens in a minute."""

    count: int
    what: Literal["requests", "tokens"]
    subject: Subject
    rule: str


@frozen
class AppliedCap:
    """A cap, and whose spending counts against it."""

    cap: Cap
    subject: Subject
    rule: str
    """``everybody.caps[0]``, for example."""


@frozen
class CallerRules:
    """What holds for one caller."""

    contact: str = ""
    """Whom to ask, said in each refusal; may be empty."""
    timezone: str = "UTC"
    models: tuple[Stated[tuple[str, ...]], ...] = ()
    """Each must have a glob that matches."""
    providers: tuple[Stated[tuple[str, ...]], ...] = ()
    content: Stated[str] | None = None
    """At most this of :data:`CONTENT_LEVELS`; None: what the gateway is set to."""
    limits: tuple[Limit, ...] = ()
    caps: tuple[AppliedCap, ...] = ()
    unpriced: Stated[str] = Stated("refuse", "")

    def model_refusal(self, model: str, also: Iterable[str] = ()) -> Stated[str] | None:
        """``model`` with the rule that does not allow it; None: it may be used.

        ``also``: other names of the same model, one of which is enough.
        """
        return _refused(self.models, model, also)

    def provider_refusal(self, name: str) -> Stated[str] | None:
        """``name`` with the rule that does not allow that provider; None: it may be used."""
        return _refused(self.providers, name)


@frozen
class Policy:
    """A whole document; the default is one that says nothing."""

    contact: str = ""
    timezone: str = "UTC"
    everybody: Rules = Rules()
    groups: Mapping[str, Rules] = field(factory=dict)
    """By name."""
    users: Mapping[str, Rules] = field(factory=dict)
    """By name or id."""
    keys: Mapping[str, Rules] = field(factory=dict)
    """By the key's id."""
    projects: Mapping[str, Rules] = field(factory=dict)
    """By name; only caps."""

    def rules_for(
        self,
        *,
        user_id: str,
        username: str = "",
        groups: Iterable[str] = (),
        key_id: str = "",
        project: str = "",
        own: Rules | None = None,
    ) -> CallerRules:
        """What holds for a caller.

        ``user_id`` is also what a machine with a key of its group's counts as; it has no
        ``username``.  ``own`` is what its key was given when it was made.
        """
        groups = sorted(set(groups))
        of_groups = [
            (f"groups.{name}", self.groups[name]) for name in groups if name in self.groups
        ]
        everybody = [("everybody", self.everybody)]
        user = [
            (f"users.{name}", self.users[name])
            for name in dict.fromkeys((username, user_id))
            if name and name in self.users
        ]
        key = [(f"keys.{key_id}", self.keys[key_id])] if key_id in self.keys else []
        levels = (key, user, of_groups, everybody)
        keys_own = [] if own is None else [(f"key {key_id}", own)]
        whose = _Whose(user_id, tuple(groups), key_id, project)
        return CallerRules(
            contact=self.contact,
            timezone=self.timezone,
            models=tuple(_lists(levels, keys_own, "models", lambda rules: rules.models)),
            providers=tuple(_lists(levels, keys_own, "providers", lambda rules: rules.providers)),
            content=_content([*keys_own, *key, *user, *of_groups, *everybody]),
            limits=tuple(_limits(levels, keys_own, whose)),
            caps=tuple(self._caps(levels, keys_own, whose)),
            unpriced=_unpriced(levels),
        )

    def _caps(self, levels: _Levels, own: _Statements, whose: _Whose) -> Iterator[AppliedCap]:
        key, user, of_groups, everybody = levels
        for rule, rules in (*own, *key, *user, *everybody):
            for place, cap in enumerate(rules.caps):
                for subject in whose.subjects(cap.per):
                    yield AppliedCap(cap, subject, f"{rule}.caps[{place}]")
        for rule, rules in of_groups:
            for place, cap in enumerate(rules.caps):
                # A statement about one group does not speak of the others.
                pool = (Subject("group", rule.removeprefix("groups.")),)
                for subject in pool if cap.per == "group" else whose.subjects(cap.per):
                    yield AppliedCap(cap, subject, f"{rule}.caps[{place}]")
        if whose.project in self.projects:
            for place, cap in enumerate(self.projects[whose.project].caps):
                for subject in whose.subjects(cap.per):
                    yield AppliedCap(cap, subject, f"projects.{whose.project}.caps[{place}]")


_Statements: TypeAlias = list[tuple[str, Rules]]
_Levels: TypeAlias = tuple[_Statements, _Statements, _Statements, _Statements]
"""About the key, the user, the groups and everybody; all but the groups' have at most one that
speaks, or two for a user that is named and numbered."""


@frozen
class _Whose:
    user_id: str
    groups: tuple[str, ...]
    key_id: str
    project: str

    def subjects(self, per: Per) -> tuple[Subject, ...]:
        match per:
            case "user":
                return (Subject("user", self.user_id),)
            case "group":
                return tuple(Subject("group", name) for name in self.groups)
            case "key":
                return (Subject("key", self.key_id),)
            case "project":
                return (Subject("project", self.project),) if self.project else ()


def _lists(
    levels: _Levels,
    own: _Statements,
    name: str,
    get: Callable[[Rules], tuple[str, ...] | None],
) -> Iterator[Stated[tuple[str, ...]]]:
    """The list that holds by the most specific statement, and the key's own."""
    for statements in levels:
        stated = [(rule, value) for rule, rules in statements if (value := get(rules)) is not None]
        if stated:
            value = tuple(dict.fromkeys(glob for _rule, globs in stated for glob in globs))
            yield Stated(value, ", ".join(f"{rule}.{name}" for rule, _globs in stated))
            break
    for rule, rules in own:
        if (globs := get(rules)) is not None:
            yield Stated(globs, f"{rule}.{name}")


def _limits(levels: _Levels, own: _Statements, whose: _Whose) -> Iterator[Limit]:
    kinds: tuple[tuple[Literal["requests", "tokens"], str], ...] = (
        ("requests", "requests_per_minute"),
        ("tokens", "tokens_per_minute"),
    )
    of_user, of_key = Subject("user", whose.user_id), Subject("key", whose.key_id)
    key, _user, of_groups, _everybody = levels
    for what, name in kinds:
        for statements in levels:
            stated = [
                Limit(count, what, of_key if statements is key else of_user, f"{rule}.{name}")
                for rule, rules in statements
                if (count := getattr(rules, name)) is not None
            ]
            if stated:
                yield max(stated, key=lambda limit: limit.count)
                break
        for rule, rules in own:
            if (count := getattr(rules, name)) is not None:
                yield Limit(count, what, of_key, f"{rule}.{name}")
        for rule, rules in of_groups:
            if (count := getattr(rules, f"shared_{name}")) is not None:
                pool = Subject("group", rule.removeprefix("groups."))
                yield Limit(count, what, pool, f"{rule}.shared_{name}")


def _content(statements: _Statements) -> Stated[str] | None:
    stated = [(rule, rules.content) for rule, rules in statements if rules.content is not None]
    if not stated:
        return None
    rule, level = min(stated, key=lambda each: CONTENT_LEVELS.index(each[1]))
    return Stated(level, f"{rule}.content")


def content_level(gateway: str, rules: CallerRules | None) -> str:
    """Which of :data:`CONTENT_LEVELS` holds for a caller; ``gateway``: what that is set to."""
    if rules is None or rules.content is None:
        return gateway
    return min(gateway, rules.content.value, key=CONTENT_LEVELS.index)


def _unpriced(levels: _Levels) -> Stated[str]:
    for statements in levels:
        stated = [(rule, rules.unpriced) for rule, rules in statements if rules.unpriced]
        # As with all that groups state: the most generous.
        for rule, value in sorted(stated, key=lambda each: each[1] != "allow"):
            return Stated(value, f"{rule}.unpriced")
    return Stated("refuse", "")


def _refused(
    stated: tuple[Stated[tuple[str, ...]], ...], name: str, also: Iterable[str] = ()
) -> Stated[str] | None:
    for each in stated:
        if not any(glob_matches(glob, one) for glob in each.value for one in (name, *also)):
            return Stated(name, each.rule)
    return None


def glob_matches(glob: str, name: str) -> bool:
    """Whether ``name`` is as ``glob`` says: ``*`` any number of characters, ``?`` one."""
    return glob == "*" or glob == name or _pattern(glob).fullmatch(name) is not None


@functools.lru_cache(maxsize=1024)
def _pattern(glob: str) -> re.Pattern[str]:
    parts = (".*" if sign == "*" else "." if sign == "?" else re.escape(sign) for sign in glob)
    return re.compile("".join(parts), re.DOTALL)
