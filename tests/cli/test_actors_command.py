"""``aigateway actors`` where no worker answers; what it shows of one that does is elsewhere."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner, Result

from aigateway.http.cli import actors
from aigateway.http.diagnosis import workers


@pytest.fixture
def folder() -> Iterator[Path]:
    # A unix socket's address has room for about a hundred bytes.
    with TemporaryDirectory(prefix="aigw-") as name:
        yield Path(name)


def run(folder: Path, *argv: str) -> Result:
    return CliRunner().invoke(actors.command, ["--runtime-dir", str(folder), *argv])


def listener(path: Path) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(str(path))
    bound.listen()
    return bound


@pytest.mark.parametrize("argv", [[], ["--trace"], ["--trace", "--json"], ["redeliver"]])
def test_without_a_gateway_the_folder_is_named(folder: Path, argv: list[str]) -> None:
    for kind in ("sock", "trace"):
        # Left behind by a worker that was killed.
        listener(folder / f"worker-1.{kind}").close()
    result = run(folder, *argv)
    assert result.exit_code == 1
    assert f"no gateway is running with the runtime folder {folder}" in result.output


def test_a_worker_that_hangs_is_named_with_the_way_to_see_where(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "TIMEOUT", 0.05)
    with listener(folder / "worker-7.sock"), listener(folder / "worker-7.trace"):
        (answer,) = json.loads(run(folder, "--json").output)
        assert answer == {
            "pid": 7,
            "error": "no answer: timed out; `aigateway actors --trace` shows where it hangs",
        }
        assert run(folder, "--trace").output == "worker 7: no answer: timed out\n"


def test_an_answer_that_is_none_is_an_error(folder: Path) -> None:
    with ExitStack() as stack:
        bound = stack.enter_context(listener(folder / "worker-7.trace"))

        def answer() -> None:
            for said in (b"", b"no JSON\n"):
                client, _ = bound.accept()
                with client:
                    client.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        assert run(folder, "--trace").output == "worker 7: the worker gave no answer\n"
        assert run(folder, "--trace").output.startswith("worker 7: no answer: ")
        thread.join()


def test_trace_is_no_option_of_a_subcommand(folder: Path) -> None:
    result = run(folder, "--trace", "redeliver")
    assert result.exit_code == 2
    assert "--trace goes without a subcommand" in result.output


def test_roles_are_whole_at_any_width(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    role = "provider/anthropic-eu-central/worker-12"
    info = {"role": role, "state": "busy", "restarts": 0, "inbox": 0, "last_error": ""}
    actor = {**info, "detail": "exchanges=311 " * 8}
    monkeypatch.setattr(actors, "ask_all", lambda *_: [(7, {"actors": [actor]})])
    for width in (240, 80):
        monkeypatch.setattr("aigateway.http.cli._tables.PIPE_WIDTH", width)
        shown = run(folder).output
        assert role in shown
        assert not set(shown) & set("│┃┏┓┗┛"), "frames are not for grep"
