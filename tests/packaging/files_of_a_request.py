"""Which files of ours a warm streaming request passes in its own thread, in order.

``python tests/packaging/files_of_a_request.py`` prints the table for ``docs/internals.md``.

The whole gateway runs in this process: the threaded worker's own code reads a Messages request
from a socket and writes the answer to it, the control plane is the embedded one, and the provider
is scripted.  Only the thread of the request is looked at, and only from the second request on.
"""

from __future__ import annotations

import ast
import json
import os
import socket
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
OURS = (f"{CHECKOUT}/actors/", f"{CHECKOUT}/http/")
BODY = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 64,
    "stream": True,
    "messages": [{"role": "user", "content": "hello"}],
}


def files_of_a_request(folder: Path, provider: str) -> list[str]:
    """Paths from the top of the checkout; ``provider`` is the address of Anthropic's API."""
    # Here: the program is the only one to run a gateway in its own process.
    from attrs import evolve
    from gunicorn import http
    from gunicorn.glogging import Logger
    from gunicorn.workers.gthread import TConn

    from aigateway.actors.control.local.api_keys import create_key
    from aigateway.actors.control.local.schema import open_database
    from aigateway.http.app import create_app
    from aigateway.http.logs import configure
    from aigateway.http.server.application import GatewayApplication
    from aigateway.http.server.parts import use_own_parts
    from aigateway.http.server.thread_worker import GatewayThreadWorker
    from aigateway.http.settings import load

    with closing(open_database(folder / "gateway.db")) as database:
        token = create_key(database, "alice").token
    prefix = "CODER_AI_GATEWAY_PROVIDER_0_"
    settings = evolve(
        load({}, {f"{prefix}TYPE": "anthropic", f"{prefix}BASE_URL": provider, f"{prefix}KEY": "k",
                  "CODER_AI_GATEWAY_LOCAL": "true",
                  "CODER_AI_GATEWAY_LOCAL_DB": str(folder / "gateway.db"),
                  "CODER_AI_GATEWAY_STATE_DIR": str(folder / "state"),
                  "CODER_AI_GATEWAY_RUNTIME_DIR": str(folder / "run")}),
        log_json=str(folder / "log"),
        log_human="",
    )  # fmt: skip
    configure(settings)
    application = GatewayApplication(settings, create_app)
    config = application.cfg
    app = create_app(settings)
    app.runtime.start()
    if not app.runtime.wait_ready(60):
        raise TimeoutError(app.runtime.why_not_ready())
    use_own_parts(config)
    worker = GatewayThreadWorker(1, os.getpid(), [], application, 60, config, Logger(config))
    worker.wsgi = app
    ours, client = socket.socketpair()
    address = ("127.0.0.1", 1)
    conn = TConn(config, ours, address, address)
    conn.parser = http.get_parser(config, ours, address)
    conn.initialized = True
    body = json.dumps(BODY).encode()
    request = (
        "POST /anthropic/v1/messages HTTP/1.1\r\nHost: gateway\r\n"
        f"X-Api-Key: {token}\r\nAnthropic-Version: 2023-06-01\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    answer = _read_on(client)
    client.sendall(request)
    if not worker.handle(conn):
        raise ConnectionError("the connection does not stay open")
    passed: dict[str, None] = {}

    def look(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and (path := frame.f_code.co_filename).startswith(OURS):
            passed.setdefault(path)

    client.sendall(request)
    sys.setprofile(look)
    worker.handle(conn)
    sys.setprofile(None)
    ours.close()
    answer.wait(60)
    app.runtime.stop(0.0, 5.0)
    return [os.path.relpath(path, CHECKOUT) for path in passed]


def _read_on(client: socket.socket) -> threading.Event:
    """Read what the gateway writes, as long as it does."""
    over = threading.Event()

    def read() -> None:
        with client:
            while client.recv(65536):
                pass
        over.set()

    threading.Thread(target=read, daemon=True).start()
    return over


def table(paths: list[str]) -> str:
    """The files with the first lines of what they say of themselves."""
    lines = ["| | file | |", "|---|---|---|"]
    for number, path in enumerate(paths, start=1):
        said = ast.get_docstring(ast.parse((CHECKOUT / path).read_text())) or ""
        first = " ".join(said.partition("\n\n")[0].split())
        lines.append(f"| {number} | `{path}` | {first} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.path.insert(0, str(CHECKOUT / "tests"))
    from imitation_provider import ScriptedProvider, imitate

    with (
        tempfile.TemporaryDirectory() as scratch,
        ScriptedProvider(otherwise=imitate()) as scripted,
    ):
        sys.stdout.write(f"{table(files_of_a_request(Path(scratch), scripted.url))}\n")
