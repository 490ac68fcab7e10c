"""The control planes of aigateway: the embedded one on both its databases, and a test coderd."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import requests

from aigateway.actors.control.local.api_keys import create_key
from aigateway.actors.control.local.opening import open_address
from bench.availability import Absent, cache_folder
from bench.ledger import RecordCounts, StoredRecord
from bench.processes import CHECKOUT, Child, clean_environ

if TYPE_CHECKING:
    from bench.postgres import PostgresServer

__all__ = ["CoderdPlane", "ControlPlane", "LocalPlane", "PostgresPlane", "control_plane"]

_CLIENT_GONE = "the client left"
"""How the error of an interception begins whose client went away."""

_RPCS = {
    "RecordInterception": "interception",
    "RecordInterceptionEnded": "ended",
    "RecordPromptUsage": "prompt",
    "RecordTokenUsage": "usage",
}

_PEER = CHECKOUT / "tests" / "interop" / "peer"


class ControlPlane(Protocol):
    """What aigateway is started with, and what it is checked against."""

    name: str
    options: list[str]
    """For ``aigateway start``."""
    environ: Mapping[str, str]
    """Likewise: what must not be seen in a list of processes."""
    keys: list[str]
    """One key per user."""

    def count(self) -> RecordCounts: ...
    def stored(self) -> list[StoredRecord]: ...
    def children(self) -> list[Child]: ...
    def stop(self) -> None: ...


def control_plane(name: str, folder: Path, users: int, python: str) -> ControlPlane:
    """Start the one named ``local``, ``postgres`` or ``coderd``.  Raises Absent.

    ``python`` is the one that has the gateway: another revision makes its own database.
    """
    if name == "coderd":
        return CoderdPlane(folder, users)
    return (LocalPlane if name == "local" else PostgresPlane)(folder, users, python)


def _first_key(folder: Path, python: str, environ: Mapping[str, str]) -> str:
    """Have the gateway make its database, and a key in it.  Raises Absent."""
    made = subprocess.run(
        [python, "-m", "aigateway.http", "keys", "create", "--quiet", "user-0"],
        cwd=folder,
        env=clean_environ(**environ),
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise Absent(f"the gateway makes no key: {made.stderr.strip()[-500:]}")
    return made.stdout.strip()


_MORE_KEYS = """
import contextlib, sqlite3, sys
try:
    from aigateway.actors.control.local.api_keys import create_key
except ImportError:
    from aigateway.actors.coderd.api_keys import create_key
with contextlib.closing(sqlite3.connect(sys.argv[1])) as database, database:
    for number in range(1, int(sys.argv[2])):
        print(create_key(database, f"user-{number}").token)
