"""``aigateway bundle``: everything for a bug report, and nothing that is secret."""

from __future__ import annotations

import json
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
from gateway_process import GatewayProcess, Upstream, free_port
from imitation_provider import ScriptedProvider

from aigateway.actors.recorder.spool import claim_spool
from aigateway.actors.values.records import PromptUsage

KEY = "sk-planted-provider-key-0123456789"
HONEYCOMB = "planted-honeycomb-team"
PASSWORD = "planted-proxy-password"
PROMPT = "a planted prompt that nobody else reads"
NOISE = "a line of another time, with Bearer planted-token-of-a-caller in it\n"


class Deployment:
    """A gateway and what `aigateway bundle` must be told about it."""

    def __init__(self, folder: Path, provider: ScriptedProvider) -> None:
        port = free_port()
        options = ["--prometheus-enable", "--prometheus-address", f"127.0.0.1:{port}"]
        self.gateway = GatewayProcess(
            folder,
            [Upstream("anthropic", provider.url, key=KEY)],
            options,
            environ={
                "CODER_TRACE_HONEYCOMB_API_KEY": HONEYCOMB,
                "CODER_AI_GATEWAY_PROVIDER_1_TYPE": "openai",
                "CODER_AI_GATEWAY_PROVIDER_1_KEY": f"{KEY}-of-openai",
                "CODER_AI_GATEWAY_PROVIDER_1_PROXY": f"http://me:{PASSWORD}@127.0.0.1:9",
                "OTEL_TRACES_SAMPLER": "always_off",
            },
        )
        self._same = [
            *options, "--local", "--local-db", str(self.gateway.database),
            "--state-dir", str(folder / "state"),
            "--runtime-dir", str(self.gateway.runtime_dir),
            "--log-json", str(self.gateway.log_file),
        ]  # fmt: skip

    def bundle(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return self.gateway.command("bundle", *self._same, *argv)

    def files(self, *argv: str) -> dict[str, str]:
        path = self.gateway.folder / "out.tar.gz"
        path.unlink(missing_ok=True)
        done = self.bundle("--output", str(path), *argv)
        assert done.returncode == 0, done.stderr
        assert str(path) in done.stdout
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with tarfile.open(path) as archive:
            return {
                entry.name.removeprefix("aigateway-bundle/"): _text(archive, entry)
                for entry in archive.getmembers()
            }


def _text(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> str:
    file = archive.extractfile(entry)
    assert file is not None
    return file.read().decode()


@pytest.fixture(scope="module")
def deployment(
    tmp_path_factory: pytest.TempPathFactory, provider: ScriptedProvider
) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path_factory.mktemp("gw"), provider)
    with deployment.gateway as gateway:
        answer = requests.post(
            f"{gateway.url}/anthropic/v1/messages",
            json={
                "model": "m",
                "max_tokens": 9,
                "messages": [{"role": "user", "content": PROMPT}],
            },
            headers={"X-Api-Key": gateway.key()},
            timeout=30,
        )
        assert answer.status_code == 200
        gateway.records(answer.headers["X-AI-Gateway-Interception-Id"])
        yield deployment


def test_the_archive_holds_what_a_bug_report_needs(deployment: Deployment) -> None:
    files = deployment.files()
    assert set(files) == {
        "ABOUT.txt",
        "settings.txt",
        "settings.json",
        "environment.json",
        "actors.json",
        "trace.txt",
        "metrics.txt",
        "spool.json",
        "logs/human.log",
        "logs/json.log",
    }
    settings: dict[str, Any] = json.loads(files["settings.json"])
    assert settings["settings"]["local"] == {"value": True, "source": "flag", "from": "--local"}
    assert "--prometheus-enable" in files["settings.txt"]
    assert {"gevent", "pykka", "falcon"} <= set(json.loads(files["environment.json"])["packages"])
    (worker,) = json.loads(files["actors.json"])
    assert {"recorder", "provider/anthropic"} <= {actor["role"] for actor in worker["actors"]}
    assert f"worker {worker['pid']} (" in files["trace.txt"]
    assert "provider/anthropic" in files["trace.txt"]
    assert "_actor_loop" in files["trace.txt"]
    assert "coder_ai_gateway_interceptions_total" in files["metrics.txt"]
    (spool,) = json.loads(files["spool.json"]).values()
    assert spool["records"] == 0
    assert "AI Gateway listening" in files["logs/json.log"]
    assert "no file" in files["logs/human.log"]


def test_nothing_in_it_is_secret(deployment: Deployment) -> None:
    gateway = deployment.gateway
    planted = f"{KEY} {HONEYCOMB} {PASSWORD}\n"
    with open(gateway.log_file, "a") as log:
        # What an older gateway, or another program, might have written there.
        log.write(json.dumps({"level": "info", "msg": NOISE + planted}) + "\n")
    text = "\n".join(deployment.files().values())
    assert "a line of another time" in text
    for secret in (KEY, HONEYCOMB, PASSWORD, PROMPT, "planted-token", gateway.key()):
        assert secret not in text


def test_only_the_last_lines_of_a_log_are_taken(deployment: Deployment) -> None:
    with open(deployment.gateway.log_file, "a") as log:
        log.writelines(f'{{"level": "info", "msg": "line {number}"}}\n' for number in range(5000))
    found = deployment.files("--log-lines", "4000")["logs/json.log"].splitlines()
    assert [json.loads(line)["msg"] for line in found] == [f"line {n}" for n in range(1000, 5000)]
    assert deployment.files("--log-lines", "0")["logs/json.log"] == ""


def test_an_archive_that_is_there_is_not_written_over(deployment: Deployment) -> None:
    path = deployment.gateway.folder / "there.tar.gz"
    path.write_text("precious")
    done = deployment.bundle("--output", str(path))
    assert done.returncode == 2
    assert "set --output" in done.stderr
    assert path.read_text() == "precious"


def test_a_gateway_that_is_down_still_has_an_archive(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    deployment = Deployment(tmp_path, provider)
    files = deployment.files()
    assert "no gateway is running" in json.loads(files["actors.json"])["error"]
    assert "no gateway is running" in files["trace.txt"]
    assert files["metrics.txt"].startswith("# no answer from 127.0.0.1:")
    assert json.loads(files["spool.json"]) == {}
    assert "cannot read" in files["logs/json.log"]


def test_records_that_wait_are_counted_not_shown(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    deployment = Deployment(tmp_path, provider)
    spool = claim_spool(tmp_path / "state")
    assert spool is not None
    with closing(spool):
        prompt = PromptUsage(interception_id="i", msg_id="m", prompt=PROMPT, created_at=1.0)
        spool.write([prompt], [])
    files = deployment.files()
    (found,) = json.loads(files["spool.json"]).values()
    assert found["records"] == 1
    assert (found["refused_interceptions"], found["dead_letters"]) == (0, 0)
    assert found["oldest_seconds"] > 0
    assert PROMPT not in "\n".join(files.values())
