"""Requests that are no HTTP: told apart in logs and answers, never quoted.

What a broken request holds may be a token, sent with a forgotten colon; gunicorn would write
it into its log and send it back.
"""

from __future__ import annotations

from typing import Any, cast

from gunicorn.http.errors import NoMoreData, ParseException

from aigateway.http.request.inbound import error_words, shown_path

__all__ = ["QuietErrors", "without_content"]


class QuietErrors:
    """Goes before a gunicorn worker class."""

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer and log an error of the request or of ours."""
        if getattr(req, "uri", None):
            # gunicorn names the target in the log, and it may hold a key.
            req.uri = shown_path(req.uri.partition("?")[0])
        super().handle_error(req, client, addr, without_content(exc))  # type: ignore[misc]


def without_content(exc: BaseException) -> BaseException:
    """The same kind of error, whose text is only the name of what is wrong."""
    if not isinstance(exc, ParseException | NoMoreData):
        return exc
    kind = type(exc)
    text = error_words(exc)
    wordless = type(kind.__name__, (kind,), {"__str__": lambda _self: text})
    copy: BaseException = cast(Any, kind).__new__(wordless)
    copy.__dict__.update(exc.__dict__)
    return copy
