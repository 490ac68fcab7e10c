"""Headers for what stands before coderd: from settings, and from a command at each dial."""

from __future__ import annotations

from pathlib import Path

import pytest
from coderd_dial import dialled, unreachable
from fake_coderd import FakeCoderd
from gateway_process import GatewayProcess, wait_until

from aigateway.actors.control.coderd.extra_headers import BadHeader, headers_of


def test_headers_are_sent_with_each_dial() -> None:
    headers = headers_of(["X-Pass=planted=with=equals", " x-Other = b "])
    with FakeCoderd() as coderd, dialled(coderd, headers=headers):
        seen = coderd.requests[-1].headers
        assert (seen["x-pass"], seen["x-other"]) == ("planted=with=equals", "b")
        assert seen["x-coder-ai-governance-gateway-key"] == "gateway-key"


@pytest.mark.parametrize(
    "line",
    [
        "no equals sign planted",
        "=planted",
        "bad name=planted",
        "x-two=planted\r\nx-more: b",
        "X-Coder-AI-Governance-Gateway-Key=planted",
        "host=planted",
        "Sec-WebSocket-Key=planted",
        "x-umlaut=plänted",
    ],
)
def test_what_is_no_header_or_one_of_the_dials_own_is_refused_without_showing_it(line: str) -> None:
    with pytest.raises(BadHeader) as caught:
        headers_of([line])
    assert "planted" not in str(caught.value)


def test_the_command_runs_again_at_each_dial_and_wins(tmp_path: Path) -> None:
    count = tmp_path / "count"
    command = f'echo run >> {count}; echo "X-Run=$(wc -l < {count})"; echo "X-To=$CODER_URL"'
    with FakeCoderd() as coderd:
        for run in ("1", "2"):
            with dialled(coderd, headers={"x-run": "old", "a": "b"}, header_command=command):
                seen = coderd.requests[-1].headers
                assert (seen["x-run"], seen["x-to"], seen["a"]) == (run, coderd.url, "b")


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("echo planted >&2; exit 3", "it ended with exit code 3"),
        ("echo planted", "number 1 is not name=value"),
        ("echo host=planted", "host is set by the gateway itself"),
        ("sleep 30", "it did not end within 0.2 s"),
    ],
)
def test_a_command_that_fails_is_an_attempt_that_failed(command: str, text: str) -> None:
    with FakeCoderd() as coderd:
        error = unreachable(coderd, header_command=command, timeout=0.2)
        assert str(error) == f"--header-command (CODER_HEADER_COMMAND): {text}"
        assert not error.fatal
        assert not coderd.requests


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_a_gateway_runs_the_command_for_each_dial_and_logs_nothing_of_it(
    tmp_path: Path, worker_class: str
) -> None:
    count = tmp_path / "count"
    command = f"echo run >> {count}; echo x-planted=planted-$(wc -l < {count})"
    with FakeCoderd() as coderd:
        gateway = GatewayProcess(
            tmp_path,
            options=["--url", coderd.url, "--worker-class", worker_class, "-l", ".*"],
            local=False,
            environ={
                "CODER_AI_GATEWAY_KEY": "gateway-key",
                "CODER_HEADER": "x-fixed=planted-fixed",
                "CODER_HEADER_COMMAND": command,
            },
        )
        with gateway:
            first = coderd.requests[-1].headers
            assert (first["x-planted"], first["x-fixed"]) == ("planted-1", "planted-fixed")
            coderd.cut_connections()
            wait_until(lambda: len(coderd.connections) == 2, "it dials again")
            assert coderd.requests[-1].headers["x-planted"] == "planted-2"
        assert "planted-" not in gateway.log_file.read_text() + gateway.stderr()
