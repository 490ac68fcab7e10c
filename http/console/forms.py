"""What a page sends: its fields, and the proof that it was the console's own page."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from typing import Final, TypeVar
from urllib.parse import parse_qsl

import falcon

from aigateway.actors.control.local.people import AlreadyThere, NoSuch, StillNeeded
from aigateway.actors.control.local.policies import PolicyChanged
from aigateway.http.console.visitors import visitor_of

__all__ = ["LARGEST_FORM", "LONGEST", "asked", "sent", "tried"]

T = TypeVar("T")

LARGEST_FORM: Final = 2 * 1024 * 1024
"""Bytes: a policy of some ten thousand people."""
_MOST_FIELDS: Final = 20
LONGEST: Final = 500
"""Letters of a filter, a name or a reason."""


def asked(req: falcon.Request, *names: str) -> dict[str, str]:
    """Filters in a page's address; empty where there are none."""
    return {name: (req.get_param(name) or "")[:LONGEST] for name in names}


def sent(req: falcon.Request) -> Mapping[str, str]:
    """The fields of a form, without space around them.

    Raises falcon.HTTPError for what no form of the console sends, and for one without the
    visitor's token.
    """
    if (req.content_type or "").partition(";")[0].strip() != falcon.MEDIA_URLENCODED:
        raise falcon.HTTPUnsupportedMediaType(title="This is no form")
    length = req.content_length
    if length is None:
        raise falcon.HTTPLengthRequired(title="This form has no length")
    if length > LARGEST_FORM:
        raise falcon.HTTPContentTooLarge(title="This is too long")
    try:
        text = req.bounded_stream.read(length).decode("ascii")
        pairs = parse_qsl(
            text, keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict"
        )
    except ValueError as ex:
        raise falcon.HTTPBadRequest(title="This is no form") from ex
    # Browsers end the lines of a text in their own way.
    fields = {name: value.replace("\r\n", "\n").strip() for name, value in pairs}
    if not hmac.compare_digest(
        fields.pop("form_token", "").encode(), visitor_of(req).form_token.encode()
    ):
        raise falcon.HTTPForbidden(title="This came from another page")
    # What no database can store.
    if any("\0" in value for value in fields.values()):
        raise falcon.HTTPBadRequest(title="A text has the character NUL")
    return fields


def tried(do: Callable[[], T]) -> tuple[T | None, str, str]:
    """What ``do`` returns, or why it could not be done with the HTTP status for that."""
    try:
        return do(), "", falcon.HTTP_200
    except NoSuch as ex:
        return None, str(ex.args[0]), falcon.HTTP_404
    except (AlreadyThere, PolicyChanged, StillNeeded) as ex:
        return None, str(ex), falcon.HTTP_409
    except ValueError as ex:
        return None, str(ex), falcon.HTTP_400
