"""nginx as a plain reverse proxy: the floor.  It checks nobody and records nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

from bench.payloads import Endpoint
from bench.processes import Child, free_port
from bench.systems.base import Running, Surroundings, System
from bench.systems.direct import PATHS, credentials
from bench.systems.packages import Program, debian_program

__all__ = ["Nginx"]

_CONFIG = """\
{user}
worker_processes {workers};
worker_rlimit_nofile 65536;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 64m;
    client_body_buffer_size 1m;
    keepalive_requests 10000000;
    upstream main {{ server 127.0.0.1:{main}; keepalive 1024; keepalive_requests 10000000; }}
    upstream slow {{ server 127.0.0.1:{slow}; keepalive 1024; keepalive_requests 10000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=16384 reuseport;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_buffering off;
        proxy_read_timeout 600s;
        location / {{ proxy_pass http://main; }}
        location /slow/ {{ proxy_pass http://slow/; }}
    }}
}}
"""


class Nginx(System):
    name = "nginx"
    title = "nginx"
    does = "plain reverse proxy, unbuffered: no keys, no parsing, no records (the floor)"

    def __init__(self) -> None:
        self._program: Program | None = None

    def prepare(self, say: Callable[[str], None]) -> str:
        self._program = debian_program("nginx", ["nginx", "nginx-common"], say)
        shown = subprocess.run(
            [str(self._program.path), "-v"],
            env=dict(self._program.environ),
            capture_output=True,
            text=True,
            check=False,
        )
        return shown.stderr.strip().rpartition("/")[2]

    def launch(self, around: Surroundings) -> Running:
        assert self._program is not None
        port = free_port()
        main, slow = around.upstream_ports
        config = around.folder / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                # Workers of a master that is root could not write its folder.
                user="user root;" if os.geteuid() == 0 else "",
                workers=around.workers,
                folder=around.folder,
                port=port,
                main=main,
                slow=slow,
            )
        )
        child = Child(
            [str(self._program.path), "-p", str(around.folder), "-c", str(config)],
            around.folder / "nginx.log",
            env=self._program.environ,
        )
        return Running(
            [child],
            {
                api: Endpoint(port, path, credentials(api, "sk-bench"))
                for api, path in PATHS.items()
            },
            slow=Endpoint(port, f"/slow{PATHS['chat']}", credentials("chat", "sk-bench")),
        )
