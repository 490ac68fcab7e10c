"""Pods of rendered manifests, as processes: what Kubernetes does with them, as clients see it.

A pod gets the arguments, variables, volumes and probes of its manifest; a Service passes
connections to those that are ready.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Self

import requests
from gateway_process import free_port, wait_until

__all__ = ["ConfigObjects", "Pod", "Service"]

Manifest = dict[str, Any]
ConfigObjects = dict[tuple[str, str], dict[str, str]]
"""What ConfigMaps and Secrets hold, by kind and name."""
QUICK = 10
"""So much shorter than written are waits."""


class Pod:
    """One container's process, with its volumes as folders."""

    def __init__(
        self, template: Manifest, objects: ConfigObjects, folder: Path, state: Path | None = None
    ) -> None:
        """``state`` is the folder of the claimed volume, which outlives the pod."""
        folder.mkdir(parents=True)
        self._folder = folder
        self._pod = template["spec"]
        self._container = self._pod["containers"][0]
        self._objects = objects
        self.annotations: dict[str, str] = template["metadata"]["annotations"]
        # A unix socket's address has room for about a hundred bytes.
        self._short = Path(tempfile.mkdtemp(prefix="aigw-"))
        self._volumes = {each["name"]: each for each in self._pod["volumes"]}
        self._places = {name: folder / name for name in self._volumes}
        if state is not None:
            self._places["state"] = state
        self._places["runtime"] = self._short
        for place in self._places.values():
            place.mkdir(parents=True, exist_ok=True)
        self.address = f"127.0.0.1:{free_port()}"
        self.update_volumes()
        with open(folder / "stdout", "wb") as stdout, open(folder / "stderr", "wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "aigateway.http", *self._container["args"]],
                env=self._environ(),
                cwd=folder,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    def update_volumes(self) -> None:
        """Bring what ConfigMaps and Secrets hold, each folder in one step, as the kubelet does."""
        for name, volume in self._volumes.items():
            if "configMap" in volume:
                files = self._objects["ConfigMap", volume["configMap"]["name"]]
            elif "secret" in volume:
                held = self._objects["Secret", volume["secret"]["secretName"]]
                items = volume["secret"]["items"]
                files = {each["path"]: held[each["key"]] for each in items}
            else:
                continue
            place = self._places[name]
            fresh = Path(tempfile.mkdtemp(dir=place, prefix=".."))
            for file, text in files.items():
                (fresh / file).write_text(self._here(text))
                if not (place / file).is_symlink():
                    (place / file).symlink_to(f"..data/{file}")
            link = place / f"{fresh.name}.link"
            link.symlink_to(fresh.name)
            link.replace(place / "..data")

    def _here(self, text: str) -> str:
        """With the folders and ports of this machine in the place of the container's."""
        mounts = self._container["volumeMounts"]
        places = {each["mountPath"]: str(self._places[each["name"]]) for each in mounts}
        any_mount = "|".join(map(re.escape, sorted(places, reverse=True)))
        text = re.sub(any_mount, lambda at: places[at[0]], text)
        return text.replace("0.0.0.0:4001", self.address).replace("0.0.0.0:2112", "127.0.0.1:0")

    def _environ(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        told = {each["name"]: self._here(each["value"]) for each in self._container["env"]}
        return {**kept, **told, "TMPDIR": str(self._places["tmp"]), "PYTHONWARNINGS": "error"}

    def log(self) -> str:
        return (self._folder / "stdout").read_text()

    def wait_until_ready(self) -> None:
        probe = self._container["readinessProbe"]["httpGet"]
        assert probe["port"] == "http"

        def ready() -> bool:
            assert self.process.poll() is None, (self._folder / "stderr").read_text()
            with contextlib.suppress(requests.RequestException):
                url = f"http://{self.address}{probe['path']}"
                return requests.get(url, timeout=5).status_code == 200
            return False

        wait_until(ready, "the pod is ready")

    def terminate(self) -> None:
        """Wait as ``preStop`` says, then tell the process."""
        waits = self._container["lifecycle"]["preStop"]["sleep"]["seconds"]
        threading.Event().wait(waits / QUICK)
        self.process.send_signal(signal.SIGTERM)

    def wait_until_gone(self) -> None:
        assert self.process.wait(self._pod["terminationGracePeriodSeconds"] / QUICK) == 0
        shutil.rmtree(self._short, ignore_errors=True)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self._short, ignore_errors=True)


class Service:
    """Passes each connection to the next of the pods that it knows, while it is entered."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        host, port = self._listener.getsockname()
        self.address = f"{host}:{port}"
        self.pods: list[Pod] = []
        self._turn = itertools.count()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        pods = list(self.pods)
        pod = pods[next(self._turn) % len(pods)]
        host, port = pod.address.split(":")
        with client:
            try:
                server = socket.create_connection((host, int(port)), timeout=10)
            except OSError:
                return
            with server:
                server.settimeout(None)
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
