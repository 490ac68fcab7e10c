"""Child processes that do not outlive the benchmark, whatever ends it.

Each child leads a session of its own: Ctrl-C reaches the benchmark only, which then stops
the children in good order.  A child gets SIGTERM from the kernel when the benchmark is
killed, and orphans of children become the benchmark's own, so that they are found.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Self

from bench.machine import ProcessTable

__all__ = [
    "CHECKOUT",
    "Child",
    "TooFewFiles",
    "adopt_orphans",
    "allow_files",
    "clean_environ",
    "free_port",
    "in_order",
    "lasting_port",
    "running",
]

CHECKOUT = Path(__file__).parent.parent
"""Where ``python -m bench`` works, and its parts as processes of their own."""

STOP_LIMIT = 15.0
"""Seconds that a child has to stop after SIGTERM before it is killed."""

_FILES_BESIDE = 1000
"""Files that a process has besides its connections."""

_PR_SET_CHILD_SUBREAPER = 36


class TooFewFiles(Exception):
    """The system lets no process have as many files open as are needed."""


def adopt_orphans() -> None:
    """Become the parent of grandchildren whose parent dies, so that none can escape."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def allow_files(count: int) -> None:
    """Let this process and all that it starts from now on have so many files open each.

    Raises TooFewFiles when the system does not give so many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _FILES_BESIDE
    if hard != resource.RLIM_INFINITY and hard < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard < wanted:
            raise TooFewFiles(
                f"a process needs {wanted} open files and may have {hard} (ulimit -Hn)"
            )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def clean_environ(**more: str) -> dict[str, str]:
    """The caller's environment without proxies and without what would configure a gateway."""
    foreign = ("CODER_", "GUNICORN_", "PROMETHEUS_", "LITELLM_", "PORTKEY_", "NODE_OPTIONS")
    proxies = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(foreign) and name.lower() not in proxies
    }
    return {**kept, **more}


@contextlib.contextmanager
def in_order() -> Iterator[None]:
    """Let a signal end the run in good order, once, and leave no process behind."""

    def stop(_number: int, _frame: object) -> NoReturn:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)
    adopt_orphans()
    try:
        yield
    finally:
        for pid in ProcessTable.read().tree(os.getpid()):
            if pid != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _dying_with_parent() -> list[str]:
    """What to put before a command so that the kernel ends it when the benchmark is killed."""
    # util-linux; it replaces itself by the command.  A preexec_fn would not do in a process
    # with threads.
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def lasting_port() -> int:
    """A free TCP port of 127.0.0.1 that stays free while its server is being started again.

    Outgoing connections get their ports from a range of the kernel's; one that was closed keeps
    its port from being listened on for a minute.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(lowest // 2, lowest), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no port below {lowest} is free")


class Child:
    """A process with all its descendants.  Its standard error goes to ``log``.

    Start it from the main thread: the kernel ends it with the thread that started it.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        piped: bool = False,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        """``piped`` gives standard input and output to the caller; else both are the log's."""
        self.command = list(command)
        self.log = log
        self._cwd = cwd
        self._env = dict(env) if env is not None else None
        self._piped = piped
        self._stop_signal = stop_signal
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [*_dying_with_parent(), *self.command],
                cwd=cwd,
                env=self._env,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else errors,
                stderr=errors,
                start_new_session=True,
            )
        self.pid = self.process.pid

    def again(self) -> Child:
        """The same command, started once more; this one must have ended."""
        return Child(
            self.command,
            self.log,
            cwd=self._cwd,
            env=self._env,
            piped=self._piped,
            stop_signal=self._stop_signal,
        )

    def alive(self) -> bool:
        return self.process.poll() is None

    def last_words(self, lines: int = 15) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def members(self) -> list[int]:
        """The process ids of its whole tree, orphans of its session included."""
        return ProcessTable.read().tree(self.pid)

    def stop(self) -> None:
        """Stop the whole tree; kill what is left after a while."""
        members = set(self.members())
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(self._stop_signal)
        deadline = time.monotonic() + STOP_LIMIT
        while time.monotonic() < deadline:
            self.process.poll()
            members |= set(self.members())
            if not any(running(pid) for pid in members):
                break
            time.sleep(0.02)
        for pid in members:
            if running(pid):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        _reap(members)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.stop()


def running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def _reap(pids: set[int]) -> None:
    """Wait for adopted orphans, lest they stay as zombies."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError, OSError):
            os.waitpid(pid, os.WNOHANG)
