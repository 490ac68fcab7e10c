"""The YAML file: keys of the reference, nothing unknown, clear errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from aigateway.http.settings import Settings, SettingsError, load, load_from_argv


@pytest.fixture
def read(tmp_path: Path):
    def read(text: str | bytes) -> Settings:
        file = tmp_path / "gateway.yaml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return load({"local": True, "config": str(file)}, {})

    return read


def fault(read, text: str | bytes) -> str:
    with pytest.raises(SettingsError) as caught:
        read(text)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_keys_of_the_reference_are_read(read) -> None:
    settings = read(
        """
        ai_gateway:
          allow_byok: false
          send_actor_headers: true
          api_dump_dir: /dumps
          max_concurrency: 4
          rate_limit: 5
          circuit_breaker_enabled: true
          circuit_breaker_failure_threshold: 6
          circuit_breaker_interval: 7s
          circuit_breaker_timeout: 8s
          circuit_breaker_max_requests: 9
        introspection:
          logging:
            humanPath: /logs/human
            jsonPath: /logs/json
            stackdriverPath: /logs/stackdriver
            filter: [".*"]
          tracing:
            enable: true
            captureLogs: true
          prometheus:
            enable: true
            address: 127.0.0.1:0
        """
    )
    assert not settings.allow_byok
    assert settings.send_actor_headers
    assert settings.dump_dir == "/dumps"
    assert (settings.max_concurrency, settings.rate_limit) == (4, 5)
    assert settings.circuit_breaker_enabled
    assert settings.circuit_breaker_failure_threshold == 6
    assert (settings.circuit_breaker_interval, settings.circuit_breaker_timeout) == (7.0, 8.0)
    assert settings.circuit_breaker_max_requests == 9
    assert settings.log_human == "/logs/human"
    assert settings.log_json == "/logs/json"
    assert settings.log_stackdriver == "/logs/stackdriver"
    assert settings.log_filter == (".*",)
    assert settings.trace
    assert settings.trace_logs
    assert settings.prometheus_enable
    assert settings.prometheus_address == "127.0.0.1:0"


@pytest.mark.parametrize("text", ["", "# only a comment", "---", "ai_gateway:", "ai_gateway: {}"])
def test_a_file_that_says_nothing_is_fine(read, text: str) -> None:
    assert read(text).workers == 2


def test_anchors_may_be_merged(read) -> None:
    text = "introspection:\n  prometheus: &on {enable: true}\n  tracing: {<<: *on}\n"
    assert read(text).trace


def test_null_counts_as_not_set(read) -> None:
    settings = read("ai_gateway: {workers: null}")
    assert settings.workers == 2
    assert settings.sources["workers"].kind == "default"


def test_an_empty_text_turns_an_option_off(read) -> None:
    assert read("ai_gateway: {actor_header_id: ''}").actor_header_id == ""


@pytest.mark.parametrize(
    ("text", "option"),
    [
        (
            "introspection: {prometheus: {enable: true, unknown_field: 1}}",
            "introspection.prometheus.unknown_field",
        ),
        ("networking: {accessURL: x}", "networking.accessURL"),
        ("workers: 3", "workers"),
        ("ai_gateway: {key: secret}", "ai_gateway.key"),
        ("ai_gateway: {openai_key: secret}", "ai_gateway.openai_key"),
        ("ai_gateway: {workers: 3, 5: 6}", "ai_gateway.5"),
        ("a: {b: {c: {}}}", "a.b.c"),
    ],
)
def test_an_unknown_option_is_named_by_its_dotted_path(read, text: str, option: str) -> None:
    message = fault(read, text)
    assert f'unknown option "{option}"' in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("http_address: x", "ai_gateway.http_address"),
        ("prometheus: {enable: true}", "introspection.prometheus.enable"),
        ("ai_gateway: {prometheus: {address: x}}", "introspection.prometheus.address"),
    ],
)
def test_a_misplaced_option_is_shown_its_place(read, text: str, meant: str) -> None:
    assert f'"{meant}"' in fault(read, text)


def test_a_near_option_is_suggested(read) -> None:
    message = fault(read, "ai_gateway: {rate_limt: 3}")
    assert message.endswith(
        'unknown option "ai_gateway.rate_limt", did you mean "ai_gateway.rate_limit"?'
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- a", 'must be a mapping of options, such as "ai_gateway:"; it is a list'),
        ("just text", "it is a single value"),
        ("ai_gateway: 5", "ai_gateway must be a mapping, it is a single value"),
        ("ai_gateway: [workers]", "ai_gateway must be a mapping, it is a list"),
        ("a: [", "is not valid YAML: line 1, column 5"),
        ("a: b: c", "is not valid YAML: line 1, column 5: mapping values are not allowed here"),
        (b"\xff\xfe\xff", "is not valid YAML"),
        ("!!python/object:os.system {}", "is not valid YAML"),
        ("[" * 5000, "is not valid YAML"),
        ("ai_gateway: {}\nai_gateway: {rate_limit: 3}", 'line 2, column 1: "ai_gateway" is there'),
        ("ai_gateway:\n  rate_limit: 3\n  rate_limit: 4", 'line 3, column 3: "rate_limit" is th'),
    ],
)
def test_a_broken_file_is_explained_on_one_line(read, text: str | bytes, reason: str) -> None:
    assert reason in fault(read, text)


def test_a_wrong_value_names_file_and_key(read, tmp_path: Path) -> None:
    message = fault(read, "ai_gateway: {workers: some}")
    assert message == (
        f'{tmp_path}/gateway.yaml: ai_gateway.workers: "some" must be a whole number of at least 1'
    )
    message = fault(read, "ai_gateway: {workers: {a: 1}}")
    assert message.endswith("ai_gateway.workers: its value must be a whole number of at least 1")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    with pytest.raises(SettingsError) as caught:
        load_from_argv(["--local", "-c", str(missing)], {})
    assert str(caught.value) == f'read config file "{missing}": No such file or directory'


def test_the_path_may_come_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("ai_gateway: {local: true, workers: 3}")
    assert load_from_argv([], {"CODER_CONFIG_PATH": str(file)}).workers == 3
