"""This project's gateway, from this checkout, with recording on."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from bench.availability import Absent
from bench.control_planes import ControlPlane, control_plane
from bench.payloads import Endpoint
from bench.processes import Child, clean_environ, free_port
from bench.systems.base import START_LIMIT, Running, StartFailed, Surroundings, System
from bench.systems.direct import PATHS, credentials

__all__ = ["AiGateway"]

PROVIDER_KEY = "sk-bench-provider"


class AiGateway(System):
    """``plane`` is ``local``, ``postgres`` or ``coderd``."""

    users_supported = True
    stages_supported = True

    def __init__(self, plane: str = "local", options: tuple[str, ...] = ()) -> None:
        """``options`` are added to ``aigateway start``; an ``--http-address`` among them must
        have a port."""
        self.plane = plane
        self.options = options
        # They are the same whatever records go to.
        self.parts_supported = plane == "local"
        self.python = sys.executable
        """The Python that has the gateway."""
        self.name = "aigateway" if plane == "local" else f"aigateway-{plane}"
        self.title = "aigateway" if plane == "local" else f"aigateway ({plane})"
        where = {
            "local": "in its own SQLite database",
            "postgres": "in PostgreSQL",
            "coderd": "in a test coderd",
        }[plane]
        self.does = f"checks the user's key, replaces it, relays, records every request {where}"

    def prepare(self, say: Callable[[str], None]) -> str:
        return version("aigateway")

    def launch(self, around: Surroundings) -> Running:
        plane = control_plane(self.plane, around.folder, around.users, self.python)
        try:
            return self._launch(around, plane)
        except BaseException:
            plane.stop()
            raise

    def _launch(self, around: Surroundings, plane: ControlPlane) -> Running:
        log = around.folder / "gateway.log.json"
        arguments: dict[str, object] = {
            "--http-address": "127.0.0.1:0",
            "--state-dir": around.folder / "state",
            "--runtime-dir": around.folder / "run",
            "--workers": around.workers,
            "--shutdown-timeout": "5s",
            "--log-json": log,
            "--log-human": "",
        }
        if around.metrics:
            arguments["--prometheus-address"] = f"127.0.0.1:{free_port()}"
        command = [self.python, "-m", "aigateway.http", "start", *plane.options]
        command += ["--prometheus-enable"] if around.metrics else []
        for flag, value in arguments.items():
            command += [flag, str(value)]
        child = Child(
            [*command, *self.options, *around.options],
            around.folder / "gateway.err",
            cwd=around.folder,
            env=clean_environ(**_providers(around), **plane.environ, **around.environ),
        )
        try:
            port = _fixed_port([*self.options, *around.options]) or _port(child, log)
        except BaseException:
            child.stop()
            raise
        key = plane.keys[0]
        endpoints = {
            "chat": Endpoint(port, f"/openai{PATHS['chat']}", credentials("chat", key)),
            "messages": Endpoint(
                port, f"/anthropic{PATHS['messages']}", credentials("messages", key)
            ),
        }
        slow = Endpoint(port, f"/slow{PATHS['chat']}", credentials("chat", key))
        return Running(
            [child],
            endpoints,
            slow=slow,
            keys=plane.keys,
            ledger=plane,
            extra=plane.children(),
            metrics_url=f"http://{arguments['--prometheus-address']}/" if around.metrics else "",
        )


def _fixed_port(options: Sequence[str]) -> int:
    """The port that was asked for, which no log has to say; 0: none was."""
    flag = "--http-address"
    return int(options[options.index(flag) + 1].rpartition(":")[2]) if flag in options else 0


def _providers(around: Surroundings) -> dict[str, str]:
    main, slow = (f"http://127.0.0.1:{port}" for port in around.upstream_ports)
    providers = (
        ("openai", "openai", f"{main}/v1"),
        ("anthropic", "anthropic", main),
        ("openai", "slow", f"{slow}/v1"),
    )
    environ = {}
    for number, (kind, name, url) in enumerate(providers):
        fields = {"TYPE": kind, "NAME": name, "KEY": PROVIDER_KEY, "BASE_URL": url}
        for field, value in fields.items():
            environ[f"CODER_AI_GATEWAY_PROVIDER_{number}_{field}"] = value
    return environ


def _port(child: Child, log: Path) -> int:
    """Where it listens, from its log."""
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            for line in log.read_bytes().splitlines(keepends=True):
                if b"AI Gateway listening" in line and line.endswith(b"\n"):
                    entry = json.loads(line)
                    address: str = entry.get("fields", entry)["address"]
                    return int(address.rpartition(":")[2])
        if not child.alive():
            words = child.last_words()
            if "not available yet" in words:
                raise Absent(words.strip().splitlines()[-1])
            raise StartFailed(f"the gateway ended:\n{words}")
        time.sleep(0.005)
    raise StartFailed(f"the gateway does not listen:\n{child.last_words()}")
