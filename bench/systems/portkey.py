"""Portkey's open-source gateway, from npm, in a folder of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from bench.payloads import Endpoint
from bench.processes import Child, clean_environ, free_port
from bench.systems.base import Running, Surroundings, System
from bench.systems.direct import PATHS
from bench.systems.packages import node_package

__all__ = ["Portkey"]

PACKAGE = "@portkey-ai/gateway"
PINNED = {"@hono/node-server": "1.13.8"}
"""The web server below it, as its package asks for (^1.3.3).  With 1.14 and later every stream
of 1.15.2 fails with «TypeError: immutable»."""

_CLUSTER = """\
const cluster = require("node:cluster");
cluster.setupPrimary({ exec: process.argv[2], args: process.argv.slice(4) });
for (let n = Number(process.argv[3]); n > 0; n--) cluster.fork();
process.on("SIGTERM", () => process.exit(0));
"""


class Portkey(System):
    """``clustered`` runs as many processes as the others have workers.

    Its own command starts one process.  Node's cluster module, without a change to the
    program, shares the port between several.
    """

    def __init__(self, clustered: bool = False) -> None:
        self._clustered = clustered
        self.name = "portkey-cluster" if clustered else "portkey"
        self.title = "Portkey (clustered)" if clustered else "Portkey"
        processes = "Node's cluster module" if clustered else "one process, as its command does"
        self.does = (
            f"parses and re-encodes; {processes}; the provider's key comes from the client, no"
            " records"
        )
        self._folder = Path()

    def prepare(self, say: Callable[[str], None]) -> str:
        self._folder = node_package("portkey", PACKAGE, say, **PINNED)
        version: str = json.loads((self._folder / "package.json").read_text())["version"]
        return version

    def launch(self, around: Surroundings) -> Running:
        port = free_port()
        node = shutil.which("node")
        assert node is not None
        program = [str(self._folder / "build" / "start-server.js")]
        if self._clustered:
            cluster = around.folder / "cluster.cjs"
            cluster.write_text(_CLUSTER)
            program = [str(cluster), *program, str(around.workers)]
        child = Child(
            [node, *program, f"--port={port}", "--headless"],
            around.folder / "portkey.log",
            cwd=around.folder,
            env=clean_environ(NODE_ENV="production", TRUSTED_CUSTOM_HOSTS="127.0.0.1,localhost"),
        )
        main, slow = around.upstream_ports
        return Running(
            [child],
            {api: Endpoint(port, PATHS[api], _headers(api, main)) for api in PATHS},
            slow=Endpoint(port, PATHS["chat"], _headers("chat", slow)),
        )


def _headers(api: str, upstream: int) -> dict[str, str]:
    headers = {
        "Authorization": "Bearer sk-provider",
        "X-Portkey-Provider": "openai" if api == "chat" else "anthropic",
        "X-Portkey-Custom-Host": f"http://127.0.0.1:{upstream}/v1",
    }
    if api == "messages":
        headers["Anthropic-Version"] = "2023-06-01"
    return headers
