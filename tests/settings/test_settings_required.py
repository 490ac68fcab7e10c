"""What must be set for serving: texts and order of the checks."""

from __future__ import annotations

from pathlib import Path

import pytest

from aigateway.http.settings import SettingsError, examine, load, load_from_argv

NO_KEY = (
    "an AI Gateway key is required, set --key (CODER_AI_GATEWAY_KEY) "
    "or --key-file (CODER_AI_GATEWAY_KEY_FILE); or set --local to run without a Coder deployment"
)
NO_PAIR = "--tls-cert-file and --tls-key-file options must be provided together"
NO_URL = (
    "AI Gateway requires --url or CODER_URL to point at the Coder deployment, or --local to run "
    "without one"
)


def error_of(argv: list[str], environ: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load_from_argv(argv, environ or {})
    return str(caught.value)


def test_the_checks_come_in_order_key_then_tls_then_address() -> None:
    assert error_of(["--tls-cert-file", "c"]) == NO_KEY
    assert error_of(["--key", "k", "--tls-cert-file", "c"]) == NO_PAIR
    assert error_of(["--key", "k", "--tls-key-file", "c"]) == NO_PAIR
    assert error_of(["--key", "k"]) == NO_URL
    settings = load_from_argv(["--key", "k", "--url", "http://coderd.example"], {})
    assert settings.gateway_key == "k"


def test_the_key_may_come_from_a_file_and_is_trimmed_there(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("  file-key\n")
    argv = ["--key-file", str(file), "--url", "https://coderd.example"]
    assert load_from_argv(argv, {}).gateway_key == "file-key"
    file.write_text(" \n")
    assert load_from_argv(argv, {}).gateway_key == ""


def test_a_key_from_a_flag_is_not_trimmed() -> None:
    argv = ["--key", " k ", "--url", "https://coderd.example"]
    assert load_from_argv(argv, {}).gateway_key == " k "


def test_key_and_key_file_exclude_each_other() -> None:
    text = "--key and --key-file options are mutually exclusive"
    assert error_of(["--key", "k", "--key-file", "f"]) == text
    assert error_of(["--key-file", "f"], {"CODER_AI_GATEWAY_KEY": "k"}) == text


def test_an_empty_key_variable_counts_as_not_set() -> None:
    assert error_of([], {"CODER_AI_GATEWAY_KEY": "", "CODER_AI_GATEWAY_KEY_FILE": ""}) == NO_KEY


def test_an_unreadable_key_file_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    text = f'read AI Gateway key file "{missing}": No such file or directory'
    assert error_of(["--key-file", str(missing)]) == text
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    assert error_of(["--key-file", str(binary)]).endswith("it is not text")


def test_local_needs_neither_key_nor_address() -> None:
    settings = load_from_argv(["--local"], {})
    assert settings.local
    assert settings.gateway_key == ""


def test_local_still_needs_both_halves_of_the_tls_pair() -> None:
    assert error_of(["--local", "--tls-cert-file", "c"]) == NO_PAIR


def test_commands_that_serve_nothing_need_nothing() -> None:
    settings = load({"tls_cert_file": "c"}, {}, require_coderd=False)
    assert settings.tls_cert_file == "c"


def test_the_client_certificate_needs_its_key() -> None:
    argv = ["--key", "k", "--url", "https://coderd.example", "--client-tls-cert-file", "c"]
    assert error_of(argv) == (
        "configure Coder deployment connection: --client-tls-cert-file and "
        "--client-tls-key-file must be provided together"
    )


@pytest.mark.parametrize(
    "url", ["coderd.example", "ftp://coderd.example", "https://", "http://h:x"]
)
def test_a_deployment_address_must_be_http(url: str) -> None:
    text = f'--url: "{url}" must be an address that starts with http:// or https://'
    assert error_of(["--url", url]) == text


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (
            ["--ai-gateway-actor-header-id", "X Bad"],
            '--ai-gateway-actor-header-id: "X Bad" must be a header name (RFC 9110 token)',
        ),
        (
            ["--ai-gateway-actor-header-id", "authorization"],
            '--ai-gateway-actor-header-id: "authorization" is a reserved header name',
        ),
        (
            ["--ai-gateway-actor-header-id", "X-AI-Bridge-Actor-Other"],
            '--ai-gateway-actor-header-id: "X-AI-Bridge-Actor-Other" is a reserved header name',
        ),
        (
            [
                "--ai-gateway-actor-header-id",
                "X-Who",
                "--ai-gateway-actor-header-username",
                "x-who",
            ],
            '--ai-gateway-actor-header-username: "x-who" is already used by '
            "--ai-gateway-actor-header-id",
        ),
    ],
)
def test_a_bad_actor_header_stops_the_start(argv: list[str], text: str) -> None:
    assert error_of(["--local", *argv]) == text


def test_actor_headers_may_be_renamed_or_turned_off() -> None:
    argv = ["--local", "--ai-gateway-actor-header-id", "X-User", "--ai-gateway-actor-header-email="]
    settings = load_from_argv(argv, {})
    assert (settings.actor_header_id, settings.actor_header_email) == ("X-User", "")


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "User-Agent",
        "Accept",
        "Content-Length",
        "Content-MD5",
        "If-Match",
        "Set-Cookie",
        "Authorization",
        "X-Api-Key",
        "X-Goog-Api-Key",
        "X-Amz-Security-Token",
        "X_Auth_Token",
        "Ocp-Apim-Subscription-Key",
        "Coder-Session-Token",
        "X-Forwarded-Email",
        "anthropic-beta",
        "OpenAI-Organization",
    ],
)
def test_the_email_header_may_have_no_name_of_http_or_of_a_credential(name: str) -> None:
    flag = "--ai-gateway-actor-header-email"
    assert error_of(["--local", flag, name]) == f'{flag}: "{name}" is a reserved header name'


def test_no_email_address_is_sent_unless_a_name_is_set() -> None:
    assert load_from_argv(["--local"], {}).actor_header_email == ""
    name = "X-AI-Bridge-Actor-Metadata-Email"
    settings = load_from_argv(["--local", "--ai-gateway-actor-header-email", name], {})
    assert settings.actor_header_email == name


def test_examining_goes_on_after_errors_with_defaults() -> None:
    settings, errors = examine({"workers": "none", "tls_cert_file": "c"}, {})
    assert [str(error) for error in errors] == [
        '--workers: "none" must be a whole number of at least 1',
        NO_KEY,
        NO_PAIR,
        NO_URL,
    ]
    assert settings.workers == 2
    assert settings.sources["workers"].kind == "default"


def test_examining_goes_on_after_a_broken_yaml_file(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("a: [")
    settings, errors = examine({"local": True, "config": str(file)}, {})
    assert settings.local
    assert len(errors) == 1


def test_answers_are_recorded_in_a_database_of_our_own_only() -> None:
    of_coder = ["--key", "k", "--url", "https://coderd.example", "--content"]
    assert error_of([*of_coder, "full"]) == (
        "--content full needs --local: a Coder deployment has no place for answers; "
        "set --content to prompts"
    )
    assert load_from_argv([*of_coder, "prompts"], {}).content == "prompts"
    assert load_from_argv(["--local", "--content", "full"], {}).content == "full"


def test_events_that_go_nowhere_are_a_warning() -> None:
    def warned(*argv: str) -> list[str]:
        return [each.setting for each in load_from_argv(["--local", *argv], {}).warnings]

    assert warned("--trace-gen-ai") == ["--trace-gen-ai"]
    assert warned("--trace-gen-ai", "--trace") == []
    assert warned("--trace-gen-ai", "--trace-honeycomb-api-key", "k") == []
