"""One run: a gateway under load, the plan's faults, and the balance at the end."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from attrs import field, frozen

from bench.chaos.clients import Clients
from bench.chaos.clock import Clock, ClockUnavailable
from bench.chaos.faults import Disk, DiskUnavailable, Doer, Gateway, doers
from bench.chaos.leaks import Holdings, files_left, processes_left, too_much
from bench.chaos.ledger import DOUBT, Balance, Book, balance
from bench.chaos.moods import Moods
from bench.chaos.plan import Fault, draw_plan, kinds_for
from bench.chaos.provider import ChaosProvider
from bench.chaos.result import Result
from bench.control_planes import CoderdPlane, LocalPlane, PostgresPlane
from bench.environment import git
from bench.ledger import StoredRecord
from bench.processes import lasting_port
from bench.systems.aigateway import AiGateway
from bench.systems.base import Surroundings

__all__ = ["Chaos", "Options"]

SETTLE = 150.0
"""Seconds after the load in which records may still arrive: a deployment that does not answer is
given up after 45 s, dialled again within 10 s, and what was sent is sent again."""
STILL = 3.0
"""Seconds without a new record that count as the end."""
_TICK = 0.02
_RESTART_PAUSE = 0.1
"""Seconds before a gateway that ended is started again, as systemd does by default."""
_BREAKS = ("kill-worker", "coderd-drop", "coderd-refuse", "coderd-reset", "coderd-stall")
_PATIENCE = (
    *("--max-wait", "10s", "--first-byte-timeout", "10s", "--idle-timeout", "5s"),
    *("--connect-timeout", "5s", "--body-timeout", "20s", "--drain-timeout", "10s"),
)
"""Limits of the gateway that are short, so that a hung request is told from a patient one."""


@frozen(kw_only=True)
class Options:
    """How to run."""

    seed: int
    seconds: float
    """Of load."""
    control_plane: str = "local"
    worker_class: str = "gevent"
    workers: int = 3
    clients: int = 24
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    settle: float = field(default=SETTLE)

    def plan(self) -> tuple[Fault, ...]:
        kinds = kinds_for(self.control_plane, self.only, self.without)
        return draw_plan(self.seed, self.seconds, kinds)


class Chaos:
    """Runs once.  Call it from the main thread, which the gateway's processes die with."""

    def __init__(self, options: Options, folder: Path, say: Callable[[str], None]) -> None:
        """``folder`` is for the result, and keeps the gateway's files if something is wrong."""
        self._options = options
        self._folder = folder
        self._say = say
        self._work = folder / "work"
        self._notes: list[str] = []
        self._done: Counter[str] = Counter()
        self._skipped: dict[str, str] = {}
        self._may_double = 0
        self._moods = Moods()
        self._book = Book()
        self._interrupted = False

    def run(self) -> Result:
        """Raises Absent and StartFailed when there is no gateway to run."""
        temporary = self._work / "tmp"
        temporary.mkdir(parents=True)
        with contextlib.ExitStack() as stack:
            disk = self._disk(stack)
            clock = self._clock()
            provider = stack.enter_context(ChaosProvider(self._moods))
            system = AiGateway(
                self._options.control_plane,
                # The first of its options: so that it is found again after a restart.
                ("--http-address", f"127.0.0.1:{lasting_port()}", *_PATIENCE,
                 "--worker-class", self._options.worker_class),
            )  # fmt: skip
            running = system.start(
                Surroundings(
                    folder=self._work,
                    upstream_ports=(provider.port, provider.port),
                    workers=self._options.workers,
                    environ={"TMPDIR": str(temporary), **(clock.environ if clock else {})},
                )
            )
            plane = running.ledger
            assert isinstance(plane, LocalPlane | PostgresPlane | CoderdPlane)
            stack.callback(plane.stop)
            gateway = Gateway(running.children[0], self._work / "run")
            stack.callback(lambda: gateway.child.stop())
            before = Holdings.of(gateway.workers())
            began = datetime.now(UTC)
            clients = Clients(
                running.endpoints,
                self._options.clients,
                self._book,
                self._moods,
                self._options.seed,
            )
            clients.start()
            try:
                self._break(doers(gateway, self._moods, plane, disk, clock, self._note), gateway)
            finally:
                clients.stop()
            settle_began = time.monotonic()
            if not self._interrupted:
                self._settle(plane, gateway)
            settled = time.monotonic() - settle_began
            leaks = processes_left(gateway, self._options.workers)
            leaks += too_much(before, Holdings.of(gateway.workers()), self._options.clients)
            gateway.child.stop()
            leaks += files_left(temporary, self._work / "run")
            stored = plane.stored()
            result = self._result(stored, began, settled, leaks, gateway, provider)
        result.save(self._folder)
        if result.clean:
            shutil.rmtree(self._work, ignore_errors=True)
        return result

    def _plans(self, kind: str) -> bool:
        return any(fault.kind == kind for fault in self._options.plan())

    def _clock(self) -> Clock | None:
        if not self._plans("clock"):
            return None
        try:
            return Clock(self._work)
        except ClockUnavailable as ex:
            self._skipped["clock"] = str(ex)
            return None

    def _disk(self, stack: contextlib.ExitStack) -> Disk | None:
        if not self._plans("full-disk"):
            return None
        try:
            disk = Disk(self._work / "state")
        except DiskUnavailable as ex:
            self._skipped["full-disk"] = str(ex)
            return None
        stack.callback(disk.close)
        return disk

    def _note(self, text: str) -> None:
        self._notes.append(text)
        self._say(text)

    # -- the plan

    def _break(self, who: dict[str, Doer], gateway: Gateway) -> None:
        """Do what the plan says at its time; end all that lasts."""
        began = time.monotonic()
        todo = list(self._options.plan())
        lasting: list[tuple[float, str]] = []
        ended_at: float | None = None
        try:
            while (now := time.monotonic() - began) < self._options.seconds:
                if gateway.child.alive():
                    ended_at = None
                elif ended_at is None:
                    ended_at = now
                elif now - ended_at > _RESTART_PAUSE:
                    gateway.ensure()
                for entry in [entry for entry in lasting if entry[0] <= now]:
                    lasting.remove(entry)
                    who[entry[1]].end()
                if todo and todo[0].at <= now:
                    fault = todo.pop(0)
                    if fault.kind in self._skipped:
                        continue
                    self._say(str(fault))
                    self._count(fault)
                    who[fault.kind].begin(fault)
                    if fault.seconds:
                        lasting.append((time.monotonic() - began + fault.seconds, fault.kind))
                time.sleep(_TICK)
        except KeyboardInterrupt:
            self._interrupted = True
        finally:
            for _, kind in lasting:
                who[kind].end()

    def _count(self, fault: Fault) -> None:
        self._done[fault.kind] += 1
        # A line that stands still for less than 10 s doubles nothing.
        if fault.kind in _BREAKS and not (fault.kind == "coderd-stall" and fault.seconds < 9):
            of_one = fault.kind == "kill-worker"
            self._may_double += DOUBT * (1 if of_one else self._options.workers)

    # -- the end

    def _balance(self, stored: list[StoredRecord]) -> Balance:
        return balance(self._book.answers, stored, permitted=self._permitted)

    @property
    def _permitted(self) -> int:
        return self._may_double if self._options.control_plane == "coderd" else 0

    def _settle(self, plane: LocalPlane | PostgresPlane | CoderdPlane, gateway: Gateway) -> None:
        """Wait until all records are there and nothing waits to be sent, or no more come."""
        deadline = time.monotonic() + self._options.settle
        known, changed_at = -1, time.monotonic()
        while (now := time.monotonic()) < deadline:
            gateway.ensure()
            stored = plane.stored()
            if len(stored) != known:
                known, changed_at = len(stored), now
            elif now - changed_at > STILL and not self._balance(stored).lost:
                spooled = self._spooled(gateway)
                if not spooled:
                    return
            time.sleep(0.5)
        self._note(f"after {self._options.settle:.0f} s {self._spooled(gateway)} records wait")

    def _spooled(self, gateway: Gateway) -> int | None:
        """Records that wait in spools, dead letters included; None when workers do not say."""
        done = gateway.actors("--json")
        found = re.findall(r'(?:spooled|dead_letters)["=: ]+(\d+)', done.stdout)
        return sum(map(int, found)) if found else None

    def _result(
        self,
        stored: list[StoredRecord],
        began: datetime,
        settled: float,
        leaks: list[str],
        gateway: Gateway,
        provider: ChaosProvider,
    ) -> Result:
        statuses = Counter(
            str(answer.status) for answer in self._book.answers if answer.outcome == "refused"
        )
        return Result(
            seed=self._options.seed,
            control_plane=self._options.control_plane,
            worker_class=self._options.worker_class,
            workers=self._options.workers,
            seconds=self._options.seconds,
            faults=dict(sorted(self._done.items())),
            skipped=self._skipped,
            outcomes=self._book.outcomes(),
            statuses=dict(sorted(statuses.items())),
            provider=dict(provider.requests),
            stored=dict(Counter(record.kind for record in stored)),
            permitted=self._permitted,
            balance=self._balance(stored),
            leaks=leaks,
            exits=gateway.exits,
            stop_code=gateway.child.process.returncode,
            settle_seconds=settled,
            notes=self._notes,
            revision=git("describe", "--always", "--dirty"),
            began=began.isoformat(timespec="seconds"),
            interrupted=self._interrupted,
        )
