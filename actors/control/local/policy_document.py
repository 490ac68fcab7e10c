"""A policy as people write it: YAML, read into :class:`~aigateway.actors.values.policy.Policy`.

Every field may be left out; one that is not known is an error, since a rule that nobody applies is
worse than none.  Errors name the line, the field and what may stand there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args
from zoneinfo import ZoneInfo

from aigateway.actors.values.policy import Cap, Every, Per, Policy, Rules

if TYPE_CHECKING:
    from yaml import MarkedYAMLError, Node

__all__ = ["BadPolicy", "LARGEST", "differences", "read_policy", "read_rules", "rules_text"]

LARGEST = 4 * 1024 * 1024
"""Bytes of a document."""
_LARGEST_NUMBER = 10**9
"""Of requests, tokens and dollars: an amount in nano-dollars has 64 bits in a database."""

Level: TypeAlias = Literal["everybody", "groups", "users", "keys", "projects"]

_TOP = ("contact", "timezone", "everybody", "groups", "users", "keys", "projects")
_STATED = (
    "models",
    "providers",
    "content",
    "requests_per_minute",
    "tokens_per_minute",
    "unpriced",
    "caps",
)
_SHARED = ("shared_requests_per_minute", "shared_tokens_per_minute")
_FIELDS: Mapping[Level, tuple[str, ...]] = {
    "everybody": _STATED,
    "groups": (*_STATED, *_SHARED),
    "users": _STATED,
    "keys": _STATED,
    "projects": ("caps",),
}
_PER: Mapping[Level, tuple[Per, ...]] = {
    "everybody": ("user", "group", "key", "project"),
    "groups": ("group", "user", "key"),
    "users": ("user", "key"),
    "keys": ("key",),
    "projects": ("project", "user", "key"),
}
"""Whose spending a cap may be about, by where it stands; the first one if it does not say."""
_CHOICES = {"content": ("prompts", "none"), "unpriced": ("refuse", "allow")}


class BadPolicy(ValueError):
    """The document cannot be used; the text says where, why, and what to do."""


def read_policy(text: str) -> Policy:
    """Read a whole document; an empty one says nothing.  Raises :class:`BadPolicy`."""
    node = _composed(text)
    if node is None:
        return Policy()
    values: dict[str, Any] = {}
    for name, child in _members(node, "the policy", "", _TOP):
        match name:
            case "contact":
                values[name] = _line(child, name)
            case "timezone":
                values[name] = _timezone(child)
            case "everybody":
                values[name] = _rules(child, "everybody", name)
            case "groups" | "users" | "keys" | "projects":
                values[name] = {
                    key: _rules(each, name, f"{name}.{key}")
                    for key, each in _members(child, name, name)
                }
    return Policy(**values)


def read_rules(text: str) -> Rules:
    """Read what one key itself may, as :func:`rules_text` wrote it.  Raises :class:`BadPolicy`."""
    node = _composed(text)
    return Rules() if node is None else _rules(node, "keys", "rules")


def rules_text(fields: Mapping[str, Any]) -> str | None:
    """Rules of one key as text to be stored; None if there are none.

    ``fields`` are named as in a document.  Raises :class:`BadPolicy` for what is none.
    """
    stated = {name: value for name, value in fields.items() if value not in (None, ())}
    if not stated:
        return None
    text = json.dumps(stated, ensure_ascii=True)
    read_rules(text)
    return text


# -- what changes


def differences(old: Policy, new: Policy) -> list[str]:
    """One line for each field that is new, gone or changed, in the order of the document."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    lines = []
    for path in dict.fromkeys((*before, *after)):
        if path not in before:
            lines.append(f"+ {path}: {after[path]}")
        elif path not in after:
            lines.append(f"- {path}: {before[path]}")
        elif before[path] != after[path]:
            lines.append(f"~ {path}: {before[path]} -> {after[path]}")
    return lines


def _leaves(policy: Policy) -> Iterator[tuple[str, str]]:
    if policy.contact:
        yield "contact", policy.contact
    yield "timezone", policy.timezone
    yield from _leaves_of(policy.everybody, "everybody")
    named = {
        "groups": policy.groups,
        "users": policy.users,
        "keys": policy.keys,
        "projects": policy.projects,
    }
    for kind, statements in named.items():
        for name, rules in statements.items():
            yield from _leaves_of(rules, f"{kind}.{name}")


def _leaves_of(rules: Rules, path: str) -> Iterator[tuple[str, str]]:
    for name in (*_STATED, *_SHARED):
        value = getattr(rules, name)
        if name == "caps":
            if value:
                yield f"{path}.caps", f"[{', '.join(map(_cap_text, value))}]"
        elif isinstance(value, tuple):
            yield f"{path}.{name}", f"[{', '.join(value)}]"
        elif value is not None:
            yield f"{path}.{name}", str(value)


def _cap_text(cap: Cap) -> str:
    dollars = Decimal(cap.nano_usd).scaleb(-9)
    return f"${dollars.normalize():f} every {cap.every} per {cap.per}"


# -- reading


def _composed(text: str) -> Node | None:
    # Not at the top: a gateway without a policy reads none.
    import yaml

    if len(text) > LARGEST:
        raise BadPolicy(f"the policy is larger than {LARGEST >> 20} MiB")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        node: Node | None = yaml.compose(text, loader)
    except yaml.MarkedYAMLError as ex:
        raise BadPolicy(_syntax(text, ex)) from ex
    except yaml.YAMLError as ex:
        raise BadPolicy(f"the policy is not valid YAML: {' '.join(str(ex).split())}") from ex
    except RecursionError as ex:
        raise BadPolicy("the policy is nested too deep") from ex
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
        return None
    return node


