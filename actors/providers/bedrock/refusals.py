"""What AWS means when it refuses a request."""

from __future__ import annotations

from aigateway.actors.providers.interception.header_list import first_of
from aigateway.actors.providers.interception.interface import Headers

__all__ = ["credentials_refused", "error_kind"]

_OF_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
"""AWS's common errors that are about credentials (docs.aws.amazon.com/general/latest/gr/
CommonErrors.html); ``AccessDeniedException`` is not: that is about one model or action."""


def error_kind(headers: Headers) -> str:
    """The name of AWS's error in an answer's head, or nothing."""
    return first_of(headers, "x-amzn-errortype").partition(":")[0].rpartition("#")[2].strip()


def credentials_refused(status: int, headers: Headers) -> bool:
    """Whether AWS says that the credentials have expired or are wrong.

    It does with 403, which elsewhere says that they are right and may not do this; so such an
    answer counts as a 401.
    """
    return status in (401, 403) and (status == 401 or error_kind(headers) in _OF_CREDENTIALS)
