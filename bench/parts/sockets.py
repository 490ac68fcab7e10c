"""Sessions of the Responses API over WebSockets, beside event streams.

A gateway with one worker, a provider of its own that answers both ways with the same events at the
same pace, and clients that count what comes.  CPU and memory are those of the gateway's worker.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from aigateway.actors.codec.websocket import (
    TEXT,
    MessageReader,
    accept_key,
    encode_frame,
)

TICK = os.sysconf("SC_CLK_TCK")
PAUSE = 0.05
"""Seconds between two events of an answer: each is relayed by itself."""
STREAMS = 100
"""Answers at once while CPU is measured."""
LIMIT = 1 << 24


def _events(count: int) -> list[bytes]:
    response: dict[str, Any] = {"id": "resp_1", "model": "gpt-imaginary", "output": []}
    usage = {"input_tokens": 9, "output_tokens": count, "total_tokens": 9 + count}
    told: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**response, "status": "in_progress"}}
    ]
    told += [
        {
            "type": "response.output_text.delta",
            "item_id": "msg_0123456789abcdef",
            "output_index": 0,
            "content_index": 0,
            "delta": " word",
            "sequence_number": number,
        }
        for number in range(1, count + 1)
    ]
    done = {**response, "status": "completed", "usage": usage}
    told.append({"type": "response.completed", "response": done})
    return [json.dumps(each, separators=(",", ":")).encode() for each in told]


# -- the provider


class _Provider:
    """Answers a POST with an event stream, and messages on a WebSocket with messages."""

    def __init__(self) -> None:
        self.count = 1

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                fields = dict(
                    line.decode().lower().split(": ", 1) for line in head.split(b"\r\n")[1:-2]
                )
                if "sec-websocket-key" in fields:
                    key = next(
                        line.split(b": ", 1)[1].decode()
                        for line in head.split(b"\r\n")
                        if line.lower().startswith(b"sec-websocket-key")
                    )
                    await self._socket(reader, writer, key)
                    return
                body = await reader.readexactly(int(fields["content-length"]))
                await self._stream(writer, json.loads(body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _socket(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str
    ) -> None:
        head = "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        writer.write(f"{head}Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n".encode())
        messages = MessageReader(masked=True, limit=LIMIT)
        while data := await reader.read(65536):
            messages.feed(data)
            while (message := messages.next()) is not None:
                if message.opcode != TEXT:
                    return
                for event in _events(int(json.loads(message.payload)["input"])):
                    writer.write(encode_frame(TEXT, event))
                    await asyncio.sleep(PAUSE)

    async def _stream(self, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for event in _events(int(asked["input"])):
            name = json.loads(event)["type"].encode()
            piece = b"event: " + name + b"\ndata: " + event + b"\n\n"
            writer.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
            await asyncio.sleep(PAUSE)
        writer.write(b"0\r\n\r\n")


async def _provide() -> None:
    server = await asyncio.start_server(_Provider().serve, "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


# -- the clients


class _Session:
    """One WebSocket."""

    def __init__(self, port: int, key: str) -> None:
        self._port, self._key = port, key
        self._messages = MessageReader(masked=False, limit=LIMIT)

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        self.writer.write(
            (
                "GET /openai/v1/responses HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: {secrets.token_urlsafe(16)}==\r\n"
                f"Authorization: Bearer {self._key}\r\n\r\n"
            ).encode()
        )
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head

    async def ask(self, events: int) -> None:
        asked = {"type": "response.create", "model": "gpt-imaginary", "input": str(events)}
        self.writer.write(encode_frame(TEXT, json.dumps(asked).encode(), secrets.token_bytes(4)))
        while True:
            self._messages.feed(await self.reader.read(65536))
            while (message := self._messages.next()) is not None:
                if message.payload.startswith(b'{"type":"response.completed"'):
                    return
                assert message.payload.startswith(b'{"type":"response.'), message


async def _stream(port: int, key: str, events: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    asked = {"model": "gpt-imaginary", "input": str(events), "stream": True}
    body = json.dumps(asked).encode()
    writer.write(
        (
            "POST /openai/v1/responses HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n"
            f"Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        + body
    )
    last = b""
    while data := await reader.read(65536):
        last = (last + data)[-65536:]
    assert b"response.completed" in last, last
    writer.close()


# -- the gateway


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def _memory(pid: int) -> float:
    """Bytes that the process has for itself."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(
        int(line.split()[1]) * 1024
        for line in lines
        if line.startswith(("Private_Clean", "Private_Dirty"))
    )


