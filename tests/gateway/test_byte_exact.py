"""What leaves the gateway is what came in: bytes, heads and, for streams, pieces."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import psutil
from gateway_process import GatewayProcess
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imitation_provider import ScriptedProvider, Step, WaitFor, answer, event, stream
from raw_client import RawClient

MANY = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

SPELLINGS = st.sampled_from(
    ["1E+2", "-0.0", "1.0000000000000000001", "12345678901234567890123", "0e1", "1e-7"]
)
TEXTS = st.sampled_from(
    [
        '"\\u00e9\\ud83d\\ude00"',
        '"é😀"',
        '"a\\/b"',
        '"\\u0000"',
        '""',
        '"\\"}]"',
        '"x' + "y" * 3000 + '"',
    ]
)
SPACE = st.sampled_from(["", " ", "\n\t", "\r\n  "])
VALUES = st.recursive(
    st.one_of(SPELLINGS, TEXTS, st.sampled_from(["true", "null", "[]", "{}"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + " ,".join(items) + "]"),
        st.lists(st.tuples(TEXTS, inner), max_size=3).map(
            lambda pairs: "{" + ",".join(f"{k} : {v}" for k, v in pairs) + "}"
        ),
    ),
    max_leaves=8,
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A Messages request in odd JSON: nothing in it may change on the way."""
    space = draw(SPACE)
    extras = draw(st.lists(st.tuples(TEXTS, VALUES), max_size=4))
    members = [
        '"model": "claude-x"',
        f'"max_tokens":{space}7',
        '"messages":[{"role":"user","content":' + draw(TEXTS) + "}]",
        *(f"{name}{space}:{value}" for name, value in extras),
    ]
    order = draw(st.permutations(members))
    return f"{space}{{{space}{(',' + space).join(order)}{space}}}{space}".encode()


@MANY
@given(body=bodies())
def test_a_request_body_arrives_as_it_was_sent(
    gateway: GatewayProcess, provider: ScriptedProvider, body: bytes
) -> None:
    with RawClient(gateway) as client:
        client.post("/anthropic/v1/messages", body)
        client.answer()
    assert provider.requests[-1].body == body


