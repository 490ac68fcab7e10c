"""A real PostgreSQL from the system's packages, in a folder of its own, to be killed at will."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from system_programs import unavailable

from bench.availability import Absent
from bench.postgres import PASSWORD, PostgresServer, without_password

__all__ = ["PASSWORD", "PostgresServer", "postgres_server", "without_password"]


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A running server, gone with its folder after the block; a skip without its programs, in CI a
    failure."""
    folder = Path(tempfile.mkdtemp(prefix="aigw-postgres-"))
    try:
        try:
            server = PostgresServer(folder)
        except Absent as ex:
            unavailable(str(ex))
        server.start()
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
