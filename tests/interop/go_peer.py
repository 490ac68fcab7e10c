"""A coderd for tests, made of coderd's own libraries: build it, run it, tell it what to do.

``README.md`` beside this file describes the program and its control API.
"""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import requests
from go_program import build

__all__ = ["SOURCES", "CoderdControl", "GoPeer"]

SOURCES = Path(__file__).with_name("peer")
WAIT = 10.0
"""Seconds that a question with a condition waits, unless told otherwise."""

Json = Any


class CoderdControl:
    """The control API of a test coderd, one method for each thing it can be told or asked.

    Questions with a condition (``at_least``, ``open``) wait for it and raise AssertionError
    when ``timeout`` seconds pass without it.
    """

    def __init__(self, control: str) -> None:
        self.control = control.rstrip("/")
        self._http = requests.Session()
        self._http.trust_env = False

    def close(self) -> None:
        self._http.close()

    def _call(self, method: str, path: str, body: Json = None, **query: Json) -> Json:
        query = {name: value for name, value in query.items() if value is not None}
        answer = self._http.request(
            method,
            self.control + path,
            json=body,
            params=query,
            timeout=query.get("timeout", 0) + 30,
        )
        reply = answer.json()
        assert answer.status_code == 200, f"{method} {path}: {reply.get('error')}"
        return reply

    def _ask(self, name: str, **query: Json) -> list[Json]:
        reply = self._call("GET", f"/{name}", **{"timeout": WAIT, **query})
        assert not reply["timed_out"], f"{name}: waited for {query}, have {reply[name]}"
        found: list[Json] = reply[name]
        return found

    # What the deployment is.

    def reset(self) -> None:
        """Drop every session and go back to the state at start."""
        self._call("POST", "/reset")

    def config(self) -> dict[str, Json]:
        config: dict[str, Json] = self._call("GET", "/config")
        return config

    def configure(self, *, signal: bool = True, check: bool = True, **parts: Json) -> None:
        """Replace these parts of the configuration.  ``signal``: tell those who watch the
        providers; ``check``: end the sessions whose gateway key is gone."""
        flags = {"signal": str(signal).lower(), "check": str(check).lower()}
        self._call("PATCH", "/config", parts, **flags)

    def server(self, **settings: Json) -> None:
        """Change version, paths, licensed, build_version or authorization_codes."""
        self.configure(server=settings)

    def add_gateway_key(self, key: str) -> None:
        self.configure(gateway_keys=[*self.config()["gateway_keys"], key])

    def delete_gateway_key(self, key: str, *, check: bool = True) -> None:
        """Without ``check`` the sessions of this key live until their next heartbeat."""
        keys = [other for other in self.config()["gateway_keys"] if other != key]
        self.configure(gateway_keys=keys, check=check)

    def add_user(self, key: str, owner_id: str, username: str, **more: Json) -> None:
        """Add an API key (``<id>-<secret>``) with its owner; ``more``: email, workspace_id,
        expired, state, models."""
        user = {"key": key, "owner_id": owner_id, "username": username, **more}
        self.configure(users=[*self.config()["users"], user])

    def set_budget(self, user_id: str, exceeded: bool, spend_limit_micros: int | None) -> None:
        """``spend_limit_micros``: None is no limit, 0 is blocked."""
        budget = {"exceeded": exceeded, "spend_limit_micros": spend_limit_micros}
        self.configure(budgets={**self.config()["budgets"], user_id: budget})

    def set_providers(
        self, providers: Sequence[Mapping[str, Json]], *, signal: bool = True
    ) -> None:
        self.configure(providers=list(providers), signal=signal)

    def set_mcp(self, **mcp: Json) -> None:
        """Replace the MCP configuration: coder, servers, tokens, errors."""
        self.configure(mcp=mcp)

    # What it has seen.

    def records(
        self,
        rpc: str | None = None,
        interception_id: str | None = None,
        *,
        at_least: int = 0,
        timeout: float = WAIT,
    ) -> list[dict[str, Json]]:
        """The records that were stored, in order."""
        query = {"rpc": rpc, "interception_id": interception_id, "min": at_least}
        return self._ask("records", timeout=timeout, **query)

    def calls(
        self,
        rpc: str | None = None,
        state: str | None = None,
        *,
        at_least: int = 0,
        timeout: float = WAIT,
    ) -> list[dict[str, Json]]:
        """Every call of a known RPC, in order; ``state``: running, stalled, done, error,
        cancelled or faulted."""
        return self._ask("calls", timeout=timeout, rpc=rpc, state=state, min=at_least)

    def sessions(
        self, *, open: int | None = None, at_least: int = 0, timeout: float = WAIT
    ) -> list[dict[str, Json]]:
        """Every session, open or not.  ``open`` waits until exactly so many are open."""
        return self._ask("sessions", timeout=timeout, open=open, min=at_least)

    def upgrades(self, *, at_least: int = 0, timeout: float = WAIT) -> list[dict[str, Json]]:
        """Every request for the endpoint with the status that it got; 0: no answer."""
        return self._ask("upgrades", timeout=timeout, min=at_least)

    def delete_records(self) -> None:
        """Forget the records and calls so far; the interceptions stay known."""
        self._call("DELETE", "/records")

    def descriptor(self) -> bytes:
        """The serialized FileDescriptorProto that the peer was compiled with."""
        return base64.b64decode(self._call("GET", "/descriptor")["file_descriptor"])

    # What goes wrong.

    def refuse_upgrades(
        self,
        status: int,
        body: Json = None,
        *,
        text: str = "",
        headers: Mapping[str, str] | None = None,
        times: int = 0,
        skip: int = 0,
    ) -> None:
        """Answer the endpoint with this status, and a JSON body or a plain text."""
        fault = {"status": status, "body": body, "text": text, "headers": dict(headers or {})}
        self._add_fault("upgrade", {**fault, "times": times, "skip": skip})

    def disturb_upgrades(
        self, action: str, *, delay: float = 0, times: int = 0, skip: int = 0
    ) -> None:
        """``hang`` (until released), ``reset`` or ``delay`` (seconds) upgrade requests."""
        fault = {"action": action, "delay_ms": round(delay * 1000), "times": times, "skip": skip}
        self._add_fault("upgrade", fault)

    def disturb(
        self,
        rpc: str,
        action: str = "",
        *,
        text: str = "",
        code: int = 0,
        delay: float = 0,
        when: str = "before",
        match: Mapping[str, Json] | None = None,
        skip: int = 0,
        times: int = 1,
    ) -> None:
        """Disturb calls of ``rpc`` (a method name or a pattern): ``error``, ``stall``,
        ``fin``, ``empty``, ``drop``, or only a delay in seconds.  The first ``skip`` matching
        calls are spared, then ``times`` are hit (0: all)."""
        fault = {"rpc": rpc, "action": action, "text": text, "code": code, "when": when}
        fault |= {"delay_ms": round(delay * 1000), "match": dict(match or {})}
        self._add_fault("rpc", {**fault, "skip": skip, "times": times})

    def reject_record(self, rpc: str, nth: int, text: str, code: int = 0) -> None:
        """Answer the ``nth`` call of ``rpc`` from now on (1: the next) with an error."""
        self.disturb(rpc, "error", text=text, code=code, skip=nth - 1)

    def _add_fault(self, kind: str, fault: Json) -> None:
        self._call("POST", "/faults", {kind: [fault]})

    def faults(self) -> dict[str, Json]:
        faults: dict[str, Json] = self._call("GET", "/faults")
        return faults

    def clear_faults(self) -> None:
        """Remove every rule and release what is stalled."""
        self._call("DELETE", "/faults")

    def release(self) -> None:
        """Let stalled calls go on, and hanging upgrades end."""
        self._call("POST", "/release")

    def close_listener(self) -> None:
        """Refuse TCP connections from now on; open sessions stay."""
        self._call("POST", "/listener", {"open": False})

    def open_listener(self) -> None:
        self._call("POST", "/listener", {"open": True})

    # What happens to sessions that are open: all of them, or the one with this number.

    def _act(self, what: str, session: int | None, **body: Json) -> list[Json]:
        reply = self._call("POST", f"/sessions/{what}", {"session": session, **body})
        outcomes: list[Json] = reply["sessions"]
        return outcomes

    def drop(
        self, how: str = "reset", session: int | None = None, *, code: int = 0, reason: str = ""
    ) -> None:
        """End sessions: ``reset`` (RST), ``fin`` (TCP end), ``cancel`` (as coderd does when a
        key is deleted), ``yamux`` (session close) or ``close`` (WebSocket close code)."""
        self._act("drop", session, how=how, code=code, reason=reason)

    def stall(self, session: int | None = None) -> None:
        """Let no bytes in or out, without a sign of it."""
        self._act("stall", session, stalled=True)

    def unstall(self, session: int | None = None) -> None:
        self._act("stall", session, stalled=False)

    def go_away(self, session: int | None = None) -> None:
        """Send yamux GoAway(0)."""
        self._act("goaway", session)

    def ping(self, session: int | None = None) -> list[dict[str, Json]]:
        """Ping over yamux; each result has ``rtt_us`` or ``error``."""
        return self._act("ping", session)

    def check_keys(self, session: int | None = None) -> None:
        """Do the heartbeat now."""
        self._act("check", session)

    def inject(self, raw: bytes, session: int | None = None, *, text: bool = False) -> None:
        """Send one WebSocket message with these bytes, between the session's own."""
        self._act("inject", session, hex=raw.hex(), text=text)

    def signal_watchers(self, *, at_least: int = 0, timeout: float = WAIT) -> int:
        """Tell those who watch the providers that they changed; says how many."""
        reply = self._call("POST", "/providers/signal", min=at_least, timeout=timeout)
        watchers: int = reply["watchers"]
        return watchers

    def end_watches(self, error: str = "", code: int = 0) -> None:
        """End the provider watches, with an error when one is given."""
        self._call("POST", "/providers/end", {"error": error, "code": code})


