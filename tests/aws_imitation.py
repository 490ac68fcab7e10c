"""The other side of Bedrock for tests: frames as AWS encodes them, signatures as AWS checks them.

Written from AWS's descriptions of the event stream encoding and of Signature Version 4, not
with the code under test nor with botocore.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import struct
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote

from imitation_provider import ReceivedRequest, answer, stream
from imitation_provider._steps import Step, Steps

FRAMES = "application/vnd.amazon.eventstream"


# -- frames


def header(name: str, value: str | bytes | int | bool) -> bytes:
    """One header of a frame; text, bytes, a boolean or a 32 bit integer."""
    key = struct.pack("!B", len(name)) + name.encode()
    if isinstance(value, bool):
        return key + bytes([0 if value else 1])
    if isinstance(value, int):
        return key + b"\x04" + struct.pack("!i", value)
    kind, raw = (b"\x06", value) if isinstance(value, bytes) else (b"\x07", value.encode())
    return key + kind + struct.pack("!H", len(raw)) + raw


def frame(payload: bytes, headers: Mapping[str, str | bytes | int | bool]) -> bytes:
    """A whole frame with its checksums."""
    block = b"".join(header(name, value) for name, value in headers.items())
    start = struct.pack("!II", 16 + len(block) + len(payload), len(block))
    data = start + struct.pack("!I", zlib.crc32(start)) + block + payload
    return data + struct.pack("!I", zlib.crc32(data))


def chunk_frame(event: bytes | Mapping[str, Any]) -> bytes:
    """One of Anthropic's events as Bedrock sends it, with the padding it adds."""
    raw = event if isinstance(event, bytes) else json.dumps(event, separators=(",", ":")).encode()
    payload = {"bytes": base64.b64encode(raw).decode(), "p": "abcdefghijkl"[: len(raw) % 12]}
    headers = {
        ":event-type": "chunk",
        ":content-type": "application/json",
        ":message-type": "event",
    }
    return frame(json.dumps(payload).encode(), headers)


def exception_frame(kind: str, message: str) -> bytes:
    """What ends a stream that the model could not finish."""
    headers = {
        ":exception-type": kind,
        ":content-type": "application/json",
        ":message-type": "exception",
    }
    return frame(json.dumps({"message": message}).encode(), headers)


def error_frame(code: str, message: str) -> bytes:
    headers = {":error-code": code, ":error-message": message, ":message-type": "error"}
    return frame(b"", headers)


# -- answers


def bedrock_stream(parts: Iterable[Step | Mapping[str, Any]], **more: Any) -> list[Step]:
    """The answer of invoke-with-response-stream; mappings become frames."""
    steps = [part if not isinstance(part, Mapping) else chunk_frame(part) for part in parts]
    headers = [("x-amzn-RequestId", "r-1"), ("X-Amzn-Bedrock-Content-Type", "application/json")]
    return stream(steps, headers=headers, content_type=FRAMES, **more)


def aws_error(status: int, kind: str, message: str) -> list[Step]:
    return answer({"message": message}, status, [("x-amzn-ErrorType", f"{kind}:http://aws/")])


# -- signatures

_SCOPE = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, "
    r"SignedHeaders=([^,]+), Signature=([0-9a-f]{64})"
)


def _mac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def signature_problem(
    request: ReceivedRequest, secret: str, *, region: str, service: str
) -> str | None:
    """Why AWS would refuse the request; None when it would not."""
    match = _SCOPE.fullmatch(request.header("Authorization") or "")
    if match is None:
        return f"no signature: {request.header('Authorization')}"
    _key, day, got_region, got_service, names, signature = match.groups()
    if (got_region, got_service) != (region, service):
        return f"signed for {got_service} in {got_region}"
    path, _, query = request.target.partition("?")
    # Each segment is encoded twice: once on the wire, once for the signature.
    path = "/".join(quote(segment, safe="-_.~") for segment in path.split("/"))
    pairs = sorted(part.partition("=")[::2] for part in query.split("&") if part)
    encoded = (
        f"{quote(unquote(name), safe='-_.~')}={quote(unquote(value), safe='-_.~')}"
        for name, value in pairs
    )
    signed = names.split(";")
    if "host" not in signed:
        return "the host is not signed"
    values = [" ".join((request.header(name) or "").split()) for name in signed]
    canonical = [
        request.method,
        path,
        "&".join(encoded),
        *(f"{name}:{value}" for name, value in zip(signed, values, strict=True)),
        "",
        names,
        hashlib.sha256(request.body).hexdigest(),
    ]
    digest = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
    moment = request.header("X-Amz-Date") or ""
    text = f"AWS4-HMAC-SHA256\n{moment}\n{day}/{region}/{service}/aws4_request\n{digest}"
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = _mac(key, part)
    if not moment.startswith(day):
        return "the scope's day is not that of the request"
    expected = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    return None if expected == signature else "the signature is wrong"


def aws_gate(
    behind: Callable[[ReceivedRequest], Steps],
    *,
    secrets: Mapping[str, str] | None = None,
    tokens: Collection[str] = (),
    region: str = "us-west-2",
    service: str = "bedrock",
) -> Callable[[ReceivedRequest], Steps]:
    """A script that lets in what AWS would let in, and refuses the rest as AWS does.

    ``secrets`` are those of the access keys that are valid, looked up for each request;
    ``tokens`` the API keys.
    """

    def check(request: ReceivedRequest) -> Steps:
        authorization = request.header("Authorization") or ""
        scheme, _, rest = authorization.partition(" ")
        if scheme == "Bearer":
            if rest in tokens:
                return behind(request)
            return aws_error(403, "UnrecognizedClientException", "Authentication failed")
        match = _SCOPE.fullmatch(authorization)
        if match is None:
            kind = "MissingAuthenticationTokenException"
            return aws_error(403, kind, "Missing Authentication Token")
        secret = (secrets or {}).get(match[1])
        if secret is None:
            text = "The security token included in the request is invalid."
            return aws_error(403, "UnrecognizedClientException", text)
        problem = signature_problem(request, secret, region=region, service=service)
        if problem is not None:
            return aws_error(403, "InvalidSignatureException", problem)
        return behind(request)

    return check


def sts_script(access_key: str, secret: str, token: str, *, expires: str) -> Steps:
    """STS's answer to AssumeRole."""
    document = f"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleResult><AssumedRoleUser><AssumedRoleId>A:aigateway</AssumedRoleId>
<Arn>arn:aws:sts::123456789012:assumed-role/bedrock/aigateway</Arn></AssumedRoleUser>
<Credentials><AccessKeyId>{access_key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>
<SessionToken>{token}</SessionToken><Expiration>{expires}</Expiration></Credentials>
</AssumeRoleResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata>
</AssumeRoleResponse>"""
    return answer(document, content_type="text/xml")
