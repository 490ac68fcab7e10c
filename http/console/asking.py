"""How the gateways are: what their workers say, from wherever a console can hear it.

With a local database that is the board in it (:mod:`~aigateway.actors.control.local.board`), for
all gateways that share it, on whichever machine they are.  With a Coder deployment there is no such
database: then it is the sockets of this machine's gateway.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from attrs import frozen

from aigateway.actors.control.local import board
from aigateway.http.console.records import Away, Records
from aigateway.http.diagnosis.workers import NoGateway, ask_all, traces

__all__ = ["Answers", "Gateways", "OnTheBoard", "Said", "ThisMachine"]

_FRESH: Final = 0.8
"""Seconds for which an answer serves all who look: a little less than the beat of a page."""
_DIAL_PATIENCE: Final = 50.0
"""Seconds: a provider may be asked twice, and its list read, each for 15 s."""
_PATIENCE: Final = 8.0
"""Seconds for a command that an actor answers."""

_LOOKING: Final = 30.0
"""Seconds for which gateways go on telling after the last page was made."""
_LOOK_AGAIN: Final = 15.0
"""Seconds after which that is written again, while somebody looks."""
_HEAR: Final = 1.5
"""Seconds in which gateways that nobody looked at have read that somebody does, and answered."""
_RECENT: Final = 1.2
"""Seconds after which a worker that is looked at should have told again."""
_SILENT: Final = 6.0
"""Seconds without a word after which a worker that is looked at counts as silent."""
_ABSENT: Final = 2 * board.SIGN_EVERY + 5
"""The same for one that was not looked at before."""
_POLL: Final = 0.05
"""Seconds between two looks for an answer that is awaited."""


@frozen
class Said:
    """What one worker process said, or that it says nothing."""

    id: str
    """Of the worker, in addresses."""
    pid: int
    said: Mapping[str, Any]
    gateway: str = ""
    """Of which gateway; all of one have the same."""
    host: str = ""
    address: str = ""
    silent: float | None = None
    """Seconds since its last sign of life, where it should have given one; else None."""

    @property
    def error(self) -> str:
        return str(self.said.get("error") or "")


@frozen
class Answers:
    """What the workers said to one question, by gateway."""

    workers: tuple[Said, ...] = ()
    trouble: str = ""
    """Why there is none that speaks."""

    @property
    def speaking(self) -> list[Said]:
        return [each for each in self.workers if each.silent is None]

    @property
    def silent(self) -> list[Said]:
        return [each for each in self.workers if each.silent is not None]

    @property
    def errors(self) -> list[tuple[Said, str]]:
        return [(each, each.error) for each in self.speaking if each.error]

    @property
    def gateways(self) -> list[Sequence[Said]]:
        """The workers of each gateway."""
        found: dict[str, list[Said]] = {}
        for each in self.workers:
            found.setdefault(each.gateway, []).append(each)
        return list(found.values())


class Gateways(Protocol):
    """Whoever can be asked."""

    stored: bool
    """Whether they are heard through the database."""

    def ask(self, subject: str, *, patient: bool = True) -> Answers:
        """What they say to ``list``, ``requests`` or ``providers``; ``patient``: waits for those
        that were not asked before."""

    def expect(self) -> None:
        """Somebody may soon ask for any of that."""

    def command(self, question: Mapping[str, Any], worker: str) -> Mapping[str, Any]:
        """What the worker with this id says to a command; ``error`` when it cannot."""

    def trace(self, worker: str) -> Mapping[str, Any]:
        """What the worker with this id does at this moment, as a
        :class:`~aigateway.http.diagnosis.snapshot.Snapshot` in JSON, or ``error``."""

    def dumped(self, interception_id: str) -> Sequence[Mapping[str, Any]]:
        """What was written of a request, on whichever machine, as
        :func:`~aigateway.http.diagnosis.dumps.dumped` has it."""

    def dial(self, provider: str) -> Mapping[str, Any]:
        """What a worker hears from a provider that it asks for its models; ``error`` when none
        can."""


class _Kept:
    """Asks each question once for all who want to know at the same moment."""

    def __init__(self) -> None:
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._answers: dict[str, tuple[float, Answers]] = {}

    def asked(self, subject: str, ask: Callable[[], Answers]) -> Answers:
        with self._locks[subject]:
            at, kept = self._answers.get(subject, (0.0, Answers()))
            if at and time.monotonic() - at < _FRESH:
                return kept
            answers = ask()
            self._answers[subject] = (time.monotonic(), answers)
            return answers

    def forget(self) -> None:
        """What was kept is not so any more."""
        self._answers.clear()


class ThisMachine:
    """This machine's gateway, asked through its workers' sockets."""

    stored = False

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._kept = _Kept()

    def ask(self, subject: str, *, patient: bool = True) -> Answers:
        return self._kept.asked(subject, lambda: self._asked(subject))

    def expect(self) -> None:
        pass

    def command(self, question: Mapping[str, Any], worker: str) -> Mapping[str, Any]:
        try:
            ((_pid, said),) = ask_all(self.folder, dict(question), int(worker))
        except NoGateway as ex:
            return {"error": str(ex)}
        self._kept.forget()
        return said

    def trace(self, worker: str) -> Mapping[str, Any]:
        try:
            found = [said for pid, said in traces(self.folder) if str(pid) == worker]
        except NoGateway as ex:
            return {"error": str(ex)}
        return found[0] if found else {"error": "there is no such worker any more"}

    def dumped(self, interception_id: str) -> Sequence[Mapping[str, Any]]:
        return ()

    def dial(self, provider: str) -> Mapping[str, Any]:
        question = {"command": "dial", "provider": provider}
        try:
            _pid, said = next(ask_all(self.folder, question, None, _DIAL_PATIENCE))
        except NoGateway as ex:
            return {"error": str(ex)}
        return said

    def _asked(self, subject: str) -> Answers:
        try:
            told = ask_all(self.folder, {"command": subject}, None)
            return Answers(tuple(Said(str(pid), pid, said) for pid, said in told))
        except NoGateway as ex:
            return Answers(trouble=str(ex))


class OnTheBoard:
    """All gateways that share a database."""

    stored = True

    def __init__(self, records: Records) -> None:
        self._records = records
        self._lock = threading.Lock()
        self._looks: dict[str, _Look] = {}
        self._kept = _Kept()

    def ask(self, subject: str, *, patient: bool = True) -> Answers:
        return self._kept.asked(subject, lambda: self._asked(subject, patient))

    def expect(self) -> None:
        # Who asks is told.
        with contextlib.suppress(Away):
            self._look(list(board.SUBJECTS))

    def command(self, question: Mapping[str, Any], worker: str) -> Mapping[str, Any]:
        said = self._commanded(worker, question, _PATIENCE)
        self._kept.forget()
        return said

    def trace(self, worker: str) -> Mapping[str, Any]:
        return self._commanded(worker, {"command": "trace"}, _PATIENCE)

    def dumped(self, interception_id: str) -> Sequence[Mapping[str, Any]]:
        # One worker of each gateway will do: they have the same folder.
        one_each = {each.gateway: each.id for each in self.ask("list").speaking}
        question = {"command": "dump", "id": interception_id}
        for said in self._commanded_all(list(one_each.values()), question, _PATIENCE):
            if files := said.get("files"):
                return list(files)
        return ()

    def dial(self, provider: str) -> Mapping[str, Any]:
        speaking = self.ask("providers").speaking
        for each in speaking:
            if any(told["name"] == provider for told in each.said.get("providers", ())):
                question = {"command": "dial", "provider": provider}
                return self._commanded(each.id, question, _DIAL_PATIENCE)
        return {"error": "no gateway has such a provider"}

    def _asked(self, subject: str, patient: bool) -> Answers:
        try:
            return self._heard(subject, self._look([subject])[subject], patient)
        except Away as ex:
            return Answers(trouble=f"the gateways cannot be heard: {ex}")

    def _look(self, subjects: Sequence[str]) -> Mapping[str, _Look]:
        """Have it noted that somebody looks, when that is due."""
        now = time.monotonic()
        with self._lock:
            looks = {each: self._looks.get(each) for each in subjects}
        due = [each for each, look in looks.items() if look is None or look.again < now]
        if due:
            with self._records.writing() as database:
                board.look(database, due, _LOOKING)
            now = time.monotonic()
        with self._lock:
            for each in due:
                look = looks[each]
                since = now if look is None or look.until < now else look.since
                self._looks[each] = _Look(since, now + _LOOK_AGAIN, now + _LOOKING)
            return {each: self._looks[each] for each in subjects}

    def _heard(self, subject: str, look: _Look, patient: bool) -> Answers:
        with self._records.reading() as database:
            lines = board.reports(database, subject)
        while patient:
            looking = time.monotonic() - look.since
            if looking > _HEAR or all(
                line.age > _ABSENT
                or (line.report_age is not None and line.report_age < looking + _RECENT)
                for line in lines
            ):
                break
            time.sleep(_POLL)
            # Each time anew: one transaction would see one moment.
            with self._records.reading() as database:
                lines = board.reports(database, subject)
        looking = time.monotonic() - look.since
        workers = tuple(_said(line, looking) for line in lines)
        if any(each.silent is None for each in workers):
            return Answers(workers)
        return Answers(
            workers,
            "no gateway runs with this database; start one with `aigateway start --local` and the"
            " same --local-db",
        )

    def _commanded(
        self, worker: str, question: Mapping[str, Any], patience: float
    ) -> Mapping[str, Any]:
        try:
            for said in self._commanded_all([worker], question, patience):
                return said
        except Away as ex:
            return {"error": str(ex)}
        return {"error": f"the worker did not answer within {patience:g} s"}

    def _commanded_all(
        self, workers: Sequence[str], question: Mapping[str, Any], patience: float
    ) -> Iterator[Mapping[str, Any]]:
        """What they answer, as it comes; nothing of those that do not in time.  Raises Away."""
        with self._records.writing() as database:
            waiting = {board.command(database, each, question, patience) for each in workers}
        asked = frozenset(waiting)
        until = time.monotonic() + patience
        try:
            while waiting and time.monotonic() < until:
                time.sleep(_POLL)
                with self._records.reading() as database:
                    found = {each: board.answered(database, each) for each in waiting}
                for each, said in found.items():
                    if said is not None:
                        waiting.remove(each)
                        yield said
        finally:
            with self._records.writing() as database:
                for each in asked:
                    board.forget(database, each)


@frozen
class _Look:
    """Since when somebody looks at a subject, in monotonic seconds."""

    since: float
    again: float
    """When that is to be written again."""
    until: float
    """For how long gateways know of it."""


def _said(line: board.Line, looking: float) -> Said:
    """``looking`` is for how many seconds somebody has looked."""
    limit = _SILENT if looking > _SILENT else _ABSENT
    worker = line.worker
    # What was said when somebody else looked is no answer.
    fresh = line.report_age is not None and line.report_age < limit
    return Said(
        id=worker.id,
        pid=worker.pid,
        said=line.report if fresh else {"error": "it has not answered yet"},
        gateway=worker.gateway,
        host=worker.host,
        address=worker.address,
        silent=line.age if line.age > limit else None,
    )
