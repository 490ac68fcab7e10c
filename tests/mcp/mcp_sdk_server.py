"""The official Python SDK's server, as a process: prints its port, serves until killed.

    python mcp_sdk_server.py [--sessions] [--json] [--token TOKEN] [--resumable]

``--sessions``: only the revisions that open sessions, as a server of 2025 would.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import threading
from typing import Annotated, Any

import uvicorn
from mcp.server import NotificationOptions
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.streamable_http import EventMessage, EventStore
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import EmbeddedResource, TextContent, TextResourceContents
from pydantic import Field

server = MCPServer("Tester", log_level="ERROR")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def broken() -> str:
    """Fail."""
    raise ValueError("this tool never works")


@server.tool()
async def slow(seconds: float, ctx: Context) -> str:
    """Take a while, and tell how it goes."""
    await ctx.report_progress(0, seconds)
    await asyncio.sleep(seconds)
    return "done"


@server.tool()
def document() -> list[EmbeddedResource | TextContent]:
    """Return a text and a resource."""
    resource = TextResourceContents(uri="file:///a.txt", mime_type="text/plain", text="inside")
    return [
        TextContent(type="text", text="see"),
        EmbeddedResource(type="resource", resource=resource),
    ]


Region = Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]


@server.tool()
def where(region: Region, ctx: Context) -> str:
    """Say which region the headers and the arguments name."""
    headers = ctx.headers or {}
    return f"{region} {headers.get('mcp-param-region')} {headers.get('mcp-name')}"


@server.tool()
async def grow(ctx: Context) -> str:
    """Offer one more tool from now on, and say so to whoever listens."""
    server.add_tool(add, name="grown", description="Another one.")
    await ctx.notify_tools_changed()
    # Sessions know no bus: each is told by itself, on the stream opened with GET.
    await ctx.session.send_tool_list_changed()
    return "grown"


@server.tool()
async def shrink(ctx: Context) -> str:
    """Undo ``grow``."""
    server.remove_tool("grown")
    return "shrunk"


@server.tool()
async def interrupted(ctx: Context) -> str:
    """Close the stream and answer on the next one."""
    await ctx.close_sse_stream()
    return "after the interruption"


class Memory(EventStore):
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    async def store_event(self, stream_id: str, message: Any) -> str:
        self.events.append((stream_id, message))
        return str(len(self.events))

    async def replay_events_after(self, last_event_id: str, send_callback: Any) -> str | None:
        stream_id = self.events[int(last_event_id) - 1][0]
        for number, (stream, message) in enumerate(self.events, 1):
            if number > int(last_event_id) and stream == stream_id and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream_id


def guarded(app: Any, token: str, sessions_only: bool) -> Any:
    """Refuse requests without the token, and revisions that a server of 2025 cannot know."""

    async def guard(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
            if token and headers.get("authorization") != f"Bearer {token}":
                await refuse(send, 401, {"error": "invalid_token"})
                return
            if sessions_only and headers.get("mcp-protocol-version") == "2026-07-28":
                await refuse(send, 400, _rpc_error("Bad Request: Unsupported protocol version"))
                return
        await app(scope, receive, send)

    return guard


def _rpc_error(text: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": "server-error", "error": {"code": -32600, "message": text}}


async def refuse(send: Any, status: int, body: Any) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sessions", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--token", default="")
    parser.add_argument("--resumable", action="store_true")
    options = parser.parse_args()
    lowlevel = server._lowlevel_server
    plain = lowlevel.create_initialization_options
    lowlevel.create_initialization_options = lambda *a, **kw: plain(
        NotificationOptions(tools_changed=True)
    )
    app = server.streamable_http_app(
        json_response=options.json,
        event_store=Memory() if options.resumable else None,
        retry_interval=10 if options.resumable else None,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    # With its protocol named: else asyncio does not switch Nagle's algorithm off.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    os.write(1, b"%d\n" % sock.getsockname()[1])
    # The process ends with whoever started it.
    threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()
    config = uvicorn.Config(
        guarded(app, options.token, options.sessions), log_level="error", lifespan="on"
    )
    uvicorn.Server(config).run(sockets=[sock])


if __name__ == "__main__":
    main()
