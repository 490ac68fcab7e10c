"""Parts of the gateway by themselves: programs of ``bench/parts``, run by the system's Python."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any, Final

from bench.load import DriverFailed
from bench.options import Options
from bench.payloads import body_of
from bench.processes import CHECKOUT
from bench.scenarios.base import Column, Outcome, Scenario, Variant
from bench.stand import Stand
from bench.systems import System

__all__ = [
    "BodyReading",
    "CoderdCalls",
    "Interception",
    "OfOurs",
    "OwnParts",
    "RecorderAppends",
    "Sessions",
]

_LIMIT = 300
"""Seconds that a part may take."""


class OfOurs(Scenario):
    """Looks at what only this project's gateways have, once and not for each control plane."""

    def unsuitable(self, system: System) -> str:
        return "" if system.parts_supported else "has no such part"


def _numbers(stand: Stand, part: str, /, **options: Any) -> dict[str, float]:
    """What a part says.  Raises DriverFailed."""
    done = subprocess.run(
        [stand.system.python, "-m", f"bench.parts.{part}", json.dumps(options)],
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_LIMIT,
        check=False,
    )
    if done.returncode:
        raise DriverFailed(f"bench.parts.{part} failed: {done.stderr.strip()[-1500:]}")
    numbers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return numbers


class Interception(OfOurs):
    name = "interception"
    title = "Reading what is relayed"
    about = (
        "A process that relays from socket to socket, bare and with an API's interception in"
        " between, as the gateway's relay has it: a stream of {part_events} texts, and a blocking"
        " answer of 8 MB. CPU of the relaying process."
    )
    columns = (
        Column("event_bare_us", "µs/event, bare", 1),
        Column("event_us", "µs/event, read", 1, better="low"),
        Column("mb_bare_ms", "ms/MB, bare", 2),
        Column("mb_ms", "ms/MB, read", 2, better="low"),
    )
    apis = ("messages", "chat-completions", "responses")

    def variants(self, options: Options) -> list[Variant]:
        return [Variant(api, number) for number, api in enumerate(self.apis)]

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        events = stand.options.part_events
        return Outcome(
            numbers=_numbers(
                stand, "interception", api=variant.name, events=events, bytes=events * 400
            )
        )


class BodyReading(OfOurs):
    name = "reading"
    title = "Reading a request"
    about = (
        "CPU of opening an interception of the Messages API on a request's body, which reads it"
        " once, beside one scan of the same bytes by each parser that is installed."
    )
    columns = (
        Column("kb", "KB"),
        Column("opened_us", "opened µs", better="low"),
        Column("per_kb_us", "µs/KB", 2),
        Column("fields_us", "msgspec, fields"),
        Column("check_us", "msgspec, check alone"),
        Column("values_us", "msgspec, all values"),
        Column("orjson_us", "orjson"),
        Column("simdjson_us", "pysimdjson"),
        Column("json_us", "json"),
    )
    sizes: Final = {"1 KB": 200, "455 KB": 140_000, "600 KB": 185_000}
    kinds: Final = (
        "100 KB",
        "100 KB, all blanks escaped",
        "100 KB, 500 levels deep",
        "100 KB, half a character",
        "100 KB, without its end",
    )

    def variants(self, options: Options) -> list[Variant]:
        return [Variant(name, number) for number, name in enumerate((*self.sizes, *self.kinds))]

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        file = stand.file("body.json")
        file.write_bytes(self._body(variant.name))
        bytes_read = stand.options.part_times * 500
        return Outcome(numbers=_numbers(stand, "reading", body=str(file), bytes=bytes_read))

    def _body(self, name: str) -> bytes:
        body = body_of("messages", tokens=self.sizes.get(name, 28_000), stream=False)
        match name.partition(", ")[2]:
            case "all blanks escaped":
                return re.sub(" (?=[a-z])", r"\\u0020", body.decode()).encode()
            case "500 levels deep":
                return body[:-1] + b',"x":' + b"[" * 500 + b"]" * 500 + b"}"
            case "half a character":
                return body[:-1] + rb',"x":"\ud83d"}'
            case "without its end":
                return body[:-1]
        return body


