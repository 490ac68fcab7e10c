"""The official Python SDK's server with definitions that providers refuse, as a process.

    python mcp_odd_server.py

Prints its port, serves until its standard input ends.  The tools answer with the arguments
that they got; ``big`` answers with as many characters as it is asked for.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import Any

import uvicorn
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.transport_security import TransportSecuritySettings

TOOLS: dict[str, dict[str, Any]] = {
    "list_users": {
        "type": "object",
        "properties": {
            "$top": {"type": "integer", "description": "How many."},
            "filter[id]": {"type": "array"},
            "body": {"type": "object", "properties": {"@odata.type": {"type": "string"}}},
        },
        "required": ["$top", "gone"],
    },
    "search": {"type": "object", "properties": {"q": {"type": "string"}}},
    "big": {"type": "object", "properties": {"size": {"type": "integer"}}},
    "huge": {"type": "object", "properties": {"q": {"description": "x" * 200_000}}},
}


async def list_tools(_context: Any, _params: Any) -> types.ListToolsResult:
    return types.ListToolsResult(
        tools=[
            types.Tool(name=name, description=f"{name}. " + "x" * 1500, input_schema=schema)
            for name, schema in TOOLS.items()
        ]
    )


async def call_tool(_context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    arguments = params.arguments or {}
    text = json.dumps(arguments)
    if params.name == "big":
        text = "é" * arguments["size"]
    content = [types.TextContent(type="text", text=text)] if arguments else []
    return types.CallToolResult(content=content)


def main() -> None:
    server: Any = Server("Odd", on_list_tools=list_tools, on_call_tool=call_tool)
    app = server.streamable_http_app(
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False)
    )
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    os.write(1, b"%d\n" % sock.getsockname()[1])
    threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()
    uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on")).run(sockets=[sock])


if __name__ == "__main__":
    main()
