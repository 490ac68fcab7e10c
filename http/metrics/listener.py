"""The metrics listener: ``python -m aigateway.http.metrics.listener``, started by the master.

A process of its own that ends when its standard input does, that is with the master,
however that ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from aigateway.http.metrics.folder import VARIABLE, locked, remove_unused
from aigateway.http.metrics.processes import Processes
from aigateway.http.settings.addresses import when_free

__all__ = ["main"]


class _Files(Collector):
    """What all worker processes have counted.

    prometheus-client's own collector fails on a file that another process has just made and
    not begun to fill.
    """

    def collect(self) -> Iterable[Metric]:
        folder = Path(os.environ[VARIABLE])
        files = [str(path) for path in folder.glob("*.db") if path.stat().st_size]
        found: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return found


class _Handler(BaseHTTPRequestHandler):
    processes: Processes

    def do_GET(self) -> None:
        """Any path answers the metrics, as in the reference."""
        folder = Path(os.environ[VARIABLE])
        registry = CollectorRegistry()
        registry.register(_Files())
        registry.register(self.processes)
        try:
            with locked(folder):
                body = generate_latest(registry)
        except OSError:
            self.send_error(503, "the gateway is stopping")
            return
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are no news."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True


def main(argv: list[str]) -> None:
    """Serve ``host:port`` until standard input ends."""
    host, _, port = argv[0].rpartition(":")
    _Handler.processes = Processes(Path(os.environ[VARIABLE]), os.getppid())
    try:
        server = when_free(lambda: _Server((host.strip("[]"), int(port)), _Handler))
    except (OSError, OverflowError, ValueError) as ex:
        print(f"error: {ex}", flush=True)  # noqa: T201 - read by start_listener
        return
    bound = server.server_address
    # A master that was killed a moment ago does not read it.
    with contextlib.suppress(BrokenPipeError):
        print(f"{host}:{bound[1]}", flush=True)  # noqa: T201 - read by start_listener
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.close()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        sys.stdin.buffer.read()
    # The next gateway may want the address already.
    server.shutdown()
    server.server_close()
    # The master does this too, unless it was killed.
    remove_unused(Path(os.environ[VARIABLE]))


if __name__ == "__main__":
    # Ctrl-C reaches the whole process group, and some supervisors send every signal to all
    # processes; the master decides when this ends.
    import signal

    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
    ):
        signal.signal(number, signal.SIG_IGN)
    main(sys.argv[1:])
