"""Where a value comes from: flag, environment, YAML, default."""

from __future__ import annotations

from pathlib import Path

import pytest

from aigateway.http.settings import OPTIONS, Option, Settings, SettingsError, load, load_from_argv

LOCAL = {"CODER_AI_GATEWAY_LOCAL": "true"}


def yaml_file(folder: Path, text: str) -> str:
    path = folder / "gateway.yaml"
    path.write_text(text)
    return str(path)


def test_the_flag_beats_the_environment_beats_yaml_beats_the_default(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, "ai_gateway:\n  rate_limit: 3\n")
    by_yaml = load({"local": True}, {}, path)
    by_env = load({"local": True}, {"CODER_AI_GATEWAY_RATE_LIMIT": "2"}, path)
    by_flag = load({"local": True, "rate_limit": "1"}, {"CODER_AI_GATEWAY_RATE_LIMIT": "2"}, path)
    by_default = load({"local": True}, {})
    assert [s.rate_limit for s in (by_flag, by_env, by_yaml, by_default)] == [1, 2, 3, 0]
    assert str(by_flag.sources["rate_limit"]) == "flag --ai-gateway-rate-limit"
    assert str(by_env.sources["rate_limit"]) == "env CODER_AI_GATEWAY_RATE_LIMIT"
    assert str(by_yaml.sources["rate_limit"]) == f"yaml {path}: ai_gateway.rate_limit"
    assert str(by_default.sources["rate_limit"]) == "default"


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, "ai_gateway: {workers: 5}")
    settings = load({}, {**LOCAL, "CODER_AI_GATEWAY_WORKERS": ""}, path)
    assert settings.workers == 5


def test_an_empty_flag_turns_a_text_off() -> None:
    settings = load_from_argv(["--local", "--log-human", ""], {"CODER_LOGGING_HUMAN": "/tmp/log"})
    assert settings.log_human == ""


def test_the_second_variable_of_an_option_is_read_after_the_first() -> None:
    environ = {**LOCAL, "CODER_VERBOSE": "true"}
    assert load({}, environ).verbose is True
    assert load({}, {**environ, "CODER_AI_GATEWAY_VERBOSE": "false"}).verbose is False


def test_every_option_has_the_same_default_with_and_without_loading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environ = {"HOME": "/home/someone", "TMPDIR": "/scratch"}
    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    loaded, plain = load({"local": True}, environ), Settings(local=True)
    for row in OPTIONS:
        assert getattr(loaded, row.name) == getattr(plain, row.name), row.name


def test_folders_follow_the_xdg_variables() -> None:
    settings = load({}, {**LOCAL, "XDG_STATE_HOME": "/state", "XDG_RUNTIME_DIR": "/run/user/1"})
    assert settings.state_dir == "/state/aigateway"
    assert settings.runtime_dir == "/run/user/1/aigateway"
    settings = load({}, {**LOCAL, "HOME": "/home/someone"})
    assert settings.state_dir == "/home/someone/.local/state/aigateway"


@pytest.mark.parametrize(
    "row", [row for row in OPTIONS if row.name != "config"], ids=lambda row: row.name
)
def test_every_option_is_read_from_all_its_names(row: Option, tmp_path: Path) -> None:
    text = {
        "bool": "false" if row.default == "true" else "true",
        "int": "7",
        "float": "7.5",
        "duration": "7s",
        "size": "7KiB",
        "address": "127.0.0.9:7",
        "optional address": "127.0.0.9:7",
        "url": "http://seven.example",
        "storage": "redis://seven:6379/0",
        "regex list": "seven",
        "choice": row.kind.metavar.rpartition("|")[2],
        "header list": "x-seven=7",
        "header": "X-Seven",
        "network list": "10.7.0.0/16",
        "origin list": "https://page.test",
    }.get(row.kind.name, "/seven")
    base = {"local": None if row.name == "local" else True}
    expected = row.kind.read(text)

    def value(flags: dict[str, object], environ: dict[str, str], path: str | None = None) -> object:
        settings = load({**base, **flags}, environ, path, require_coderd=False)
        return getattr(settings, row.name)

    if row.flags:
        assert value({row.name: text}, {}) == expected
    for name in (*row.envs, *row.old_envs):
        assert value({}, {name: text}) == expected
    for dotted in filter(None, (row.yaml, row.old_yaml)):
        document = f'"{text}"'
        for part in reversed(dotted.split(".")):
            document = f"{{{part}: {document}}}"
        if not row.kind.is_list:
            assert value({}, {}, yaml_file(tmp_path, document)) == expected


def test_older_names_work_with_a_warning(tmp_path: Path) -> None:
    settings = load({}, {**LOCAL, "CODER_AIBRIDGE_RATE_LIMIT": "4"})
    assert settings.rate_limit == 4
    assert [(w.setting, w.message) for w in settings.warnings] == [
        ("CODER_AIBRIDGE_RATE_LIMIT", "deprecated name, use CODER_AI_GATEWAY_RATE_LIMIT")
    ]
    settings = load_from_argv(["--local", "--aibridge-rate-limit=5"], {})
    assert settings.rate_limit == 5
    assert [w.setting for w in settings.warnings] == ["--aibridge-rate-limit"]
    path = yaml_file(tmp_path, "aibridge: {rate_limit: 6}")
    settings = load({"local": True}, {}, path)
    assert settings.rate_limit == 6
    assert [(w.setting, w.message) for w in settings.warnings] == [
        ("aibridge.rate_limit", "deprecated name, use ai_gateway.rate_limit")
    ]


