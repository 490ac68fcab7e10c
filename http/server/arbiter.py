"""gunicorn's main process, with the gateway's ways to stop, reload and replace workers.

gunicorn's own arbiter kills workers in the moment in which their time is over, waits during a
reload for the old workers, deaf to signals and to deaths, and counts old workers that are
still draining as serving ones.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import structlog
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.sock import close_sockets

from aigateway.http.server import hooks
from aigateway.http.server.ending import STOP_SIGNALS
from aigateway.http.server.last_words import LOST, LastWords
from aigateway.http.server.reloading import FileWatch
from aigateway.http.settings import Settings

__all__ = ["GatewayArbiter", "take_over"]

LAST_STEPS = 25.0
"""Seconds that a worker has beyond the shutdown timeout: to cut what still runs, to send
records that wait (10) and traces (5), and to stop its actors (4)."""
AT_ONCE = 5.0
"""Seconds until a worker that was told to end now is killed.  It needs less than two."""
LOOK = 0.05
RECORDS_LOST = 4
"""Exit code of a gateway that stops in good order but has lost records."""

log = structlog.get_logger("ai-gateway")


class GatewayArbiter(Arbiter):  # type: ignore[misc]
    """gunicorn's arbiter for gateway workers."""

    stop_signals = 0
    """How many signals to stop have come."""
    reason = ""
    """Why the gateway ends by itself."""
    lost = ""
    """What a worker has lost at its end."""
    LISTENERS: list[Any]
    killed = 0
    """Workers that did not end when they were told to."""
    reload_wanted = False
    """SIGHUP has come since the last reload began."""
    reloaded_at = 0
    """The age of the youngest worker when the last reload began."""

    @property
    def settings(self) -> Settings:
        settings: Settings = self.app.settings
        return settings

    # -- its own beginning and end

    def init_signals(self) -> None:
        """Take signals, those too that came before there was anybody to take them."""
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.SIGNALS)

    def ignore_signals(self) -> None:
        """From here on nothing is left to be told; Python puts its handlers down before the
        process is gone, and one more signal would change its exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self.SIGNALS)

    # -- workers

    def spawn_worker(self) -> Any:
        """A worker cannot miss a signal between its fork and its handlers.

        There it has a copy of this process' handlers, which only note the signal, and would
        be waited for until the timeout.  So stop signals are held back until the worker has
        handlers of its own (``init_signals``, or ``post_worker_init``).
        """
        held = signal.pthread_sigmask(signal.SIG_BLOCK, hooks.HELD_SIGNALS)
        try:
            return super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)

    def manage_workers(self) -> None:
        """Each second: bring the number of serving workers to what it should be.

        During a reload there are too many.  Old ones go when new ones serve.
        """
        self._listen_to_workers()
        serving = [each for each in self.WORKERS.values() if not _is_replaced(each)]
        for _ in range(self.num_workers - len(serving)):
            self.spawn_worker()
        ready = sorted(filter(_is_ready, serving), key=lambda worker: worker.age)
        for worker in ready[: max(0, len(ready) - self.num_workers)]:
            worker.replaced = True
            self.kill_worker(worker.pid, signal.SIGTERM)
        metrics = getattr(self.app, "metrics", None)
        if metrics is not None:
            metrics.watch()
        console = getattr(self.app, "console", None)
        if console is not None:
            console.watch()
        self._watch_files()
        self._reload_in_turn()

    def reap_workers(self) -> None:
        """Take note of workers that have ended.  Raises HaltServer for one that cannot work."""
        before = list(self.WORKERS.items())
        try:
            super().reap_workers()
        except HaltServer:
            # Before its own clean-up.
            for pid, worker in before:
                if pid not in self.WORKERS:
                    worker.tmp.close()
                    self.cfg.child_exit(self, worker)
            raise

    def _listen_to_workers(self) -> None:
        self._hear()
        if self.reason:
            raise HaltServer(self.reason, self.WORKER_BOOT_ERROR)

    def _hear(self) -> None:
        words: LastWords = self.app.last_words
        heard = words.heard()
        if heard.startswith(LOST):
            self.lost = self.lost or heard.removeprefix(LOST)
        else:
            self.reason = self.reason or heard

    def handle_usr2(self) -> None:
        """Let the workers write what they are doing.

        gunicorn would start another master beside this one; a new version of the gateway is
        rolled out by its supervisor instead.
        """
        self.kill_workers(signal.SIGUSR2)

    # -- reloading

    def handle_hup(self) -> None:
        """SIGHUP: reload, when a reload that runs is over.

        Each starts a set of workers beside those that serve, so there is one at a time.
        However many are asked for meanwhile, one follows, with the settings of then.
        """
        self.reload_wanted = True
        self._reload_in_turn()

    def _watch_files(self) -> None:
        watch: FileWatch | None = getattr(self.app, "watched_files", None)
        if watch is not None and not self.reload_wanted and (changed := watch.changed()):
            log.info("files have changed, reloading", files=changed)
            self.reload_wanted = True

    def _reload_in_turn(self) -> None:
        if self.reload_wanted and not self._is_reloading():
            self.reload_wanted = False
            self.reloaded_at = self.worker_age
            super().handle_hup()

    def _is_reloading(self) -> bool:
        """Whether workers of before still serve, or those of now not yet."""
        serving = [each for each in self.WORKERS.values() if not _is_replaced(each)]
        return any(each.age <= self.reloaded_at or not _is_ready(each) for each in serving)

    # -- stopping

    @property
    def in_a_hurry(self) -> bool:
        """Whether more than one signal to stop has come, or SIGQUIT."""
        return self.stop_signals > 1

    def signal(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal."""
        if sig in STOP_SIGNALS:
            self.stop_signals += 2 if sig == signal.SIGQUIT else 1
        super().signal(sig, frame)

    def handle_int(self) -> None:
        """SIGINT means the same as SIGTERM."""
        raise StopIteration

    def handle_quit(self) -> None:
        """SIGQUIT: :meth:`stop` knows."""
        raise StopIteration

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        """End everything, and with it this process."""
        self._hear()
        self.reason = self.reason or reason or ""
        try:
            super().halt(self.reason or None, exit_status)
        except SystemExit as ex:
            self.ignore_signals()
            self._hear()
            code = ex.code or int(self.killed > 0)
            if self.lost:
                log.error("records were lost", reason=self.lost)
                code = code or RECORDS_LOST
            raise SystemExit(code) from None

    def stop(self, graceful: bool = True) -> None:
        """End the workers: in good order, and at the next signal, or if not ``graceful``, now."""
        unlink = self.reexec_pid == self.master_pid == 0 and not self.systemd
        close_sockets(self.LISTENERS, unlink and not self.cfg.reuse_port)
        self.LISTENERS = []
        log.info("shutting down standalone AI Gateway")
        if graceful and not self.in_a_hurry:
            timeout = self.settings.shutdown_timeout + LAST_STEPS
            if self._end_workers(signal.SIGINT, timeout, lambda: self.in_a_hurry):
                return
        if self.in_a_hurry or not graceful:
            log.info("ending now")
            if self._end_workers(signal.SIGQUIT, AT_ONCE):
                return
        self.killed = len(self.WORKERS)
        log.error("worker processes did not end in time and are killed", workers=list(self.WORKERS))
        self._end_workers(signal.SIGKILL)

    def _end_workers(
        self, sig: int, timeout: float = math.inf, unless: Callable[[], bool] = lambda: False
    ) -> bool:
        """Tell the workers to end and wait for that; True when all have."""
        until = time.monotonic() + timeout
        self.kill_workers(sig)
        while self._wait_for_workers():
            if time.monotonic() > until or unless():
                return False
        return True

    def _wait_for_workers(self) -> bool:
        """Whether there are any."""
        try:
            self.reap_workers()
        except HaltServer as ex:
            # One more that could not go on: all of them end already.
            log.debug("a worker has ended", reason=ex.reason)
        if self.WORKERS:
            time.sleep(LOOK)
        return bool(self.WORKERS)


def _is_replaced(worker: object) -> bool:
    return getattr(worker, "replaced", False)


def _is_ready(worker: Any) -> bool:
    """Whether it has given a sign of life: until then its file is of a time of the calendar."""
    return bool(worker.tmp.last_update() <= time.monotonic())


def take_over(arbiter: Arbiter, settings: Settings) -> None:
    """Turn the arbiter of a gunicorn that was started by hand into the gateway's.

    gunicorn has no setting for it.
    """
    arbiter.app.settings = settings
    arbiter.app.last_words = LastWords()
    arbiter.__class__ = GatewayArbiter