def _syntax(text: str, ex: MarkedYAMLError) -> str:
    mark = ex.problem_mark or ex.context_mark
    if mark is None:
        return f"the policy is not valid YAML: {ex.problem}"
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    hint = ""
    if re.search(r"(?:[\[,:-]\s*)\*", line):
        hint = '; a glob that begins with * needs quotes: "*-mini"'
    elif "\t" in line:
        hint = "; write blanks in the place of tabs"
    return f"line {mark.line + 1}: not valid YAML: {ex.problem}{hint}"


def _bad(node: Node, field: str, problem: str) -> BadPolicy:
    where = f"{field}: " if field else ""
    return BadPolicy(f"line {node.start_mark.line + 1}: {where}{problem}")


def _members(
    node: Node, what: str, path: str, known: tuple[str, ...] = ()
) -> Iterator[tuple[str, Node]]:
    """The fields of a mapping; those with nothing behind the colon are left out.

    ``known``: all others are errors.
    """
    from yaml import MappingNode, ScalarNode

    if isinstance(node, ScalarNode) and node.tag.endswith(":null"):
        return
    if not isinstance(node, MappingNode):
        fields = f"; it may have {', '.join(known)}" if known else ""
        raise _bad(node, path, f"{what} must be a mapping of names to values{fields}")
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, ScalarNode) or not key.value.strip():
            raise _bad(key, path, "a name must be a text that is not empty")
        # The text as it stands: a group may be called 7 or no.
        name = key.value
        if name in seen:
            raise _bad(key, path, f'"{name}" is there twice, first in line {seen[name]}')
        seen[name] = line
        if known and name not in known:
            near = get_close_matches(name, known, n=1)
            way = f'did you mean "{near[0]}"?' if near else f"it may have {', '.join(known)}"
            raise _bad(key, path, f'there is no field "{name}"; {way}')
        if not (isinstance(value, ScalarNode) and value.tag.endswith(":null")):
            yield name, value


def _items(node: Node, path: str, example: str) -> list[Node]:
    from yaml import SequenceNode

    if not isinstance(node, SequenceNode):
        raise _bad(node, path, f"must be a list: {example}")
    items: list[Node] = node.value
    return items


def _rules(node: Node, level: Level, path: str) -> Rules:
    values: dict[str, Any] = {}
    for name, child in _members(node, path, path, _FIELDS[level]):
        field = f"{path}.{name}"
        if name in ("models", "providers"):
            example = '["claude-*", "gpt-5*"]' if name == "models" else "[anthropic, openai]"
            items = _items(child, field, example)
            values[name] = tuple(_line(item, field) for item in items)
        elif name in _CHOICES:
            values[name] = _choice(child, field, _CHOICES[name])
        elif name == "caps":
            items = _items(child, field, "[{usd: 20, every: day}]")
            values[name] = tuple(
                _cap(item, level, f"{field}[{place}]") for place, item in enumerate(items)
            )
        else:
            values[name] = _number(child, field)
    return Rules(**values)


def _cap(node: Node, level: Level, path: str) -> Cap:
    found = dict(_members(node, path, path, ("usd", "every", "per")))
    for name, example in (("usd", "usd: 20"), ("every", "every: day")):
        if name not in found:
            raise _bad(node, path, f"a cap needs {name}, as in {{{example}}}")
    every: Every = _choice(found["every"], f"{path}.every", get_args(Every))
    per = _PER[level][0]
    if "per" in found:
        per = _choice(found["per"], f"{path}.per", _PER[level])
    return Cap(_nano_usd(found["usd"], f"{path}.usd"), every, per)


def _text(node: Node, path: str) -> str:
    from yaml import ScalarNode

    if not isinstance(node, ScalarNode):
        raise _bad(node, path, "must be one value")
    value: str = node.value
    return value


def _line(node: Node, path: str) -> str:
    text = _text(node, path).strip()
    if not text:
        raise _bad(node, path, "must not be empty")
    if not text.isprintable():
        raise _bad(node, path, "must be one line without control characters")
    return text


def _choice(node: Node, path: str, choices: tuple[Any, ...]) -> Any:
    text = _text(node, path)
    if text not in choices:
        raise _bad(node, path, f'"{text}" must be {" or ".join(choices)}')
    return text


def _number(node: Node, path: str) -> int:
    text = _text(node, path).replace("_", "")
    fits = text.isascii() and text.isdigit() and len(text) <= 10
    if not fits or int(text) > _LARGEST_NUMBER:
        raise _bad(node, path, f'"{_text(node, path)}" must be a whole number, 0 or more')
    return int(text)


def _nano_usd(node: Node, path: str) -> int:
    text = _text(node, path)
    try:
        dollars = Decimal(text.replace("_", ""))
        nano = dollars.scaleb(9)
    except InvalidOperation:
        dollars = nano = Decimal("nan")
    if not (nano.is_finite() and 0 <= dollars <= _LARGEST_NUMBER and nano == int(nano)):
        raise _bad(
            node, path, f'"{text}" must be an amount of dollars without a sign, such as 20 or 0.50'
        )
    return int(nano)


def _timezone(node: Node) -> str:
    name = _text(node, "timezone")
    try:
        if name != "UTC":
            ZoneInfo(name)
    except (ValueError, OSError, KeyError) as ex:
        raise _bad(
            node, "timezone", f'there is no time zone "{name}" here; write one as Europe/Zurich'
        ) from ex
    return name
