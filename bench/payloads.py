"""Requests as clients send them: conversations of a given size, headers of the usual SDKs."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence

from attrs import field, frozen

__all__ = [
    "APIS",
    "MODELS",
    "SLOW_MODEL",
    "VOCABULARY",
    "Endpoint",
    "body_of",
    "raw_request",
    "requests_for",
]

APIS = ("chat", "messages")
"""OpenAI Chat Completions and Anthropic Messages."""

MODELS = {"chat": "gpt-bench", "messages": "claude-bench"}
SLOW_MODEL = "slow-bench"
"""For systems that choose the provider by the model's name."""

_BYTES_PER_TOKEN = 4
_TURN_TOKENS = 400
"""Size of one turn of a long conversation."""
_TEXT = (
    "the of and to in is that it for was on are as with they at be this from have or by one had"
    " not but what all were when we there can an your which their said if do will each about how"
    ' function return value error "quoted" path/to/file.py line 42\n    indented = True\n'
    " naïve café 數據"
)
VOCABULARY = _TEXT.split(" ")


@frozen
class Endpoint:
    """Where one API of a system is, and what a client must send along."""

    port: int
    path: str
    headers: Mapping[str, str] = field(repr=False)
    """Credentials are among them."""
    model: str = ""
    """The model to ask for, when the system goes by it."""


def body_of(api: str, *, tokens: int, stream: bool, model: str = "") -> bytes:
    """A request body with a prompt of about ``tokens`` tokens; the same for each call."""
    chance = random.Random(tokens)
    words = iter(lambda: chance.choice(VOCABULARY), None)

    def text(size: int) -> str:
        made: list[str] = []
        length = 0
        while length < size * _BYTES_PER_TOKEN:
            word = next(words)
            made.append(word)
            length += len(word) + 1
        return " ".join(made)

    system = text(min(tokens // 4, 2000))
    left = max(tokens - tokens // 4, 20)
    turns = []
    while left > 0:
        turns.append(text(min(left, _TURN_TOKENS)))
        left -= _TURN_TOKENS
    if len(turns) % 2 == 0:
        # A conversation ends with the user's turn.
        turns.append(text(20))
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": turn} for n, turn in enumerate(turns)]
    model = model or MODELS[api]
    value: dict[str, object]
    if api == "chat":
        messages.insert(0, {"role": "system", "content": system})
        value = {"model": model, "messages": messages, "temperature": 0.2}
        if stream:
            value |= {"stream": True, "stream_options": {"include_usage": True}}
    else:
        value = {"model": model, "max_tokens": 4096, "system": system, "messages": messages}
        if stream:
            value["stream"] = True
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def raw_request(endpoint: Endpoint, body: bytes) -> bytes:
    """The whole HTTP request."""
    lines = [
        f"POST {endpoint.path} HTTP/1.1",
        f"Host: 127.0.0.1:{endpoint.port}",
        "Accept: application/json",
        "Content-Type: application/json",
        "User-Agent: aigateway-bench/1.0",
        "X-Stainless-Lang: python",
        "X-Stainless-Package-Version: 1.0.0",
        "X-Stainless-Retry-Count: 0",
        *(f"{name}: {value}" for name, value in endpoint.headers.items()),
        f"Content-Length: {len(body)}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def requests_for(
    endpoints: Sequence[tuple[str, Endpoint]], *, tokens: int, stream: bool
) -> list[bytes]:
    """One request for each (API, endpoint)."""
    return [
        raw_request(endpoint, body_of(api, tokens=tokens, stream=stream, model=endpoint.model))
        for api, endpoint in endpoints
    ]
