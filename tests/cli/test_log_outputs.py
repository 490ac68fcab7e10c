"""Where lines go: several outputs, levels, other libraries, files moved, forks."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog

from aigateway.http import logs
from aigateway.http.server.gunicorn_logs import GunicornLogger
from aigateway.http.settings import Settings, SettingsError


@pytest.fixture(autouse=True)
def _undone() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level
    yield
    logs.stop_logging()
    root.setLevel(before)


def to(path: Path, **settings: object) -> None:
    logs.configure(Settings(log_human=str(path), **settings))  # type: ignore[arg-type]


def test_every_configured_output_gets_every_line(tmp_path: Path) -> None:
    names = ("human", "json", "stackdriver")
    files = {f"log_{name}": str(tmp_path / name) for name in names}
    logs.configure(Settings(**files))  # type: ignore[arg-type]
    structlog.get_logger("ai-gateway.pool").info("something happened", count=3)
    assert (
        "[info]  ai-gateway.pool: something happened  count=3\n" in (tmp_path / "human").read_text()
    )
    assert json.loads((tmp_path / "json").read_text())["fields"] == {"count": 3}
    assert json.loads((tmp_path / "stackdriver").read_text())["severity"] == "INFO"


def test_standard_error_is_the_default_output() -> None:
    program = (
        "import structlog; from aigateway.http import logs; "
        "from aigateway.http.settings import Settings; logs.configure(Settings()); "
        "structlog.get_logger('n').info('hello')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.endswith("[info]  n: hello\n")
    assert done.stdout == ""


def test_no_output_at_all_is_possible() -> None:
    logs.configure(Settings(log_human=""))
    structlog.get_logger("n").error("nobody hears")


@pytest.mark.parametrize(
    ("settings", "heard"),
    [
        ({}, []),
        ({"verbose": True}, ["one", "two"]),
        ({"log_filter": (".*",)}, ["one", "two"]),
        ({"log_filter": ("^first$",)}, ["one"]),
        ({"log_filter": ("tw",)}, ["two"]),
        ({"log_filter": ("tw",), "verbose": True}, ["two"]),
        ({"log_filter": ("nothing",)}, []),
    ],
)
def test_debug_lines_need_verbose_or_a_filter_that_matches_name_or_message(
    tmp_path: Path, settings: dict[str, object], heard: list[str]
) -> None:
    to(tmp_path / "log", **settings)
    structlog.get_logger("first").debug("one")
    logging.getLogger("second").debug("two")
    structlog.get_logger("first").info("always")
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == [*heard, "always"]


def test_other_libraries_log_into_the_same_stream(tmp_path: Path) -> None:
    before = set(logging.getLogger().handlers)
    to(tmp_path / "log")
    logging.getLogger("gunicorn.error").info("Booting worker with pid: %s", 5)
    odd = {"name": "pykka", "levelno": logging.CRITICAL, "msg": "odd %d", "args": ("args",)}
    (bridge,) = set(logging.getLogger().handlers) - before
    bridge.handle(logging.makeLogRecord(odd))
    warnings.showwarning("old thing", DeprecationWarning, "file.py", 1)
    text = (tmp_path / "log").read_text()
    assert "[info]  gunicorn: Booting worker with pid: 5\n" in text
    assert "[crit]  pykka: odd %d ('args',)\n" in text
    assert "[warn]  py.warnings: " in text


def test_libraries_whose_debug_lines_hold_credentials_stay_quiet(tmp_path: Path) -> None:
    to(tmp_path / "log", verbose=True, log_filter=(".*",))
    for name in ("botocore.auth", "urllib3.connectionpool", "websocket"):
        logging.getLogger(name).debug("Authorization: planted")
    assert (tmp_path / "log").read_text() == ""


def test_gunicorns_logger_hands_its_lines_on(tmp_path: Path) -> None:
    to(tmp_path / "log")
    log = GunicornLogger(SimpleNamespace(loglevel="info"))
    log.info("Listening at: %s", "http://127.0.0.1:4001")
    log.access(None, None, None, None)
    log.close_on_exec()
    (tmp_path / "log").rename(tmp_path / "moved")
    log.reopen_files()
    log.warning("after")
    assert "gunicorn: Listening at: http://127.0.0.1:4001\n" in (tmp_path / "moved").read_text()
    assert "gunicorn: after\n" in (tmp_path / "log").read_text()


def test_exceptions_are_logged_with_their_traceback(tmp_path: Path) -> None:
    to(tmp_path / "log")
    log = structlog.get_logger("n")
    try:
        raise ValueError("bad")
    except ValueError as ex:
        log.exception("went wrong")
        log.warning("again", exc_info=ex)
    text = (tmp_path / "log").read_text()
    assert text.count("    ValueError: bad\n") == 2
    assert "[error]  n: went wrong\n    Traceback" in text


def test_fields_bound_to_a_request_are_on_its_lines(tmp_path: Path) -> None:
    to(tmp_path / "log")
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger("n").info("inside")
    structlog.get_logger("n").info("outside")
    inside, outside = (tmp_path / "log").read_text().splitlines()
    assert inside.endswith("n: inside  request_id=r1")
    assert outside.endswith("n: outside")


# -- secrets


def test_the_secrets_of_the_settings_are_masked_everywhere(tmp_path: Path) -> None:
    settings = Settings(
        log_human="",
        log_json=str(tmp_path / "log"),
        gateway_key="planted-gateway",
        trace_honeycomb_api_key="planted-honeycomb",
        rate_limit_storage="redis://user:planted-redis@h/0",
        provider_environ={
            "CODER_AI_GATEWAY_PROVIDER_0_KEYS": "planted-one, planted-two",
            "CODER_AI_GATEWAY_PROVIDER_0_BEDROCK_ACCESS_KEY_SECRET": "planted-aws",
            "CODER_AI_GATEWAY_PROVIDER_0_Key": "planted-case",
            "HTTPS_PROXY": "http://user:planted-proxy@h",
            "CODER_AI_GATEWAY_PROVIDER_0_NAME": "not-a-secret",
        },
    )
    logs.configure(settings)
    logs.register_secret("planted-later")
    words = ["gateway", "honeycomb", "redis", "one", "two", "aws", "case", "proxy", "later"]
    logging.getLogger("n").error("not-a-secret %s", " ".join(f"planted-{w}" for w in words))
    text = (tmp_path / "log").read_text()
    assert "planted" not in text
    assert "not-a-secret" in text


# -- files


def test_a_file_that_cannot_be_opened_stops_and_changes_nothing(tmp_path: Path) -> None:
    to(tmp_path / "log")
    with pytest.raises(SettingsError) as caught:
        logs.configure(
            Settings(log_human=str(tmp_path / "other"), log_json=str(tmp_path / "no/log"))
        )
    assert str(caught.value) == f'make logger: open "{tmp_path}/no/log": No such file or directory'
    structlog.get_logger("n").info("still here")
    assert "still here" in (tmp_path / "log").read_text()


def test_a_new_configuration_takes_over_without_losing_lines(tmp_path: Path) -> None:
    log = structlog.get_logger("n")
    to(tmp_path / "one")
    log.debug("too quiet")
    to(tmp_path / "two", verbose=True)
    log.debug("now heard")
    to(tmp_path / "one")
    log.info("back again")
    assert (tmp_path / "one").read_text().endswith("n: back again\n")
    assert (tmp_path / "two").read_text().endswith("n: now heard\n")
    assert "too quiet" not in (tmp_path / "one").read_text()


def test_a_moved_file_is_opened_anew_under_the_same_number(tmp_path: Path) -> None:
    to(tmp_path / "log")
    before = set(os.listdir("/proc/self/fd"))
    structlog.get_logger("n").info("before")
    (tmp_path / "log").rename(tmp_path / "log.1")
    logs.reopen_logs()
    structlog.get_logger("n").info("after")
    assert "before" in (tmp_path / "log.1").read_text()
    assert "after" in (tmp_path / "log").read_text()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_file_that_cannot_be_reopened_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    to(folder / "log")
    folder.rename(tmp_path / "moved")
    logs.reopen_logs()
    assert "aigateway: make logger: open" in (tmp_path / "moved" / "log").read_text()


def test_log_files_are_not_for_everybody_and_not_inherited(tmp_path: Path) -> None:
    to(tmp_path / "log")
    assert (tmp_path / "log").stat().st_mode & 0o007 == 0
    done = subprocess.run(["ls", "-l", "/proc/self/fd"], capture_output=True, text=True)
    assert str(tmp_path / "log") not in done.stdout


def test_a_reader_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    logs.configure(Settings(log_human=f"/proc/self/fd/{writing}"))
    os.close(reading)
    os.close(writing)
    structlog.get_logger("n").info("into the void")


def test_a_full_pipe_drops_the_line_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_FULL_PIPE_WAIT", 0.01)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    logs._append(writing, b"x" * 200_000)
    assert 0 < len(os.read(reading, 300_000)) < 200_000
    os.close(reading)
    os.close(writing)


FORKING = """
import os, sys, structlog
from aigateway.http import logs
from aigateway.http.settings import Settings
logs.configure(Settings(log_human=sys.argv[1]))
log = structlog.get_logger("n")
children = []
for child in range(4):
    pid = os.fork()
    if pid == 0:
        for number in range(200):
            log.info("from a child", child=child, number=number, filler="x" * 300)
        os._exit(0)
    children.append(pid)
sys.exit(any(os.waitpid(pid, 0)[1] for pid in children))
"""


def test_lines_of_forked_processes_do_not_mix(tmp_path: Path) -> None:
    # In a process of its own: forking one that has threads is deprecated.
    subprocess.run([sys.executable, "-c", FORKING, str(tmp_path / "log")], check=True)
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 800
    assert all(line.endswith("filler=" + "x" * 300) for line in lines)


def test_stopping_leaves_no_trace(tmp_path: Path) -> None:
    handlers = list(logging.getLogger().handlers)
    before = set(os.listdir("/proc/self/fd"))
    to(tmp_path / "log")
    logs.stop_logging()
    assert logging.getLogger().handlers == handlers
    assert set(os.listdir("/proc/self/fd")) == before
    assert not structlog.is_configured()
