"""A real PostgreSQL from the system's packages, in a folder of its own, to be killed at will."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import psutil
import psycopg

from bench.availability import Absent
from bench.processes import free_port

__all__ = ["PASSWORD", "PostgresServer", "programs", "without_password"]

PASSWORD = "pa:ss/w@rd"
"""The superuser's, with all that an address must escape."""
_ESCAPED = "pa%3Ass%2Fw%40rd"

_PATIENCE = 60.0
_numbers = count(1)
_pause = threading.Event()


def programs() -> Path:
    """The folder of initdb and postgres.  Raises Absent."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name)
    found = [folder for folder in folders if (folder / "initdb").exists()]
    if found:
        return found[-1]
    on_path = shutil.which("initdb")
    if on_path is None:
        raise Absent("PostgreSQL is not installed, try: apt-get install postgresql")
    return Path(on_path).parent


def without_password(address: str) -> str:
    """The address of a server's database for who has the password from elsewhere."""
    return address.replace(f":{_ESCAPED}@", "@")


class PostgresServer:
    """One server on a port of its own.  It refuses to run as root, so it never does."""

    def __init__(self, folder: Path) -> None:
        """``folder`` must be one that everybody may enter.  Raises Absent."""
        self.port = free_port()
        self._folder = folder
        self._programs = programs()
        self._user = "postgres" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen: list[psutil.Process] = []
        if self._user is not None:
            try:
                owner = pwd.getpwnam(self._user)
            except KeyError:
                self._user = "nobody"
                owner = pwd.getpwnam(self._user)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        subprocess.run(
            [
                self._programs / "initdb",
                *("-D", folder / "data", "-U", "postgres", "-E", "UTF8", "--no-locale"),
                *("--auth", "scram-sha-256", "--pwfile", folder / "password", "--no-sync"),
            ],
            check=True,
            capture_output=True,
            user=self._user,
            cwd=folder,
        )

    def address(self, database: str = "postgres") -> str:
        """Where ``database`` is, password and all."""
        return f"postgresql://postgres:{_ESCAPED}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Make an empty database and give its address."""
        name = f"test_{next(_numbers)}"
        with self.connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.address(name)

    def connect(self, address: str = "") -> psycopg.Connection[tuple[object, ...]]:
        """A connection in autocommit mode, that closes with its block."""
        return psycopg.connect(address or self.address(), autocommit=True)

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    self._programs / "postgres",
                    *("-D", self._folder / "data", "-p", str(self.port)),
                    *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
                    # What was written survives the death of processes without it.
                    *("-c", "fsync=off", "-c", "max_connections=60"),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                user=self._user,
                cwd=self._folder,
            )
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                text = (self._folder / "log").read_text(errors="replace")[-2000:]
                assert self._process.poll() is None, text
                assert time.monotonic() < deadline, text
            _pause.wait(0.02)

    def kill(self) -> None:
        """Kill it and all its processes, as if the power had gone."""
        processes = self._all()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait()
            self._process = None
        psutil.wait_procs(processes, timeout=_PATIENCE)

    def freeze(self) -> None:
        """Let it say nothing at all, its connections open, until :meth:`thaw`."""
        self._frozen = self._all()
        for process in self._frozen:
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        """Let it go on."""
        for process in self._frozen:
            with suppress(psutil.NoSuchProcess):
                process.resume()
        self._frozen = []

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it say nothing at all while the block runs."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def hang_up(self) -> None:
        """End all connections, as an administrator does.  Raises psycopg.OperationalError when
        it does not answer."""
        with psycopg.connect(self.address(), autocommit=True, connect_timeout=2) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )

    def _all(self) -> list[psutil.Process]:
        if self._process is None:
            return []
        try:
            main = psutil.Process(self._process.pid)
            # The main one first: it would replace the others.
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
