"""gunicorn started by hand with our configuration is a gateway like any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_coderd import FakeCoderd
from gateway_process import GatewayProcess, message_of
from held import APIS, HeldClients, HeldProvider, ask, is_whole
from raw_client import RawClient
from stops import (
    Start,
    check_answers,
    check_records,
    hang_up,
    press_ctrl_c,
    terminate,
    wait_for_drain,
)


class ByHand(GatewayProcess):
    """The same gateway without ``aigateway start``; the options are gunicorn's."""

    def __init__(self, folder: Path, upstreams: Any, options: Any, **more: Any) -> None:
        super().__init__(folder, upstreams, **more)
        self.arguments = list(options)
        self.yaml = folder / "gateway.yaml"
        self.yaml.write_text("{}")
        flags = self._options
        named = {flags[n]: flags[n + 1] for n in range(len(flags) - 1)}
        self._environ.update(
            {
                "CODER_CONFIG_PATH": str(self.yaml),
                "CODER_AI_GATEWAY_LOCAL": str("--local" in flags).lower(),
                "CODER_AI_GATEWAY_LOCAL_DB": str(self.database),
                "CODER_AI_GATEWAY_HTTP_ADDRESS": named["--http-address"],
                "CODER_AI_GATEWAY_STATE_DIR": named["--state-dir"],
                "CODER_AI_GATEWAY_RUNTIME_DIR": named["--runtime-dir"],
                "CODER_AI_GATEWAY_WORKERS": named["--workers"],
                "CODER_LOGGING_JSON": named["--log-json"],
                **more.get("environ", {}),
            }
        )

    def start_command(self) -> list[str]:
        conf = "python:aigateway.http.server.conf"
        app = "aigateway.http.app:create_app()"
        return [sys.executable, "-m", "gunicorn", "-c", conf, app, *self.arguments]


def test_our_log_settings_hold_for_all_that_is_logged(
    tmp_path: Path, start: Start, provider: HeldProvider
) -> None:
    google, settings = tmp_path / "google.json", tmp_path / "gateway.yaml"
    logging = {"humanPath": "", "stackdriverPath": str(google), "filter": ["Arbiter booted"]}
    settings.write_text(yaml.safe_dump({"introspection": {"logging": logging}}))
    environ = {"CODER_CONFIG_PATH": str(settings)}
    # gunicorn's own option says nothing here.
    gateway = start("--log-level", "critical", kind=ByHand, environ=environ)
    with RawClient(gateway) as client:
        client.post(APIS["messages"], ask(model="any"))
        assert client.answer().status == 200
    gateway.stop()
    lines = gateway.logs()
    # The main process, the worker, gunicorn itself: all in one stream.
    messages = [message_of(line) for line in lines]
    for text in ("standalone AI Gateway listening", "request", "standalone AI Gateway stopped"):
        assert text in messages
    assert any(text.startswith("Starting gunicorn") for text in messages)
    assert [message_of(x) for x in lines if x["level"] == "DEBUG"] == ["Arbiter booted"]
    assert len(google.read_text().splitlines()) == len(lines)
    assert json.loads(google.read_text().splitlines()[-1])["message"] == messages[-1]
    assert gateway.stderr() == ""


def test_it_drains_and_cuts_as_ours_does(start: Start, provider: HeldProvider) -> None:
    gateway = start(kind=ByHand)
    with HeldClients(gateway, 10, 3, provider=provider, apis=tuple(APIS)) as held:
        terminate(gateway)
        wait_for_drain(gateway)
        press_ctrl_c(gateway)
        answers = held.answers()
    gateway.stop(None)
    check_answers(answers, 10)
    check_records(gateway, answers)


def test_it_reloads_without_a_cut_and_logs_as_the_file_says_from_then_on(
    tmp_path: Path, start: Start, provider: HeldProvider
) -> None:
    later = tmp_path / "later.json"
    gateway = start(kind=ByHand, workers=2)
    assert isinstance(gateway, ByHand)
    with HeldClients(gateway, 20, provider=provider) as held:
        settings = {"ai_gateway": {"max_body_size": "2KiB"},
                    "introspection": {"logging": {"stackdriverPath": str(later)}}}  # fmt: skip
        gateway.yaml.write_text(yaml.safe_dump(settings))
        hang_up(gateway)
        with RawClient(gateway) as client:
            client.post(APIS["messages"], b"x" * 3000)
            assert client.answer().status == 413
        provider.go_on()
        assert all(is_whole(api, answer) for api, answer in held.answers())
    gateway.stop()
    written = [json.loads(line)["message"] for line in later.read_text().splitlines()]
    assert "standalone AI Gateway stopped" in written
    assert "request" in written


def test_a_refused_gateway_key_ends_it_with_the_reason(start: Start) -> None:
    with FakeCoderd() as coderd:
        coderd.refuse(401, {"message": "Refused for a test."})
        environ = {"CODER_URL": coderd.url, "CODER_AI_GATEWAY_KEY": "gateway-key"}
        gateway = start(kind=ByHand, local=False, environ=environ, workers=2, ready=False)
        assert gateway.process.wait(30) == 3
    assert "Refused for a test." in message_of(gateway.logs()[-1])


@pytest.mark.parametrize("broken", ["CODER_AI_GATEWAY_SHUTDOWN_TIMEOUT", "CODER_LOGGING_JSON"])
def test_wrong_settings_stop_it_with_one_line(tmp_path: Path, broken: str) -> None:
    ended = subprocess.run(
        ByHand(tmp_path, [], []).start_command(),
        env={**os.environ, "CODER_AI_GATEWAY_LOCAL": "true", broken: "/no/such/thing"},
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert "/no/such/thing" in line
