"""Real servers that stand around gateways: nginx and Redis, from the system's packages."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gateway_process import free_port, wait_until
from system_programs import program

__all__ = ["documented_nginx", "nginx", "redis"]

README = Path(__file__).parents[2] / "docs" / "kubernetes" / "README.md"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _running(argv: Sequence[str], port: int, folder: Path) -> Iterator[None]:
    output = folder / "output.txt"
    with open(output, "wb") as file:
        process = subprocess.Popen(argv, cwd=folder, stdout=file, stderr=subprocess.STDOUT)

    def up() -> bool:
        assert process.poll() is None, output.read_text()
        return _listens(port)

    try:
        wait_until(up, f"{argv[0]} listens")
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def documented_nginx(servers: Sequence[str], listen: str) -> str:
    """The README's lines for nginx, with these addresses for its examples."""
    block = re.search(r"```nginx\n(.*?)```", README.read_text(), re.DOTALL)
    assert block is not None
    lines = iter(servers)
    text = re.sub(r"server 10\.\S+:4001", lambda _: f"server {next(lines)}", block[1])
    assert not list(lines), "the README has fewer servers than the test"
    assert "listen 443 ssl;" in text
    return text.replace("listen 443 ssl;", f"listen {listen};")


@contextmanager
def nginx(folder: Path, servers: Sequence[str]) -> Iterator[str]:
    """nginx as the README sets it up, in front of ``servers``; gives its address."""
    path = program("nginx", "apt-get install nginx-light")
    folder.mkdir()
    port = free_port()
    temporary = "".join(
        f"    {kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Started by root it would become a user who may not write here.
    user = "user root;\n" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(
        f"{user}daemon off;\nworker_processes 1;\n"
        f"pid {folder}/pid;\nerror_log {folder}/error.log;\n"
        "events { worker_connections 512; }\n"
        f"http {{\n    access_log {folder}/access.log;\n{temporary}"
        f"{documented_nginx(servers, f'127.0.0.1:{port}')}\n}}\n"
    )
    with _running([path, "-p", str(folder), "-c", str(config)], port, folder):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A Redis without a disk; gives its address."""
    path = program("redis-server", "apt-get install redis-server")
    folder.mkdir()
    port = free_port()
    argv = [path, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with _running(argv, port, folder):
        yield f"redis://127.0.0.1:{port}/0"
