"""Answers that refuse a request, and what they say about the credential."""

from __future__ import annotations

from attrs import field, frozen

from aigateway.actors.codec.decoding import DecodingError, decode
from aigateway.actors.codec.headers import Headers, first_of, joined
from aigateway.actors.codec.reading import members, text
from aigateway.actors.interception.outcomes import kind_of_status, message_of
from aigateway.actors.providers.beginning import BadStart
from aigateway.actors.providers.delays import delay_in_body, google_details

__all__ = ["ProviderAnswer"]

READABLE = 1024 * 1024
"""Bytes that the body of an answer may unpack to, to be read here."""

_REQUEST_IDS = ("request-id", "x-request-id", "x-amzn-requestid", "apim-request-id", "cf-ray")
"""Headers by which providers and what stands before them name a request."""

_AWS_CREDENTIAL_ERRORS = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "InvalidToken",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
"""What AWS calls expired, unknown or wrong credentials; its status for all of them is 403.
https://docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html and those of
Signature Version 4.  ``AccessDeniedException`` is not among them: it is about a permission."""
_AWS_TEXTS = (
    # API keys for Bedrock, sent as Authorization: Bearer, have no error type of their own.
    "bearer token has expired",
    "security token included in the request is",
    "api key is not valid",
    "authentication failed",
)


@frozen
class ProviderAnswer:
    """The head of an answer and what has been read of its body."""

    status: int
    headers: Headers = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    """As it came, with its content coding."""
    whole: bool = True
    """``body`` is all of it."""
    received_at: float = 0.0
    """Unix seconds."""
    bad: BadStart | None = None
    """What is wrong with it although its status is a success."""

    @property
    def readable(self) -> bytes:
        """The body without its content coding; nothing when that cannot be undone."""
        coding = joined(self.headers, "content-encoding")
        try:
            return decode(self.body, coding, READABLE)
        except DecodingError:
            return b""

    @property
    def message(self) -> str:
        """What the provider says, in its own words where it says anything."""
        return message_of(self.status, self.readable)

    @property
    def error_type(self) -> str:
        """The provider's own name of the error, or nothing."""
        fields = members(self.readable)
        error = members(fields.get("error"))
        named = (
            text(error.get("type"))
            or text(error.get("code"))
            or text(error.get("status"))
            or text(fields.get("__type"))
        )
        # AWS: "UnrecognizedClientException:http://internal.amazon.com/…", "com.amazon#Name".
        given = named or first_of(self.headers, "x-amzn-errortype")
        return given.partition(":")[0].rpartition("#")[2]

    @property
    def of_key(self) -> int:
        """The status that it is for the key it was sent with.

        To a key that is unknown or has expired Google answers 400, and says so only in the details.
        """
        if self.status == 400 and b"API_KEY_INVALID" in self.readable:
            reasons = (text(each.get("reason")) for each in google_details(self.readable))
            return 401 if "API_KEY_INVALID" in reasons else 400
        return self.status

    @property
    def told(self) -> Headers:
        """The headers, with the delay that the body asks for in the place of one."""
        delay = delay_in_body(self.readable)
        return self.headers if delay is None else [*self.headers, ("Retry-After", f"{delay:.3f}")]

    @property
    def request_id(self) -> str:
        """What the provider calls the request, or nothing."""
        for name in _REQUEST_IDS:
            if found := first_of(self.headers, name):
                return found
        return text(members(self.readable).get("request_id")) or ""

    @property
    def says_no_retry(self) -> bool:
        """Whether the provider says that another try will not help."""
        return first_of(self.headers, "x-should-retry").lower() == "false"

    @property
    def kind(self) -> str:
        """The kind of error in the words of the records."""
        return kind_of_status(self.status, openai=True)

    @property
    def rejects_credential(self) -> bool:
        """Whether it says that the credential is wrong or expired, whatever was asked for.

        A 401 does; of 403s those by which AWS means its credentials.  A 403 about a
        permission, a model or a content is not about the credential.
        """
        if self.of_key == 401:
            return True
        if self.status != 403:
            return False
        if self.error_type in _AWS_CREDENTIAL_ERRORS:
            return True
        if not first_of(self.headers, "x-amzn-requestid"):
            return False
        message = self.message.lower()
        return any(words in message for words in _AWS_TEXTS)