async def _measure(port: int, pid: int, key: str, sessions: int, events: int) -> dict[str, float]:
    one = _Session(port, key)
    await one.open()
    await one.ask(1)
    before = _memory(pid)
    opened = []
    for start in range(0, sessions, 50):
        batch = [_Session(port, key) for _ in range(min(50, sessions - start))]
        await asyncio.gather(*(each.open() for each in batch))
        await asyncio.gather(*(each.ask(1) for each in batch))
        opened += batch
    held = (_memory(pid) - before) / max(1, len(opened))
    idle = _cpu(pid)
    await asyncio.sleep(5)
    idle = (_cpu(pid) - idle) / 5
    at_once = opened[:STREAMS]
    figures: dict[str, list[float]] = {"socket": [], "stream": []}
    for _ in range(3):
        for kind, found in figures.items():
            began = _cpu(pid)
            if kind == "socket":
                await asyncio.gather(*(each.ask(events) for each in at_once))
            else:
                await asyncio.gather(*(_stream(port, key, events) for _ in at_once))
            found.append((_cpu(pid) - began) / (len(at_once) * (events + 2)) * 1e6)
    message, event = (sorted(found)[1] for found in figures.values())
    return {
        "sessions": len(opened),
        "kb_each": held / 1024,
        "idle_percent": idle * 100,
        "socket_us": message,
        "stream_us": event,
        "ratio": message / event,
    }


def _run(sessions: int, events: int) -> dict[str, float]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        provider = subprocess.Popen(
            [sys.executable, "-m", "bench.parts.sockets", "provider"], stdout=subprocess.PIPE
        )
        assert provider.stdout is not None
        provider_port = int(provider.stdout.readline())
        environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("CODER_")},
            "CODER_AI_GATEWAY_PROVIDER_0_TYPE": "openai",
            "CODER_AI_GATEWAY_PROVIDER_0_BASE_URL": f"http://127.0.0.1:{provider_port}/v1",
            "CODER_AI_GATEWAY_PROVIDER_0_KEY": "sk-bench",
        }
        program = [sys.executable, "-m", "aigateway.http"]
        database = ["--local-db", str(folder / "gateway.db")]
        made = subprocess.run(
            [*program, "keys", "create", "-q", *database, "bench"],
            env=environ, check=True, capture_output=True, text=True,
        )  # fmt: skip
        key = made.stdout.strip()
        port = _free_port()
        gateway = subprocess.Popen(
            [
                *program, "start", "--local", *database,
                "--http-address", f"127.0.0.1:{port}", "--state-dir", str(folder / "state"),
                "--runtime-dir", str(folder / "run"), "--log-human", str(folder / "log"),
                "--websocket-max", "0", "--websocket-user-max", "0", "--workers", "1",
                "--worker-connections", "10000",
            ],
            env=environ,
        )  # fmt: skip
        try:
            worker = _worker(folder / "run")
            return asyncio.run(_measure(port, worker, key, sessions, events))
        finally:
            gateway.terminate()
            gateway.wait()
            provider.terminate()
            provider.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def _worker(folder: Path) -> int:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for path in folder.glob("worker-*.sock"):
            time.sleep(1)
            return int(path.stem.removeprefix("worker-"))
        time.sleep(0.05)
    raise SystemExit("the gateway did not start")


if __name__ == "__main__":
    if sys.argv[1] == "provider":
        asyncio.run(_provide())
    else:
        print(json.dumps(_run(**json.loads(sys.argv[1]))))