class GoPeer(CoderdControl):
    """A running peer process.  Use it as a context manager, or call :meth:`stop`."""

    url: str
    """Base address of the deployment, as in ``--url``."""
    port: int

    def __init__(
        self,
        *,
        port: int = 0,
        keepalive: float = 30.0,
        write_timeout: float = 10.0,
        heartbeat: float = 60.0,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        """Start it.  Times in seconds; ``tls``: PEM files of a certificate and its key."""
        command = [str(build(SOURCES, "coderd-peer")), "-addr", f"127.0.0.1:{port}"]
        command += ["-keepalive", f"{keepalive}s", "-write-timeout", f"{write_timeout}s"]
        command += ["-heartbeat", f"{heartbeat}s"]
        if tls:
            command += ["-tls-cert", str(tls[0]), "-tls-key", str(tls[1])]
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in stop)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise RuntimeError(f"the Go peer did not start: {self.log()}")
        ready = json.loads(line)
        self.pid = self._process.pid
        self.url = ready["coderd"]
        self.port = ready["coderd_port"]
        super().__init__(ready["control"])

    def log(self) -> str:
        """What the process wrote to its standard error so far."""
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")

    def stop(self) -> None:
        """End the process; it exits when its standard input ends."""
        self.close()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._stderr.close()

    def __enter__(self) -> GoPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
