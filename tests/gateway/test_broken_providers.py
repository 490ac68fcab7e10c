"""What an operator learns of providers that cannot serve, from the log and `aigateway actors`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from fake_coderd import FakeCoderd
from gateway_process import GatewayProcess, Upstream, message_of, wait_until

from aigateway.actors.control.coderd.wire import coderd_pb2 as pb

GOOD = pb.AIProvider(name="good", type="openai", enabled=True, base_url="http://127.0.0.1:9/v1")
BEDROCK = pb.AIProviderBedrock
BROKEN: dict[str, tuple[pb.AIProvider, str, str]] = {
    "Bad Name": (pb.AIProvider(type="openai"), "invalid AI provider name", "rename it"),
    "newer": (pb.AIProvider(type="mind-reader"), "unsupported provider type", "choose one of"),
    "homeless": (
        pb.AIProvider(type="openai-compat"), "no default address", "set the base URL"),
    "typo": (
        pb.AIProvider(type="openai", base_url="api.openai.com/v1"),
        "must be an address that starts with http", "correct the base URL"),
    "twins": (
        pb.AIProvider(type="anthropic", keys=["sk-planted", "sk-planted"]),
        "duplicate key", "take one of them out"),
    "half": (
        pb.AIProvider(type="bedrock", bedrock=BEDROCK(access_key="AKIA", model="m")),
        "both access key and access key secret", "set both"),
    "platform": (
        pb.AIProvider(
            type="anthropic", keys=["sk-planted"], base_url="http://127.0.0.1:9",
            claude_platform_aws=pb.AIProviderClaudePlatformAWS(region="eu-west-1")),
        "Claude Platform on AWS", "use Anthropic's own API"),
}  # fmt: skip
"""By name: what coderd says of it, what is wrong with it, and what to do."""
for _name, (_provider, _, _) in BROKEN.items():
    _provider.name, _provider.enabled = _name, True

SKIPPED = "skipping misconfigured ai provider"


@pytest.fixture
def coderd() -> Iterator[FakeCoderd]:
    with FakeCoderd() as coderd:
        coderd.deployment.add_user("alice", "alice-secret")
        yield coderd


def gateway_of(coderd: FakeCoderd, folder: Path) -> GatewayProcess:
    gateway = GatewayProcess(
        folder,
        options=["--url", coderd.url],
        local=False,
        environ={"CODER_AI_GATEWAY_KEY": "gateway-key"},
    )
    gateway.allowed_errors += [SKIPPED, "misconfigured provider"]
    return gateway


def skipped(gateway: GatewayProcess) -> dict[str, dict[str, Any]]:
    """The fields of the lines about providers that cannot serve, by name, each there once."""
    lines = [line["fields"] for line in gateway.logs() if message_of(line) == SKIPPED]
    found = {fields["provider_name"]: fields for fields in lines}
    assert len(lines) == len(found), "something is told twice"
    return found


def in_use(gateway: GatewayProcess) -> list[Any]:
    return [line["fields"] for line in gateway.logs() if message_of(line) == "providers in use"]


def test_the_log_tells_of_each_broken_provider_of_coderd_what_is_wrong_and_what_to_do(
    coderd: FakeCoderd, tmp_path: Path
) -> None:
    coderd.deployment.providers = (GOOD, *(provider for provider, _, _ in BROKEN.values()))
    with gateway_of(coderd, tmp_path) as gateway:
        found = skipped(gateway)
        assert found.keys() == BROKEN.keys()
        for name, (provider, wrong, way_out) in BROKEN.items():
            assert wrong in found[name]["error"]
            assert way_out in found[name]["way_out"]
            assert "Coder deployment" in found[name]["way_out"]
            assert found[name]["provider_type"] == provider.type
        assert in_use(gateway)[-1]["providers"] == ["good"]
        folder = ("--runtime-dir", str(gateway.runtime_dir))
        (worker,) = json.loads(gateway.command("actors", "--json", *folder).stdout)
        lines = {info["role"]: info for info in worker["actors"]}
        assert lines["provider/good"]["state"] == "running"
        for name, (_, wrong, way_out) in BROKEN.items():
            assert lines[f"provider/{name}"]["state"] == "error"
            assert wrong in lines[f"provider/{name}"]["detail"]
            assert way_out in lines[f"provider/{name}"]["detail"]
        assert "sk-planted" not in gateway.log_file.read_text() + json.dumps(worker)


def test_a_provider_that_breaks_later_is_told_once_and_goes_when_it_is_mended(
    coderd: FakeCoderd, tmp_path: Path
) -> None:
    coderd.deployment.providers = (GOOD,)
    with gateway_of(coderd, tmp_path) as gateway:
        broken = pb.AIProvider(name="good", type="openai", enabled=True, base_url="nowhere")
        coderd.set_providers(broken)
        wait_until(lambda: skipped(gateway), "the log tells of it")
        assert in_use(gateway)[-1]["providers"] == []
        # Another change tells nothing about it again.
        coderd.set_providers(broken, pb.AIProvider(name="off", type="openai"))
        wait_until(lambda: in_use(gateway)[-1]["changed"] == ["off"], "the change has arrived")
        assert skipped(gateway).keys() == {"good"}
        answer = requests.post(
            f"{gateway.url}/good/v1/chat/completions",
            headers={"Authorization": "Bearer alice-secret"},
            json={},
            timeout=10,
        )
        assert answer.status_code == 503
        coderd.set_providers(GOOD)
        wait_until(lambda: in_use(gateway)[-1]["providers"] == ["good"], "it is mended")


def test_of_two_providers_with_one_name_the_second_is_told(
    coderd: FakeCoderd, tmp_path: Path
) -> None:
    double = pb.AIProvider(name="good", type="anthropic", enabled=True)
    coderd.deployment.providers = (GOOD, double)
    with gateway_of(coderd, tmp_path) as gateway:
        found = skipped(gateway)
        assert found["good"]["provider_type"] == "anthropic"
        assert "another provider has this name" in found["good"]["error"]
        assert in_use(gateway)[-1]["providers"] == ["good"]


@pytest.mark.parametrize("field", ["FEDERATION_RULE_ID", "IDENTITY_TOKEN_FILE", "WORKSPACE_ID"])
def test_a_provider_that_wants_workload_identity_federation_is_told_and_never_called(
    tmp_path: Path, field: str
) -> None:
    upstream = Upstream("anthropic", "http://127.0.0.1:9", extra={field: "something"})
    gateway = GatewayProcess(tmp_path, [upstream])
    gateway.allowed_errors += [SKIPPED, "misconfigured provider"]
    with gateway:
        (fields,) = skipped(gateway).values()
        assert "workload identity federation is not supported" in fields["error"]
        assert "CODER_AI_GATEWAY_PROVIDER_0_" in fields["way_out"]
        answer = requests.post(
            f"{gateway.url}/anthropic/v1/messages",
            headers={"X-Api-Key": gateway.key()},
            json={"model": "m", "messages": []},
            timeout=10,
        )
        assert answer.status_code == 503
