"""How each kind of fault is done: ``begin`` it, and ``end`` it when it lasts.

The harness is the service manager: it starts the gateway again whenever that has ended.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from bench.chaos.clock import Clock
from bench.chaos.moods import Moods
from bench.chaos.plan import Fault
from bench.control_planes import CoderdPlane, PostgresPlane
from bench.machine import ProcessTable
from bench.processes import Child, clean_environ, running

__all__ = ["Disk", "DiskUnavailable", "Doer", "Gateway", "doers"]

ROLES = ("recorder", "control-plane", "provider/anthropic", "provider/openai")
COMMAND_LIMIT = 30.0
"""Seconds that `aigateway actors restart` may take; the machine is busy."""
DISK_SIZE = 8
"""MiB of the state folder where it can be filled."""


class Doer(Protocol):
    """One kind of fault."""

    def begin(self, fault: Fault) -> None: ...
    def end(self) -> None: ...


class Gateway:
    """The gateway's processes over their lives."""

    def __init__(self, child: Child, runtime_dir: Path) -> None:
        self.child = child
        self.runtime_dir = runtime_dir
        self.former: list[Child] = []
        self.exits: list[str] = []
        """How main processes ended that this harness did not kill: code and last words."""
        self.killed = False

    def ensure(self) -> None:
        """Start it again if it has ended."""
        if self.child.alive():
            return
        if not self.killed:
            words = self.child.last_words(1)
            others = sum(running(pid) for child in self.former for pid in child.members())
            self.exits.append(
                f"{self.child.process.returncode}: {words} ({others} processes of former ones run)"
            )
        self.killed = False
        self.former.append(self.child)
        self.child = self.child.again()

    def workers(self) -> list[int]:
        parents = ProcessTable.read().parents
        return sorted(pid for pid, parent in parents.items() if parent == self.child.pid)

    def actors(
        self, *arguments: str, timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``aigateway actors`` on it.  Raises TimeoutExpired."""
        command = [sys.executable, "-m", "aigateway.http", "actors"]
        command += ["--runtime-dir", str(self.runtime_dir), *arguments]
        return subprocess.run(
            command, env=clean_environ(), capture_output=True, text=True, timeout=timeout
        )

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.child.process.send_signal(number)


class _Moment:
    """A fault that is done in a moment."""

    def end(self) -> None:
        """Nothing lasts."""


class KillWorker(_Moment):
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def begin(self, fault: Fault) -> None:
        workers = self._gateway.workers()
        if workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(workers[fault.choice % len(workers)], signal.SIGKILL)


class KillMain(_Moment):
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def begin(self, fault: Fault) -> None:
        if self._gateway.child.alive():
            self._gateway.killed = True
            self._gateway.signal(signal.SIGKILL)
            self._gateway.child.process.wait()


class RestartActor(_Moment):
    def __init__(self, gateway: Gateway, crash: bool, say: Callable[[str], None]) -> None:
        self._gateway = gateway
        self._crash = crash
        self._say = say

    def begin(self, fault: Fault) -> None:
        role = ROLES[fault.choice % len(ROLES)]
        how = ["--crash"] if self._crash else []
        try:
            done = self._gateway.actors("restart", role, *how, timeout=COMMAND_LIMIT)
        except subprocess.TimeoutExpired:
            self._say(f"`actors restart {role}` took more than {COMMAND_LIMIT:.0f} s")
            return
        if done.returncode:
            # A worker that was killed a moment ago does not answer.
            words = done.stderr.strip()[-150:]
            self._say(f"`actors restart {role}` ended with {done.returncode}: {words}")


class Reload(_Moment):
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def begin(self, fault: Fault) -> None:
        # A service manager reloads what has started; a Python that has not come to our first
        # statement would end.
        if self._gateway.workers():
            for _ in range(3 + fault.choice % 18):
                self._gateway.signal(signal.SIGHUP)


class Mood:
    """What provider or clients act out while it lasts."""

    def __init__(self, moods: Moods, kind: str) -> None:
        self._moods = moods
        self._kind = kind

    def begin(self, fault: Fault) -> None:
        self._moods.begin(self._kind)

    def end(self) -> None:
        self._moods.end(self._kind)


class DiskUnavailable(Exception):
    """No small file system can be made here; the text says why."""


class Disk:
    """A state folder on a small file system of its own."""

    def __init__(self, folder: Path) -> None:
        """Raises DiskUnavailable."""
        if os.geteuid() != 0:
            raise DiskUnavailable("only root can mount a small file system")
        folder.mkdir(parents=True, exist_ok=True)
        options = f"size={DISK_SIZE}m,mode=700"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as ex:
            raise DiskUnavailable(str(ex)) from ex
        if done.returncode:
            raise DiskUnavailable(done.stderr.strip())
        self._folder = folder
        self._ballast = folder / "ballast"

    def begin(self, fault: Fault) -> None:
        with contextlib.suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            for block in (b"\0" * 65536, b"\0" * 4096):
                with contextlib.suppress(OSError):
                    while file.write(block) == len(block):
                        pass

    def end(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Keep the files, but on the disk below; nobody may use them any more."""
        kept = self._folder.with_name(f"{self._folder.name}-kept")
        try:
            shutil.copytree(self._folder, kept)
        finally:
            subprocess.run(["umount", "--lazy", str(self._folder)], capture_output=True)


class CoderdMoment(_Moment):
    """Something that the test coderd is told once."""

    def __init__(self, plane: CoderdPlane, tell: Callable[[CoderdPlane, int], None]) -> None:
        self._plane = plane
        self._tell = tell

    def begin(self, fault: Fault) -> None:
        self._tell(self._plane, fault.choice)


class CoderdState:
    """Something that the test coderd is until it is told otherwise."""

    def __init__(
        self,
        plane: CoderdPlane,
        on: Callable[[CoderdPlane], None],
        off: Callable[[CoderdPlane], None],
    ) -> None:
        self._plane = plane
        self._on = on
        self._off = off

    def begin(self, fault: Fault) -> None:
        self._on(self._plane)

    def end(self) -> None:
        self._off(self._plane)


class CoderdRpc:
    """Calls that the test coderd disturbs while it lasts; rules of others are kept apart."""

    def __init__(self, plane: CoderdPlane, rules: _Rules, kind: str, **rule: object) -> None:
        self._plane = plane
        self._rules = rules
        self._kind = kind
        self._rule = rule

    def begin(self, fault: Fault) -> None:
        self._rules.now[self._kind] = self._rule
        self._rules.tell(self._plane)

    def end(self) -> None:
        self._rules.now.pop(self._kind, None)
        self._rules.tell(self._plane)


class _Rules:
    """All rules together: the test coderd can only forget all of them at once."""

    def __init__(self) -> None:
        self.now: dict[str, Mapping[str, object]] = {}

    def tell(self, plane: CoderdPlane) -> None:
        plane.tell("DELETE", "/faults")
        if self.now:
            plane.tell("POST", "/faults", {"rpc": list(self.now.values())})


_DROPS = ("reset", "fin", "cancel", "yamux")
_WRITES = ("RecordTokenUsage", "RecordPromptUsage", "RecordInterceptionEnded")


def _drop(plane: CoderdPlane, choice: int) -> None:
    plane.tell("POST", "/sessions/drop", {"how": _DROPS[choice % len(_DROPS)]})


def _reset(plane: CoderdPlane, choice: int) -> None:
    rule = {"rpc": _WRITES[choice % len(_WRITES)], "when": "after", "action": "drop", "times": 1}
    plane.tell("POST", "/faults", {"rpc": [rule]})


def _refuse(plane: CoderdPlane) -> None:
    plane.tell("POST", "/listener", {"open": False})
    plane.tell("POST", "/sessions/drop", {"how": "reset"})


def _of_coderd(plane: CoderdPlane) -> dict[str, Doer]:
    rules = _Rules()
    error = {"action": "error", "text": "the database is away", "times": 0}
    return {
        "coderd-drop": CoderdMoment(plane, _drop),
        "coderd-reset": CoderdMoment(plane, _reset),
        "coderd-goaway": CoderdMoment(plane, lambda on, _: on.tell("POST", "/sessions/goaway", {})),
        "coderd-refuse": CoderdState(
            plane, _refuse, lambda on: on.tell("POST", "/listener", {"open": True})
        ),
        "coderd-stall": CoderdState(
            plane,
            lambda on: on.tell("POST", "/sessions/stall", {"stalled": True}),
            lambda on: on.tell("POST", "/sessions/stall", {"stalled": False}),
        ),
        "coderd-delay": CoderdRpc(
            plane, rules, "coderd-delay", rpc="*", action="", delay_ms=400, times=0
        ),
        "coderd-error": CoderdRpc(plane, rules, "coderd-error", rpc="Record*", **error),
    }


class Lasting:
    """Something that is done, and undone when its time is over."""

    def __init__(self, on: Callable[[], None], off: Callable[[], None]) -> None:
        self._on = on
        self._off = off

    def begin(self, fault: Fault) -> None:
        self._on()

    def end(self) -> None:
        self._off()


class PostgresDrop(_Moment):
    def __init__(self, plane: PostgresPlane) -> None:
        self._plane = plane

    def begin(self, fault: Fault) -> None:
        from psycopg import OperationalError

        # One that was killed has none to end, one that stands still ends none.
        with contextlib.suppress(OperationalError):
            self._plane.server.hang_up()


def _of_postgres(plane: PostgresPlane) -> dict[str, Doer]:
    server = plane.server
    return {
        "postgres-kill": Lasting(server.kill, server.start),
        "postgres-stall": Lasting(server.freeze, server.thaw),
        "postgres-drop": PostgresDrop(plane),
    }


def doers(
    gateway: Gateway,
    moods: Moods,
    plane: object,
    disk: Disk | None,
    clock: Clock | None,
    say: Callable[[str], None],
) -> dict[str, Doer]:
    """Who does which kind; without ``disk`` nobody fills it, without ``clock`` nobody steps it."""
    acted = ("500", "503", "429", "reset", "cut", "stall")
    found: dict[str, Doer] = {
        "kill-worker": KillWorker(gateway),
        "kill-main": KillMain(gateway),
        "restart-actor": RestartActor(gateway, False, say),
        "crash-actor": RestartActor(gateway, True, say),
        "reload": Reload(gateway),
        **{f"provider-{name}": Mood(moods, f"provider-{name}") for name in acted},
        **{f"clients-{name}": Mood(moods, f"clients-{name}") for name in ("vanish", "stall")},
    }
    if disk is not None:
        found["full-disk"] = disk
    if clock is not None:
        found["clock"] = clock
    if isinstance(plane, PostgresPlane):
        found |= _of_postgres(plane)
    return found | (_of_coderd(plane) if isinstance(plane, CoderdPlane) else {})
