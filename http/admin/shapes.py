"""What the admin API takes and gives, as JSON Schema and as the JSON itself."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Final, get_args

from aigateway.actors.control.local.api_keys import ApiKey
from aigateway.actors.control.local.cap_holders import CapRow
from aigateway.actors.control.local.people import Group, User
from aigateway.actors.control.local.policies import StoredPolicy
from aigateway.actors.control.local.prices.cost import REASONS
from aigateway.actors.control.local.prices.table import KINDS
from aigateway.actors.control.local.usage import GROUPS, UsageRow
from aigateway.actors.values.policy import Every, Per

__all__ = [
    "SCHEMAS",
    "Schema",
    "cap_data",
    "group_data",
    "key_data",
    "policy_data",
    "usage_data",
    "user_data",
]

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
MAYBE_TEXT: Schema = {"type": ["string", "null"]}
TIME: Schema = {"type": "string", "format": "date-time"}
MAYBE_TIME: Schema = {"type": ["string", "null"], "format": "date-time"}
TEXTS: Schema = {"type": "array", "items": TEXT}
COUNT: Schema = {"type": "integer", "minimum": 0}


def _object(properties: dict[str, Schema], required: tuple[str, ...] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }


def _page(name: str) -> Schema:
    items = {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}
    return _object({"items": items, "next": MAYBE_TEXT})


_KEY: dict[str, Schema] = {
    "id": TEXT,
    "username": TEXT,
    "user_id": TEXT,
    "group": MAYBE_TEXT,
    "name": TEXT,
    "project": MAYBE_TEXT,
    "state": {"enum": ["active", "expired", "disabled", "revoked"]},
    "created_at": TIME,
    "expires_at": MAYBE_TIME,
    "revoked_at": MAYBE_TIME,
    "last_used_at": MAYBE_TIME,
    "rules": {"type": ["object", "null"]},
}
_CAP = _object({"usd": {"type": ["number", "string"]}, "every": {"enum": [*get_args(Every)]}})

_SUMS: Final = (
    "interceptions",
    "errors",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_write_input_tokens",
    "prompts",
    "tool_calls",
    "unpriced",
)

SCHEMAS: dict[str, Schema] = {
    "User": _object(
        {
            "id": TEXT,
            "name": TEXT,
            "state": {"enum": ["active", "disabled"]},
            "groups": TEXTS,
            "created_at": TIME,
            "disabled_at": MAYBE_TIME,
        }
    ),
    "Users": _page("User"),
    "NewUser": _object({"name": TEXT, "id": TEXT}, ("name",)),
    "UserChange": _object({"disabled": {"type": "boolean"}}),
    "Group": _object({"id": TEXT, "name": TEXT, "members": TEXTS, "created_at": TIME}),
    "Groups": _page("Group"),
    "NewGroup": _object({"name": TEXT}),
    "Key": _object(_KEY),
    "Keys": _page("Key"),
    "MadeKey": _object({**_KEY, "key": TEXT}),
    "NewKey": _object(
        {
            "username": TEXT,
            "user_id": TEXT,
            "group": TEXT,
            "name": TEXT,
            "project": TEXT,
            "expires_in": {"type": "number", "exclusiveMinimum": 0},
            "models": TEXTS,
            "requests_per_minute": COUNT,
            "tokens_per_minute": COUNT,
            "caps": {"type": "array", "items": _CAP},
        },
        (),
    ),
    "Policy": _object({"version": COUNT, "document": TEXT, "created_by": TEXT, "created_at": TEXT}),
    "NewPolicy": _object({"document": TEXT, "over": COUNT}),
    "PolicyDocument": _object({"document": TEXT}),
    "Differences": _object({"over": COUNT, "changes": TEXTS}),
    "Change": _object(
        {
            "id": TEXT,
            "at": TIME,
            "who": TEXT,
            "action": TEXT,
            "subject": TEXT,
            "before": {"type": ["object", "null"]},
            "after": {"type": ["object", "null"]},
        }
    ),
    "Changes": _page("Change"),
    "Price": _object(
        {
            "table": TEXT,
            "price": TEXT,
            "provider": TEXT,
            "model": TEXT,
            **dict.fromkeys(KINDS, TEXT),
            "over": {"type": "object"},
            "tiers": {"type": "object"},
            "geo": {"type": "object"},
            "since": {"type": "string", "format": "date"},
            "hours": TEXT,
        },
        ("table", "price", "provider", "model"),
    ),
    "Prices": _page("Price"),
    "UnpricedUse": _object(
        {
            "provider_name": TEXT,
            "model": TEXT,
            "reason": {"enum": list(REASONS)},
            "detail": TEXT,
            "records": COUNT,
            "tokens": COUNT,
        }
    ),
    "UnpricedUses": _page("UnpricedUse"),
    "Cap": _object(
        {
            "per": {"enum": [*get_args(Per)]},
            "id": TEXT,
            "name": TEXT,
            "every": {"enum": [*get_args(Every)]},
            "cap_nano_usd": COUNT,
            "spent_nano_usd": COUNT,
            "spent_part": {"type": "number"},
            "reserved_nano_usd": COUNT,
            "left_nano_usd": COUNT,
            "running": COUNT,
            "starts_at": TIME,
            "resets_at": TIME,
        }
    ),
    "Caps": _page("Cap"),
    "UsageSum": _object(
        {
            **dict.fromkeys(GROUPS, TEXT),
            **dict.fromkeys(_SUMS, COUNT),
            "cost_nano_usd": {"type": ["integer", "null"]},
        },
        (*_SUMS, "cost_nano_usd"),
    ),
    "UsageSums": _page("UsageSum"),
    "Error": _object({"error": _object({"code": TEXT, "message": TEXT})}),
}


def user_data(user: User) -> dict[str, Any]:
    return {
        "id": user.id,
        "name": user.name,
        "state": user.state,
        "groups": list(user.groups),
        "created_at": user.created_at,
        "disabled_at": user.disabled_at,
    }


def group_data(group: Group) -> dict[str, Any]:
    return {
        "id": group.id,
        "name": group.name,
        "members": list(group.members),
        "created_at": group.created_at,
    }


def key_data(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "username": key.username,
        "user_id": key.user_id,
        "group": key.group,
        "name": key.name,
        "project": key.project,
        "state": key.state(time.time()),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
        "rules": None if key.rules is None else json.loads(key.rules),
    }


def policy_data(stored: StoredPolicy) -> dict[str, Any]:
    return {
        "version": stored.version,
        "document": stored.document,
        "created_by": stored.created_by,
        "created_at": stored.created_at,
    }


def cap_data(row: CapRow) -> dict[str, Any]:
    """``left_nano_usd`` is what is neither spent nor reserved."""
    return {
        "per": row.scope,
        "id": row.id,
        "name": row.name,
        "every": row.every,
        "cap_nano_usd": row.cap,
        "spent_nano_usd": row.spent,
        "spent_part": round(row.part, 6),
        "reserved_nano_usd": row.reserved,
        "left_nano_usd": max(0, row.cap - row.spent - row.reserved),
        "running": row.running,
        "starts_at": row.starts_at,
        "resets_at": row.resets_at,
    }


def usage_data(by: Sequence[str], row: UsageRow) -> dict[str, Any]:
    sums = {name: getattr(row, name) for name in (*_SUMS, "cost_nano_usd")}
    return {**dict(zip(by, row.group, strict=True)), **sums}