def test_the_newer_name_wins_over_the_older() -> None:
    environ = {
        **LOCAL,
        "CODER_AIBRIDGE_RATE_LIMIT": "4",
        "CODER_AI_GATEWAY_RATE_LIMIT": "5",
    }
    assert load({}, environ).rate_limit == 5


def test_a_misspelt_variable_is_noticed() -> None:
    settings = load({}, {**LOCAL, "CODER_AI_GATEWAY_WORKRES": "4"})
    assert [(w.setting, w.message) for w in settings.warnings] == [
        (
            "CODER_AI_GATEWAY_WORKRES",
            "unknown environment variable, ignored, did you mean CODER_AI_GATEWAY_WORKERS?",
        )
    ]


@pytest.mark.parametrize(
    "name",
    [
        "CODER_AI_GATEWAY_SERVICE_HOST",
        "CODER_AI_GATEWAY_SERVICE_PORT_HTTP",
        "CODER_AI_GATEWAY_PORT",
        "CODER_AI_GATEWAY_PORT_80_TCP_ADDR",
        "CODER_AGENT_TOKEN",
        "PATH",
    ],
)
def test_variables_of_kubernetes_and_of_others_are_not_taken_for_typos(name: str) -> None:
    assert load({}, {**LOCAL, name: "x"}).warnings == ()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CODER_AI_GATEWAY_RATE_LIMITS", "CODER_AI_GATEWAY_RATE_LIMIT"),
        ("CODER_AIGATEWAY_KEY", "CODER_AI_GATEWAY_KEY"),
        ("CODER_PROMETHEUS_ENABLED", "CODER_PROMETHEUS_ENABLE"),
    ],
)
def test_a_misspelt_variable_is_told_with_the_right_one(name: str, meant: str) -> None:
    (warning,) = load({}, {**LOCAL, name: "1"}).warnings
    assert warning.setting == name
    assert f"did you mean {meant}?" in warning.message


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--ai-gateway-enabled", "true"),
        ("--aibridge-enabled", "true"),
        ("--aibridge-inject-coder-mcp-tools", "true"),
        ("--aibridge-retention", "60d"),
        ("--ai-gateway-structured-logging", "true"),
    ],
)
def test_flags_that_only_concern_coderd_are_accepted_with_the_warning(
    flag: str, value: str
) -> None:
    (warning,) = load_from_argv(["--local", flag, value], {}).warnings
    assert warning.setting == flag
    assert warning.message == "only concerns coderd, it has no effect on this gateway"


def test_experiments_are_accepted_and_named() -> None:
    for settings in (
        load_from_argv(["--local", "--experiments", "one,two"], {}),
        load({}, {**LOCAL, "CODER_EXPERIMENTS": "one,two"}),
    ):
        (warning,) = settings.warnings
        assert warning.message.endswith("have no effect here: one,two")


def test_options_that_only_concern_coderd_are_named() -> None:
    settings = load({}, {**LOCAL, "CODER_AI_GATEWAY_RETENTION": "60d"})
    assert [w.message for w in settings.warnings] == [
        "only concerns coderd, it has no effect on this gateway"
    ]


def test_an_option_without_effect_is_said_to_have_none() -> None:
    settings = load({}, {**LOCAL, "CODER_TRACE_DATADOG": "true"})
    assert [(w.setting, w.message) for w in settings.warnings] == [
        ("CODER_TRACE_DATADOG", "has no effect")
    ]


def test_a_reload_names_what_needs_a_restart() -> None:
    old = load({"local": True}, {})
    new = load({"local": True, "workers": "9", "rate_limit": "9", "keepalive": "1s"}, {})
    assert old.needing_restart(new) == ["--workers", "--keepalive"]
    assert old.needing_restart(old) == []


def test_secrets_do_not_show_in_the_repr_of_settings(tmp_path: Path) -> None:
    settings = load(
        {"url": "http://coderd.example"},
        {
            "CODER_AI_GATEWAY_KEY": "planted-key",
            "CODER_AI_GATEWAY_OPENAI_KEY": "planted-openai",
            "CODER_AI_GATEWAY_PROVIDER_0_TYPE": "anthropic",
            "CODER_AI_GATEWAY_PROVIDER_0_KEY": "planted-anthropic",
            "CODER_AI_GATEWAY_RATE_LIMIT_STORAGE": "redis://user:planted-redis@host/0",
            "CODER_TRACE_HONEYCOMB_API_KEY": "planted-honey",
        },
    )
    assert "planted" not in repr(settings)


def test_a_wrong_secret_is_not_repeated_in_the_error() -> None:
    environ = {**LOCAL, "CODER_AI_GATEWAY_RATE_LIMIT_STORAGE": "http://user:planted@host"}
    with pytest.raises(SettingsError) as caught:
        load({}, environ)
    assert "planted" not in str(caught.value)