"""
"""One transaction, since thousands of commands would take minutes; by the revision's own code,
whose tables are not ours."""


def _more_keys(file: Path, users: int, python: str) -> list[str]:
    """Keys of all users but the first.  Raises Absent."""
    made = subprocess.run(
        [python, "-c", _MORE_KEYS, str(file), str(users)],
        cwd=file.parent,
        env=clean_environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise Absent(f"no keys can be made: {made.stderr.strip()[-500:]}")
    return made.stdout.split()


_STORED = (
    "SELECT 'interception', id, '' FROM interceptions"
    " UNION ALL SELECT 'ended', id, '' FROM interceptions WHERE ended_at IS NOT NULL"
    " UNION ALL SELECT 'prompt', interception_id, prompt FROM user_prompts"
    " UNION ALL SELECT 'usage', interception_id, '' FROM token_usages"
)


class LocalPlane:
    """A database file; nothing runs but the gateway."""

    name = "local"

    def __init__(self, folder: Path, users: int, python: str) -> None:
        self._file = folder / "records.db"
        self.options = ["--local"]
        self.environ = {"CODER_AI_GATEWAY_LOCAL_DB": str(self._file)}
        self.keys = [_first_key(folder, python, self.environ)]
        if users > 1:
            self.keys += _more_keys(self._file, users, python)

    def count(self) -> RecordCounts:
        uri = f"{self._file.as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=30)) as db:
            interceptions, ended, gone, failed = db.execute(
                "SELECT count(*), count(ended_at), count(*) FILTER (WHERE error_message LIKE ?),"
                " count(*) FILTER (WHERE error_message NOT LIKE ?) FROM interceptions",
                (_CLIENT_GONE + "%",) * 2,
            ).fetchone()
            (prompts,) = db.execute(
                "SELECT count(DISTINCT interception_id) FROM user_prompts"
            ).fetchone()
            usages, given, taken = db.execute(
                "SELECT count(DISTINCT interception_id), coalesce(sum(input_tokens), 0),"
                " coalesce(sum(output_tokens), 0) FROM token_usages"
                " WHERE json_extract(metadata, '$.usage_complete') IS NOT 0"
            ).fetchone()
        return RecordCounts(interceptions, ended, gone, failed, prompts, usages, given, taken)

    def stored(self) -> list[StoredRecord]:
        """All records, one by one."""
        uri = f"{self._file.as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=30)) as db:
            rows = db.execute(_STORED)
            return [StoredRecord(*row) for row in rows]

    def children(self) -> list[Child]:
        return []

    def stop(self) -> None:
        """Nothing runs."""


class PostgresPlane:
    """A PostgreSQL server of its own."""

    name = "postgres"

    def __init__(self, folder: Path, users: int, python: str) -> None:
        # Those who do not use it need no driver.
        from bench.postgres import PostgresServer

        # Its own user must come to it, who may not enter the checkout.
        self._folder = Path(tempfile.mkdtemp(prefix="bench-postgres-"))
        try:
            self.server: PostgresServer = PostgresServer(self._folder)
            self.server.start()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        try:
            self._address = self.server.new_database()
            self.options = ["--local"]
            self.environ = {"CODER_AI_GATEWAY_LOCAL_DB": self._address}
            self.keys = [_first_key(folder, python, self.environ)]
            with contextlib.closing(open_address(self._address)) as database:
                more = range(1, users)
                self.keys += [create_key(database, f"user-{number}").token for number in more]
        except BaseException:
            self.stop()
            raise

    def count(self) -> RecordCounts:
        raise NotImplementedError("only single records are asked for")

    def stored(self) -> list[StoredRecord]:
        """All records, one by one."""
        with self.server.connect(self._address) as connection:
            return [StoredRecord(*map(str, row)) for row in connection.execute(_STORED)]

    def children(self) -> list[Child]:
        return []

    def stop(self) -> None:
        self.server.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


class CoderdPlane:
    """The Go program that plays coderd with coderd's own libraries (tests/interop)."""

    name = "coderd"

    def __init__(self, folder: Path, users: int) -> None:
        program = _build()
        self._child = Child(
            [str(program), "-addr", "127.0.0.1:0"], folder / "coderd.log", piped=True
        )
        try:
            assert self._child.process.stdout is not None
            ready = json.loads(self._child.process.stdout.readline())
            self._control = ready["control"]
            self._http = requests.Session()
            self._http.trust_env = False
            key_file = folder / "gateway.key"
            key_file.write_text("gateway-key")
            self.options = ["--url", ready["coderd"], "--key-file", str(key_file)]
            self.environ: Mapping[str, str] = {}
            self.keys = [f"bench{number:05d}-{uuid.uuid4().hex[:22]}" for number in range(users)]
            self._configure()
        except BaseException:
            self._child.stop()
            raise

    def _configure(self) -> None:
        owners = [
            {"key": key, "owner_id": str(uuid.uuid4()), "username": f"user-{number}"}
            for number, key in enumerate(self.keys)
        ]
        answer = self._http.patch(f"{self._control}/config", json={"users": owners}, timeout=30)
        answer.raise_for_status()

    def _records(self, rpc: str) -> list[dict[str, Any]]:
        answer = self._http.get(
            f"{self._control}/records", params={"rpc": rpc, "timeout": "0"}, timeout=120
        )
        answer.raise_for_status()
        return [entry["record"] for entry in answer.json()["records"]]

    def count(self) -> RecordCounts:
        started = {record["id"] for record in self._records("RecordInterception")}
        ends = {record["id"]: record for record in self._records("RecordInterceptionEnded")}
        errors = [str(record.get("error_message") or "") for record in ends.values()]
        gone = sum(error.startswith(_CLIENT_GONE) for error in errors)
        prompts = {record["interception_id"] for record in self._records("RecordPromptUsage")}
        usages = [
            record
            for record in self._records("RecordTokenUsage")
            if (record.get("metadata") or {}).get("usage_complete") is not False
        ]
        return RecordCounts(
            interceptions=len(started),
            ended=len(ends),
            client_gone=gone,
            failed=sum(bool(error) for error in errors) - gone,
            prompts=len(prompts),
            usages=len({record["interception_id"] for record in usages}),
            input_tokens=sum(int(record["input_tokens"]) for record in usages),
            output_tokens=sum(int(record["output_tokens"]) for record in usages),
        )

    def stored(self) -> list[StoredRecord]:
        """All records, one by one."""
        found = []
        for rpc, kind in _RPCS.items():
            for record in self._records(rpc):
                interception = record.get("interception_id") or record["id"]
                found.append(StoredRecord(kind, interception, record.get("prompt") or ""))
        return found

    def tell(self, method: str, path: str, body: object = None) -> None:
        """Have it misbehave: tests/interop/README.md has what it can be told."""
        answer = self._http.request(method, self._control + path, json=body, timeout=30)
        if answer.status_code != 200:
            raise RuntimeError(f"the test coderd does not take {method} {path}: {answer.text}")

    def children(self) -> list[Child]:
        return [self._child]

    def stop(self) -> None:
        self._http.close()
        assert self._child.process.stdin is not None
        self._child.process.stdin.close()
        self._child.stop()


def _build() -> Path:
    """Build the test coderd unless these sources were built before.  Raises Absent."""
    if not _PEER.is_dir():
        raise Absent("the test coderd's sources (tests/interop/peer) are not in this checkout")
    digest = hashlib.sha256()
    for source in sorted(_PEER.rglob("*")):
        if source.suffix in (".go", ".mod", ".sum"):
            digest.update(source.read_bytes())
    program = cache_folder() / f"coderd-{digest.hexdigest()[:16]}"
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None:
        raise Absent("the test coderd needs Go (https://go.dev/dl) on PATH to be built")
    program.parent.mkdir(parents=True, exist_ok=True)
    fresh = program.with_suffix(f".{os.getpid()}")
    built = subprocess.run(
        [go, "build", "-trimpath", "-buildvcs=false", "-o", str(fresh), "."],
        cwd=_PEER,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if built.returncode:
        raise Absent(f"the test coderd could not be built: {built.stdout[-500:]}")
    fresh.replace(program)
    return program