def test_a_prompt_of_megabytes_arrives_as_it_was_sent(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    prompt = 'angels é \\ " ' * 400_000
    body = json.dumps(
        {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": prompt}]},
        ensure_ascii=False,
    ).encode()
    provider.play(answer({"id": "msg_1", "usage": {"input_tokens": 1, "output_tokens": 1}}))
    with RawClient(gateway) as client:
        client.post("/anthropic/v1/messages", body)
        got = client.answer()
    assert provider.requests[-1].body == body
    assert gateway.records(got.interception_id)["user_prompts"][0]["prompt"] == prompt


def test_only_the_splice_differs_where_one_is_needed(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    body = (
        b'{ "stream" : true,\t"x":1.0E+2, "model":"g",'
        b'"messages":[{"role":"user","content":"\\u00e9"}] }'
    )
    with RawClient(gateway) as client:
        client.post("/openai/v1/chat/completions", body)
        got = client.answer()
    sent = provider.requests[-1].body
    assert json.loads(sent)["stream_options"] == {"include_usage": True}
    at = next(i for i in range(len(body)) if body[i] != sent[i])
    length = len(sent) - len(body)
    assert sent[:at] + sent[at + length :] == body
    assert b'"usage":{' not in got.body, "the chunk that the client did not ask for"


LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])
FIELDS = st.sampled_from(
    [
        ": a comment", "event: ping", 'data: {"type":"ping"}', "id: 7", "retry: 10", "unknown: x",
        "data", "data:", "event: content_block_delta",
        'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"é😀"}}',
    ]
)  # fmt: skip

START = event(
    {
        "type": "message_start",
        "message": {"id": "msg_1", "usage": {"input_tokens": 3, "output_tokens": 1}},
    },
    name="message_start",
)
END = event({"type": "message_delta", "usage": {"output_tokens": 5}}, name="message_delta") + event(
    {"type": "message_stop"}, name="message_stop"
)


@st.composite
def odd_streams(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    """A stream of odd events and where it is cut into pieces."""
    end = draw(LINE_ENDS)
    blocks = draw(st.lists(st.lists(FIELDS, min_size=1, max_size=4), max_size=6))
    middle = "".join(end.join(lines) + end + end for lines in blocks).encode()
    data = START + middle + END
    cuts = draw(st.lists(st.integers(1, len(data) - 1), max_size=12, unique=True))
    return data, sorted(cuts)


@MANY
@given(case=odd_streams())
def test_a_stream_is_relayed_byte_for_byte_at_any_split(
    gateway: GatewayProcess, provider: ScriptedProvider, case: tuple[bytes, list[int]]
) -> None:
    data, cuts = case
    parts = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    provider.play(stream(parts))
    with RawClient(gateway) as client:
        client.post("/anthropic/v1/messages", _ask())
        got = client.answer()
    assert got.body == data
    found = gateway.records(got.interception_id)
    assert sum(row["input_tokens"] for row in found["token_usages"]) == 3
    assert sum(row["output_tokens"] for row in found["token_usages"]) == 5


def _ask() -> dict[str, Any]:
    return {
        "model": "m",
        "max_tokens": 1,
        "stream": True,
        "messages": [{"role": "user", "content": "hi"}],
    }


def test_an_event_is_relayed_as_soon_as_it_has_come(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    gates = [threading.Event() for _ in range(3)]
    events = [
        event({"type": "content_block_delta", "index": n}, name="content_block_delta")
        for n in range(3)
    ]
    script: list[Step] = [START]
    for gate, data in zip(gates, events, strict=True):
        script += [WaitFor(gate), data]
    provider.play(stream([*script, END]))
    with RawClient(gateway) as client:
        client.post("/anthropic/v1/messages", _ask())
        client.read_until(START)
        for gate, data in zip(gates, events, strict=True):
            gate.set()
            client.read_until(data)
        assert client.answer().ended


def test_the_answers_head_is_the_providers(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    headers = [
        ("X-Request-Id", "req_1"),
        ("anthropic-ratelimit-requests-remaining", "7"),
        ("X-Twice", "a=1; Path=/"),
        ("X-Twice", "b=2; Path=/"),
        ("Server", "cloudflare"),
        ("Date", "Tue, 01 Jan 2030 00:00:00 GMT"),
        ("Connection", "keep-alive, X-Hop"),
        ("X-Hop", "not for you"),
    ]
    cookies = [("Set-Cookie", "c=1; Path=/"), ("Set-Cookie", "d=2; Path=/")]
    provider.play(answer({"id": "msg_1"}, 201, [*headers, *cookies]))
    with RawClient(gateway) as client:
        client.post("/anthropic/v1/messages", {**_ask(), "stream": False})
        head = client.read_until(b"\r\n\r\n").split(b"\r\n\r\n")[0].decode()
    lines = head.split("\r\n")
    assert lines[0] == "HTTP/1.1 201 Created"
    for name, value in headers[:6]:
        assert f"{name}: {value}" in lines
    # The gateway's own key got the cookies: they are no user's.
    gone = ("X-Hop", "Server: gunicorn", "Set-Cookie")
    assert not any(line.startswith(gone) for line in lines)


# -- memory

FREE = 24 << 20
"""What a relay may cost beside the one copy of a body that is read for its records."""


def _private(gateway: GatewayProcess) -> int:
    return int(_worker(gateway).memory_full_info().uss)


def _peak(gateway: GatewayProcess) -> int:
    """The most that the worker has held resident since its start."""
    status = Path(f"/proc/{_worker(gateway).pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) << 10


def _worker(gateway: GatewayProcess) -> psutil.Process:
    (worker,) = psutil.Process(gateway.process.pid).children()
    return worker


def test_a_long_stream_costs_a_bounded_buffer(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    piece = event(
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "x" * 8000},
        },
        name="content_block_delta",
    )
    count = 100_000_000 // len(piece)
    half, go_on = threading.Event(), threading.Event()
    provider.play(
        stream([START, *[piece] * (count // 2), WaitFor(go_on), *[piece] * (count // 2), END])
    )
    before = _private(gateway)
    with RawClient(gateway) as client:
        client.post("/anthropic/v1/messages", _ask())
        received = 0
        for data in client.pieces():
            received += len(data)
            if received > 45_000_000 and not half.is_set():
                half.set()
                assert _private(gateway) - before < FREE
                go_on.set()
    assert received > 99_000_000
    assert _private(gateway) - before < FREE


def test_a_large_blocking_body_costs_one_copy(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    text = "y" * 30_000_000
    usage = {"input_tokens": 1, "output_tokens": 2}
    document = {"id": "msg_1", "content": [{"type": "text", "text": text}], "usage": usage}
    before, peak = _private(gateway), _peak(gateway)
    provider.play(answer(document))
    with RawClient(gateway) as client:
        client.post("/anthropic/v1/messages", {**_ask(), "stream": False})
        got = client.answer()
    assert json.loads(got.body) == document
    found = gateway.records(got.interception_id)
    assert found["token_usages"][0]["output_tokens"] == 2
    assert _private(gateway) - before < FREE
    assert _peak(gateway) - max(before, peak) < 30_000_000 + FREE
