"""``aigateway check``: effective values, their sources, what is wrong; secrets masked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner, Result

from aigateway.http.cli.check import command

PROVIDER = "CODER_AI_GATEWAY_PROVIDER_"


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run the command with exactly these variables."""

    def run(*argv: str, env: Mapping[str, str] | None = None) -> Result:
        with monkeypatch.context() as patch:
            patch.setattr("os.environ", {"HOME": str(tmp_path), **(env or {})})
            return CliRunner().invoke(command, list(argv))

    monkeypatch.chdir(tmp_path)
    return run


def as_json(result: Result) -> dict[str, Any]:
    found = json.loads(result.output)
    assert isinstance(found, dict)
    assert found["ok"] is (result.exit_code == 0)
    return found


def test_a_right_configuration_is_shown_with_its_sources(check, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("ai_gateway: {queue_depth: 7}")
    result = check(
        *("--local", "--workers", "3", "-c", str(file)),
        env={"CODER_AI_GATEWAY_KEEPALIVE": "90s", f"{PROVIDER}0_TYPE": "copilot"},
    )
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert "--workers 3 flag --workers" in lines
    assert "--keepalive 1m30s env CODER_AI_GATEWAY_KEEPALIVE" in lines
    assert f"--queue-depth 7 yaml {file}: ai_gateway.queue_depth" in lines
    assert "--max-body-size 32MiB default" in lines
    assert (
        "copilot copilot enabled https://api.individual.githubcopilot.com the user's own key"
        in lines
    )
    assert lines[-1] == "Nothing is wrong."


def test_changed_leaves_out_defaults(check) -> None:
    found = as_json(check("--local", "--changed", "--json"))
    assert found["settings"] == {"local": {"value": True, "source": "flag", "from": "--local"}}


def test_json_has_typed_values(check) -> None:
    settings = as_json(check("--local", "--json", "-l", "a"))["settings"]
    assert settings["max_body_size"]["value"] == 32 * 2**20
    assert settings["keepalive"]["value"] == 75.0
    assert settings["log_filter"]["value"] == ["a"]
    assert "circuit_breaker_timeout" not in settings


def test_everything_that_is_wrong_is_told_at_once(check) -> None:
    env = {
        "CODER_AI_GATEWAY_WORKERS": "many",
        f"{PROVIDER}0_TYPE": "azure",
        f"{PROVIDER}1_TYPE": "openai",
        f"{PROVIDER}1_KEYZ": "x",
    }
    result = check("--tls-cert-file", "cert.pem", "--json", env=env)
    found = as_json(result)
    assert result.exit_code == 1
    assert found["errors"] == [
        'CODER_AI_GATEWAY_WORKERS: "many" must be a whole number of at least 1',
        "an AI Gateway key is required, set --key (CODER_AI_GATEWAY_KEY) "
        "or --key-file (CODER_AI_GATEWAY_KEY_FILE); or set --local to run without a Coder "
        "deployment",
        "--tls-cert-file and --tls-key-file options must be provided together",
        "AI Gateway requires --url or CODER_URL to point at the Coder deployment, or --local to "
        "run without one",
        f'provider "azure": type "azure" has no default address, set {PROVIDER}0_BASE_URL',
    ]
    assert found["warnings"] == [
        {
            "setting": f"{PROVIDER}1_KEYZ",
            "message": "ignoring unknown AI provider field (check for typos)",
        }
    ]
    assert [(p["name"], p["status"]) for p in found["providers"]] == [
        ("azure", "error"),
        ("openai", "enabled"),
    ]


def test_an_unreadable_provider_list_is_told(check) -> None:
    result = check("--local", env={f"{PROVIDER}1_TYPE": "openai"})
    assert result.exit_code == 1
    assert f"provider num 0 skipped: {PROVIDER}1_TYPE" in result.output


def test_it_is_wrong_when_no_provider_can_serve(check) -> None:
    result = check("--local", env={f"{PROVIDER}0_TYPE": "azure"})
    assert "all enabled ai providers failed to build" in result.output


def test_no_provider_at_all_is_only_a_warning(check) -> None:
    result = check("--local")
    assert result.exit_code == 0
    assert "no provider is configured" in result.output
    env = {"CODER_AI_GATEWAY_KEY": "k-planted", "CODER_URL": "https://coderd.example"}
    assert "none here: the Coder deployment has them" in check(env=env).output


def test_no_secret_is_printed(check) -> None:
    env = {
        "CODER_AI_GATEWAY_KEY": "planted-gateway-key",
        "CODER_URL": "https://user:planted-password@coderd.example",
        "CODER_AI_GATEWAY_OPENAI_KEY": "planted-openai-key",
        "CODER_TRACE_HONEYCOMB_API_KEY": "planted-honeycomb",
        "CODER_AI_GATEWAY_RATE_LIMIT_STORAGE": "redis://:planted-redis@h:1/0",
        f"{PROVIDER}0_TYPE": "anthropic",
        f"{PROVIDER}0_KEYS": "planted-anthropic-one,planted-anthropic-two",
        f"{PROVIDER}0_BASE_URL": "https://user:planted-url@h",
        f"{PROVIDER}1_TYPE": "bedrock",
        f"{PROVIDER}1_BEDROCK_REGION": "eu-west-1",
        f"{PROVIDER}1_BEDROCK_ACCESS_KEY": "planted-aws",
        f"{PROVIDER}1_BEDROCK_ACCESS_KEY_SECRET": "planted-aws-secret",
        f"{PROVIDER}2_TYPE": "openai",
        f"{PROVIDER}2_NAME": "proxied",
        f"{PROVIDER}2_PROXY": "http://user:planted-proxy@p",
    }
    for argv in ([], ["--json"]):
        result = check(*argv, env=env)
        assert result.exit_code == 0, result.output
        assert "planted" not in result.output
        assert "plan...-one" in result.output


def test_what_a_variable_says_cannot_reach_the_terminal(check) -> None:
    env = {f"{PROVIDER}0_TYPE": "openai", f"{PROVIDER}0_BASE_URL": "http://h/\x1b[2J"}
    assert "\x1b" not in check("--local", env=env).output


def test_a_broken_option_of_the_command_itself_is_a_usage_error(check) -> None:
    assert check("--no-such-thing").exit_code == 2


# -- files


def pem_files(folder: Path) -> tuple[Path, Path, Path]:
    authority = trustme.CA()
    served = authority.issue_cert("gateway.example")
    cert, key, ca = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
    served.cert_chain_pems[0].write_to_path(cert)
    served.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    return cert, key, ca


def test_good_files_are_fine(check, tmp_path: Path) -> None:
    cert, key, ca = pem_files(tmp_path)
    result = check(
        *("--local", "--tls-cert-file", str(cert), "--tls-key-file", str(key)),
        *("--client-tls-cert-file", str(cert), "--client-tls-key-file", str(key)),
        *("--client-tls-ca-file", str(ca), "--upstream-ca-file", str(ca)),
        *("--log-json", str(tmp_path / "log"), "--ai-gateway-dump-dir", str(tmp_path / "new/dir")),
        env={f"{PROVIDER}0_TYPE": "openai", f"{PROVIDER}0_CA_FILE": str(ca)},
    )
    assert result.exit_code == 0, result.output


def test_bad_files_are_named_with_their_flag(check, tmp_path: Path) -> None:
    cert, _key, _ca = pem_files(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    _cert, wrong_key, _ca = pem_files(other)
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    missing = str(tmp_path / "missing")
    result = check(
        *("--local", "--json", "--tls-cert-file", str(cert), "--tls-key-file", str(wrong_key)),
        *("--client-tls-cert-file", missing, "--client-tls-key-file", missing),
        *("--client-tls-ca-file", str(empty), "--upstream-ca-file", missing),
        *("--local-db", str(tmp_path), "--log-json", f"{missing}/log", "--state-dir", str(cert)),
        env={f"{PROVIDER}0_TYPE": "openai", f"{PROVIDER}0_CA_FILE": str(empty)},
    )
    errors = as_json(result)["errors"]
    coderd = "configure Coder deployment connection"
    beginnings = [
        f'serve: cannot use --tls-cert-file "{cert}" with --tls-key-file "{wrong_key}": KEY_VALUES',
        f'{coderd}: --client-tls-cert-file: "{missing}": No such file or directory',
        f'{coderd}: --client-tls-ca-file: "{empty}": no certificates in PEM form',
        f'--upstream-ca-file: "{missing}": No such file or directory',
        f'CA_FILE of provider openai: "{empty}": no certificates in PEM form',
        f'--state-dir: "{cert}": "{cert}" is no folder',
        f'--local-db: "{tmp_path}" is a folder',
        f'--log-json: "{missing}/log": there is no folder "{missing}"',
    ]
    assert len(errors) == len(beginnings), errors
    for error, beginning in zip(errors, beginnings, strict=True):
        assert error.startswith(beginning)


def test_an_encrypted_key_is_an_error_and_no_prompt(check, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    cert, key, _ca = pem_files(tmp_path)
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    result = check("--local", "--tls-cert-file", str(cert), "--tls-key-file", str(key))
    assert "the key has a passphrase, which is not supported" in result.output


def test_nothing_is_created(check, tmp_path: Path) -> None:
    check("--local", "--log-json", str(tmp_path / "log"))
    assert list(tmp_path.iterdir()) == []


def test_whom_a_provider_shares_its_requests_with_is_shown(check) -> None:
    env = {}
    for at, name in enumerate(("claude", "eu", "us")):
        env[f"{PROVIDER}{at}_TYPE"] = "anthropic"
        env[f"{PROVIDER}{at}_NAME"] = name
        env[f"{PROVIDER}{at}_KEY"] = f"sk-ant-key-{name}-0001"
    env[f"{PROVIDER}0_GROUP"] = "claude:3,eu:1"
    env[f"{PROVIDER}0_FALLBACK"] = "us"
    result = check("--local", env=env)
    assert result.exit_code == 0
    [line] = [line for line in result.output.splitlines() if line.startswith("  claude ")]
    assert line.split()[-5:] == ["fallback", "us", "group", "claude:3,", "eu:1"]
    [line] = [line for line in result.output.splitlines() if line.startswith("  eu ")]
    assert "group" not in line


def test_a_proxy_that_cannot_lead_to_the_deployment_is_named_without_its_password(check) -> None:
    env = {"CODER_URL": "https://coder.example", "CODER_AI_GATEWAY_KEY": "k"}
    result = check(env={**env, "HTTPS_PROXY": "socks4://me:planted@proxy"})
    assert result.exit_code == 1
    assert "a proxy by socks4:// is not supported" in result.output
    assert "NO_PROXY to the deployment's host" in result.output
    assert "planted" not in result.output
    for fine in (
        {"HTTPS_PROXY": "socks5h://proxy"},
        {"HTTPS_PROXY": "https://proxy"},
        {"ALL_PROXY": "socks4://proxy"},
        {"HTTPS_PROXY": "socks4://proxy", "NO_PROXY": "coder.example"},
    ):
        assert check(env={**env, **fine}).exit_code == 0, fine
