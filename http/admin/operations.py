"""What the admin API can do: one function for each operation, and the table of them all.

A function gets the database and the request, and returns what stands in the answer's body.  The
OpenAPI document is made from the same table (:mod:`.openapi`).
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_args

from attrs import asdict, field, frozen

from aigateway.actors.control.local.api_keys import (
    WantedKey,
    create_keys,
    find_key,
    list_keys,
    revoke_key,
)
from aigateway.actors.control.local.audit import list_changes
from aigateway.actors.control.local.cap_holders import tills_in
from aigateway.actors.control.local.costs import unpriced
from aigateway.actors.control.local.people import (
    NoSuch,
    add_members,
    create_group,
    create_users,
    delete_group,
    find_group,
    find_user,
    list_groups,
    list_users,
    remove_members,
    set_disabled,
)
from aigateway.actors.control.local.policies import apply, newest
from aigateway.actors.control.local.policy_document import differences, read_policy, rules_text
from aigateway.actors.control.local.prices.cost import Pricing
from aigateway.actors.control.local.prices.listing import price_data, prices_of
from aigateway.actors.control.local.schema import Database
from aigateway.actors.control.local.usage import GROUPS, usage_by
from aigateway.actors.values.policy import Per
from aigateway.actors.values.records import moment_told
from aigateway.http.admin.shapes import (
    cap_data,
    group_data,
    key_data,
    policy_data,
    usage_data,
    user_data,
)

__all__ = ["LARGEST_PAGE", "OPERATIONS", "BadInput", "Operation", "OperationCall"]

LARGEST_PAGE = 1000
_PAGE = 100
_MONTH = 30 * 86_400.0
_SCOPES: tuple[Per, ...] = get_args(Per)

T = TypeVar("T")


class BadInput(ValueError):
    """What was sent cannot be taken; the text says why."""


@frozen
class OperationCall:
    """What an operation is asked for."""

    who: str
    """For the table of changes."""
    pricing: Pricing
    """What models cost."""
    path: Mapping[str, str] = field(factory=dict)
    query: Mapping[str, str] = field(factory=dict)
    body: Mapping[str, Any] = field(factory=dict)


@frozen
class Operation:
    """One method of one path."""

    method: str
    path: str
    """Below ``/api/admin/v1``, with names in braces."""
    name: str
    does: str
    run: Callable[[Database, OperationCall], Any]
    answers: str
    """The schema of its answer."""
    takes: str | None = None
    """That of its body."""
    status: int = 200
    query: tuple[str, ...] = ()
    paged: bool = False


# -- pages


def _limit(request: OperationCall) -> int:
    text = request.query.get("limit", str(_PAGE))
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= LARGEST_PAGE):
        raise BadInput(f"limit must be a whole number from 1 to {LARGEST_PAGE}")
    return int(text)


def _after(request: OperationCall) -> tuple[str, str] | None:
    """Where the page before has ended, as :func:`_cursor` wrote it."""
    text = request.query.get("after")
    if text is None:
        return None
    try:
        first, second = json.loads(base64.urlsafe_b64decode(text.encode("ascii")))
    except (ValueError, TypeError, binascii.Error, RecursionError) as ex:
        raise BadInput("after must be what next was in the page before") from ex
    if not (isinstance(first, str) and isinstance(second, str)):
        raise BadInput("after must be what next was in the page before")
    return first, second


def _cursor(place: tuple[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _page(
    request: OperationCall,
    found: Sequence[T],
    place: Callable[[T], tuple[str, str]],
    data: Callable[[T], Any],
) -> dict[str, Any]:
    """A page of what is in the order of ``place``: what comes after the page before."""
    limit, after = _limit(request), _after(request)
    ordered = sorted(found, key=place)
    left = [each for each in ordered if after is None or place(each) > after]
    shown = left[:limit]
    more = _cursor(place(shown[-1])) if len(left) > limit else None
    return {"items": [data(each) for each in shown], "next": more}


# -- users


def _list_users(database: Database, request: OperationCall) -> Any:
    found = list_users(database, request.query.get("group"))
    return _page(request, found, lambda user: (user.name, user.id), user_data)


def _create_user(database: Database, request: OperationCall) -> Any:
    wanted = (request.body["name"], request.body.get("id"))
    return user_data(create_users(database, [wanted], who=request.who)[0])


def _show_user(database: Database, request: OperationCall) -> Any:
    return user_data(find_user(database, request.path["user"]))


def _change_user(database: Database, request: OperationCall) -> Any:
    disabled = request.body["disabled"]
    set_disabled(database, request.path["user"], disabled, who=request.who)
    return user_data(find_user(database, request.path["user"]))


# -- groups


def _list_groups(database: Database, request: OperationCall) -> Any:
    found = list_groups(database)
    return _page(request, found, lambda group: (group.name, group.id), group_data)


def _create_group(database: Database, request: OperationCall) -> Any:
    return group_data(create_group(database, request.body["name"], who=request.who))


def _show_group(database: Database, request: OperationCall) -> Any:
    return group_data(find_group(database, request.path["group"]))


def _delete_group(database: Database, request: OperationCall) -> Any:
    return group_data(delete_group(database, request.path["group"], who=request.who))


def _add_member(database: Database, request: OperationCall) -> Any:
    group, user = request.path["group"], request.path["user"]
    return group_data(add_members(database, group, [user], who=request.who))


def _remove_member(database: Database, request: OperationCall) -> Any:
    group, user = request.path["group"], request.path["user"]
    return group_data(remove_members(database, group, [user], who=request.who))


# -- keys


def _list_keys(database: Database, request: OperationCall) -> Any:
    user, group = request.query.get("user"), request.query.get("group")
    found = list_keys(
        database,
        user_id=None if user is None else find_user(database, user).id,
        group=None if group is None else find_group(database, group).name,
    )
    return _page(request, found, lambda key: (key.created_at, key.id), key_data)


def _create_key(database: Database, request: OperationCall) -> Any:
    body = request.body
    stated = ("models", "requests_per_minute", "tokens_per_minute", "caps")
    rules = rules_text({name: body[name] for name in stated if name in body})
    wanted = WantedKey(
        rules=rules, **{name: value for name, value in body.items() if name not in stated}
    )
    made = create_keys(database, [wanted], who=request.who)[0]
    return {**key_data(made.key), "key": made.token}


def _show_key(database: Database, request: OperationCall) -> Any:
    return key_data(find_key(database, request.path["key"]))


def _revoke_key(database: Database, request: OperationCall) -> Any:
    key_id = request.path["key"]
    if not revoke_key(database, key_id, who=request.who):
        raise NoSuch(f'there is no key "{key_id}"')
    return key_data(find_key(database, key_id))


# -- policy and changes


def _show_policy(database: Database, _request: OperationCall) -> Any:
    return policy_data(newest(database))


def _apply_policy(database: Database, request: OperationCall) -> Any:
    document, over = request.body["document"], request.body["over"]
    return policy_data(apply(database, document, over=over, who=request.who))


def _compare_policy(database: Database, request: OperationCall) -> Any:
    new, stored = read_policy(request.body["document"]), newest(database)
    return {"over": stored.version, "changes": differences(read_policy(stored.document), new)}


def _list_changes(database: Database, request: OperationCall) -> Any:
    limit = _limit(request)
    found = list_changes(database, limit + 1, _after(request))
    shown = found[:limit]
    more = _cursor((shown[-1]["at"], shown[-1]["id"])) if len(found) > limit else None
    return {"items": shown, "next": more}


# -- prices, caps and usage


def _list_prices(_database: Database, request: OperationCall) -> Any:
    if not (model := request.query.get("model")):
        raise BadInput("model must name a model")
    pricing = request.pricing
    own = None if pricing.own is None else pricing.own.version
    found = prices_of(pricing, model, request.query.get("provider"), time.time())
    # As they were found: the own ones are before the package's.
    return _page(
        request,
        found,
        lambda each: ("0" if each[0] == own else "1", each[1].key),
        lambda each: price_data(*each),
    )


def _list_unpriced(database: Database, request: OperationCall) -> Any:
    since = _moment(request, "since")
    found = unpriced(database, request.pricing, time.time() - _MONTH if since is None else since)
    return _page(
        request,
        found,
        lambda each: (
            json.dumps([each.provider_name, each.model]),
            json.dumps([each.reason, each.detail]),
        ),
        asdict,
    )


def _list_caps(database: Database, request: OperationCall) -> Any:
    per = request.query.get("per")
    if per not in (None, *_SCOPES):
        raise BadInput(f"per must be one of {', '.join(_SCOPES)}")
    found = [row for row in tills_in(database, time.time()) if per in (None, row.scope)]
    return _page(
        request, found, lambda row: (row.scope, json.dumps([row.name, row.id, row.every])), cap_data
    )


def _sum_usage(database: Database, request: OperationCall) -> Any:
    by = tuple(dict.fromkeys(request.query.get("by", "user").split(",")))
    since, until = (_moment(request, name) for name in ("since", "until"))
    if since is not None and until is not None and since >= until:
        raise BadInput("since must be before until")
    rows = usage_by(database, by, since=since, until=until)
    return _page(
        request, rows, lambda row: (json.dumps(row.group), ""), lambda row: usage_data(by, row)
    )


def _moment(request: OperationCall, name: str) -> float | None:
    """Unix seconds of a date or a time of the query; without a zone it is UTC."""
    text = request.query.get(name)
    if text is None:
        return None
    try:
        return moment_told(text)
    except (ValueError, OverflowError) as ex:
        raise BadInput(f"{name} must be a date or an RFC 3339 time") from ex


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET", "/users", "listUsers", "Users by name, or those of a group.",
        _list_users, "Users", query=("group",), paged=True,
    ),
    Operation(
        "POST", "/users", "createUser", "Make a user without keys.",
        _create_user, "User", "NewUser", 201,
    ),
    Operation(
        "GET", "/users/{user}", "showUser", "A user by name or id.", _show_user, "User"
    ),
    Operation(
        "PATCH", "/users/{user}", "changeUser",
        "Disable a user, whose keys are then refused at once, or enable one again.",
        _change_user, "User", "UserChange",
    ),
    Operation(
        "GET", "/groups", "listGroups", "Groups by name.", _list_groups, "Groups", paged=True
    ),
    Operation(
        "POST", "/groups", "createGroup", "Make a group.", _create_group, "Group", "NewGroup", 201
    ),
    Operation("GET", "/groups/{group}", "showGroup", "A group by name.", _show_group, "Group"),
    Operation(
        "DELETE", "/groups/{group}", "deleteGroup",
        "Forget a group that has no good keys; the answer is what it was.",
        _delete_group, "Group",
    ),
    Operation(
        "PUT", "/groups/{group}/members/{user}", "addMember", "Put a user into a group.",
        _add_member, "Group",
    ),
    Operation(
        "DELETE", "/groups/{group}/members/{user}", "removeMember",
        "Take a user out of a group.", _remove_member, "Group",
    ),
    Operation(
        "GET", "/keys", "listKeys", "Keys, oldest first, or those of a user or group.",
        _list_keys, "Keys", query=("user", "group"), paged=True,
    ),
    Operation(
        "POST", "/keys", "createKey",
        "Make a key for a user, who is made too if need be, or for a machine of a group. Only"
        " this answer has the key itself.",
        _create_key, "MadeKey", "NewKey", 201,
    ),
    Operation("GET", "/keys/{key}", "showKey", "A key by its id.", _show_key, "Key"),
    Operation(
        "DELETE", "/keys/{key}", "revokeKey", "Refuse a key from now on.", _revoke_key, "Key"
    ),
    Operation(
        "GET", "/policy", "showPolicy", "The policy that holds; version 0 is none.",
        _show_policy, "Policy",
    ),
    Operation(
        "PUT", "/policy", "applyPolicy",
        "Let a document (YAML) hold in the place of version `over`.",
        _apply_policy, "Policy", "NewPolicy",
    ),
    Operation(
        "POST", "/policy/diff", "comparePolicy", "What a document would change.",
        _compare_policy, "Differences", "PolicyDocument",
    ),
    Operation(
        "GET", "/prices", "listPrices",
        "What `model`, by any of its names, costs now with each `provider` that has a price for it."
        " Texts are dollars for a million tokens, or for a thousand of what is not tokens; what"
        " has no price is not there.",
        _list_prices, "Prices", query=("model", "provider"), paged=True,
    ),
    Operation(
        "GET", "/prices/unpriced", "listUnpriced",
        "What was used `since` then (30 days unless it is said) and has no price with the tables of"
        " now.",
        _list_unpriced, "UnpricedUses", query=("since",), paged=True,
    ),
    Operation(
        "GET", "/caps", "listCaps",
        "How full caps are that have been asked for in their present day, week or month, or those"
        " `per` user, group, key or project.",
        _list_caps, "Caps", query=("per",), paged=True,
    ),
    Operation(
        "GET", "/usage", "sumUsage",
        f"Sums `by` some of {', '.join(GROUPS)}, with commas between (user unless it is said), of"
        " requests that began at `since` or later and before `until`.",
        _sum_usage, "UsageSums", query=("by", "since", "until"), paged=True,
    ),
    Operation(
        "GET", "/audit", "listChanges", "Who changed what, the newest first.",
        _list_changes, "Changes", paged=True,
    ),
)  # fmt: skip