class OwnParts(OfOurs):
    name = "own-parts"
    title = "Parts of our own"
    about = (
        "CPU of what the gateway has of its own in the place of libraries' parts, on the same"
        " bytes: WebSocket frames beside websocket-client's, and what it puts in the place of"
        " gunicorn's request, response and the things around them."
    )
    columns = (
        Column("library_us", "library's µs", 1),
        Column("own_us", "ours µs", 1, better="low"),
        Column("saved_us", "saved µs", 1),
        Column("ratio", "ratio", 1),
    )
    parts: Final = (
        "write a frame of 200 bytes",
        "write a frame of 4096 bytes",
        "read the four frames of an answer",
        "read a request's head",
        "settings as attributes",
        "wsgi.errors",
        "wait, then receive",
        "a blocking answer",
        "a stream of 10 events",
    )

    def variants(self, options: Options) -> list[Variant]:
        return [Variant(part, number) for number, part in enumerate(self.parts)]

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        times = stand.options.part_times
        return Outcome(numbers=_numbers(stand, "own", part=variant.name, times=times))


class Sessions(OfOurs):
    name = "sessions"
    title = "Sessions over WebSockets"
    about = (
        "A gateway with one worker and 2,000 open sessions of the Responses API, each of which has"
        " had an answer: memory of the worker for each, its CPU while all are silent; and while 100"
        " have answers of 60 events, 50 ms apart, CPU for each event, beside as many event streams."
    )
    columns = (
        Column("sessions", "sessions"),
        Column("kb_each", "KB each", 1, better="low"),
        Column("idle_percent", "idle, % CPU", 1),
        Column("socket_us", "µs/event", 1, better="low"),
        Column("stream_us", "µs/event, event stream", 1),
        Column("ratio", "ratio", 2, better="low"),
    )

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        sessions = min(2_000, stand.options.part_times)
        return Outcome(numbers=_numbers(stand, "sockets", sessions=sessions, events=60))


class RecorderAppends(OfOurs):
    name = "recorder"
    title = "Records on their way"
    about = (
        "A recorder that gets four records of each of 2,000 requests a second, and a control plane"
        " that says yes at once: CPU from the request's message to the deleted row,"
        " {part_appends} requests."
    )
    columns = (
        Column("cpu_us", "CPU µs/request", better="low"),
        Column("per_s", "requests/s"),
    )

    def variants(self, options: Options) -> list[Variant]:
        return [Variant("gevent"), Variant("threads", 1)]

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        appends = stand.options.part_appends
        return Outcome(numbers=_numbers(stand, "recorder", worker=variant.name, appends=appends))


class CoderdCalls(OfOurs):
    name = "calls"
    title = "Calls of a Coder deployment"
    about = (
        "Askers that each ask whether a user may call, which is two calls, of a server made of"
        " Coder's own libraries; with streams that are used again, and with one for each call"
        " (single). CPU per call of the gateway's side and of both."
    )
    columns = (
        Column("per_s", "calls/s"),
        Column("per_s_single", "single"),
        Column("ours_us", "CPU µs", better="low"),
        Column("ours_us_single", "single"),
        Column("peer_us", "server's CPU µs"),
        Column("peer_us_single", "single"),
        Column("both_us", "both", better="low"),
        Column("both_us_single", "single"),
    )
    kinds: Final = (("gevent", False), ("gevent", True), ("threads", False))
    in_flight: Final = (1, 8, 64)

    def variants(self, options: Options) -> list[Variant]:
        return [
            Variant(f"{worker}{', TLS' if tls else ''}, {count} in flight", number * 100 + count)
            for number, (worker, tls) in enumerate(self.kinds)
            for count in self.in_flight
        ]

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        number, in_flight = divmod(int(variant.value), 100)
        worker, tls = self.kinds[number]
        sys.path[:0] = [str(CHECKOUT / "tests" / "interop"), str(CHECKOUT / "tests")]
        import trustme
        from go_peer import GoPeer

        authority = trustme.CA()
        files = [stand.file(name) for name in ("ca.pem", "server.pem", "server.key")]
        leaf = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(files[0])
        leaf.cert_chain_pems[0].write_to_path(files[1])
        leaf.private_key_pem.write_to_path(files[2])
        with GoPeer(tls=(files[1], files[2]) if tls else None) as peer:
            for user in range(in_flight):
                # One for each asker: equal ones at the same moment share a call.
                owner = f"00000000-0000-4000-8000-{user:012d}"
                peer.add_user(f"user{user}-secret", owner, f"user{user}")
            numbers = _numbers(
                stand,
                "coderd_calls",
                url=peer.url,
                pid=peer.pid,
                ca=str(files[0]),
                worker=worker,
                in_flight=in_flight,
                asks=max(stand.options.part_asks, in_flight),
            )
        return Outcome(numbers=numbers)
