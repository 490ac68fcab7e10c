"""Ask the workers of a running gateway, through their sockets in its runtime folder."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["NoGateway", "ask_all", "traces"]

TIMEOUT = 6.0
"""Seconds to wait for a worker's answer."""
HANGS = "`aigateway actors --trace` shows where it hangs"


class NoGateway(Exception):
    """No worker answers in this runtime folder; the text says what to do."""


def traces(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """What each worker of the gateway with this runtime folder does, as
    :class:`~aigateway.http.diagnosis.snapshot.Snapshot` in JSON, or ``error``.

    Raises NoGateway when no worker is there.
    """
    return _each(folder, "trace", None, lambda path: _connect(path, b""))


def ask_all(
    folder: Path, question: dict[str, Any], only: int | None, patience: float = TIMEOUT
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Put a question to each worker of the gateway with this runtime folder, or to ``only`` one.

    ``patience`` in seconds for each answer.

    Yields its process id and its answer, which has ``error`` when there was none.  Raises
    NoGateway when no worker is there.
    """
    line = json.dumps(question).encode() + b"\n"
    return _each(folder, "sock", only, lambda path: _connect(path, line, patience))


def _each(
    folder: Path, kind: str, only: int | None, ask: Callable[[Path], dict[str, Any]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    sockets = sorted(folder.glob(f"worker-*.{kind}")) if folder.is_dir() else []
    answered = False
    for path in sockets:
        pid = int(path.stem.removeprefix("worker-"))
        if only is not None and pid != only:
            continue
        try:
            answer = ask(path)
        except ConnectionRefusedError:
            # Nobody listens: a worker that was killed with all the rest has left it behind.
            continue
        except TimeoutError as ex:
            answer = {"error": f"no answer: {ex}" + ("" if kind == "trace" else f"; {HANGS}")}
        except (OSError, ValueError) as ex:
            answer = {"error": f"no answer: {ex}"}
        answered = True
        yield pid, answer
    if not answered:
        raise NoGateway(
            f"no gateway is running with the runtime folder {folder}; set --runtime-dir as it was"
            " set for `aigateway start`"
        )


def _connect(path: Path, question: bytes, patience: float = TIMEOUT) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(patience)
        client.connect(str(path))
        if question:
            # Even nothing cannot be sent to one that has said all and gone.
            client.sendall(question)
        with client.makefile("rb") as lines:
            answer = json.loads(lines.readline() or b'{"error": "the worker gave no answer"}')
    assert isinstance(answer, dict)
    return answer
