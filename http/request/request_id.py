"""The name of a request: in its log lines, in its answer, and in what others log of it."""

from __future__ import annotations

import random
import re

from aigateway.http.request.inbound import Inbound

__all__ = ["REQUEST_ID_HEADER", "request_id_of"]

REQUEST_ID_HEADER = "X-AI-Gateway-Request-Id"
"""In every answer but those of probes.  Not ``X-Request-Id``: providers use that one."""
GIVEN_HEADER = "X-Request-Id"
"""What clients, and proxies on the way (nginx, Envoy, load balancers), send."""

_SAFE = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")


def request_id_of(inbound: Inbound) -> str:
    """The id that the request came with if it can stand in a header and a log line as it is,
    else a new one: 16 hexadecimal digits."""
    given = inbound.header(GIVEN_HEADER)
    if given and _SAFE.fullmatch(given):
        return given
    return f"{random.getrandbits(64):016x}"
