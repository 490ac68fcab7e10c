"""Secrets in files and from commands, and providers in the YAML file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import yaml

from aigateway.http.server.reloading import FileWatch, reloaded
from aigateway.http.settings import Settings, SettingsError, load
from aigateway.http.settings.provider_env import read_providers

LOCAL = {"CODER_AI_GATEWAY_LOCAL": "true"}
FIRST = {"CODER_AI_GATEWAY_PROVIDER_0_TYPE": "anthropic"}


def _load(**variables: str) -> Settings:
    return load({}, {**LOCAL, **{f"CODER_{name}": text for name, text in variables.items()}})


def _keys(settings: Settings) -> dict[str, tuple[str, ...]]:
    listed = read_providers(settings.provider_environ)
    assert [entry.error for entry in listed.entries] == [None] * len(listed.entries)
    assert listed.warnings == ()
    return {entry.name: entry.keys for entry in listed.entries}


def _says(text: str, code: int = 0) -> str:
    return f'{sys.executable} -c "print({text!r}); raise SystemExit({code})"'


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("  planted-one \n")
    return path


def test_each_variable_of_a_secret_may_name_a_file(secret: Path, tmp_path: Path) -> None:
    several = tmp_path / "several"
    several.write_text("planted-a\nplanted-b,planted-c\n")
    settings = _load(
        AI_GATEWAY_OPENAI_KEY_FILE=str(secret),
        AI_GATEWAY_PROVIDER_0_TYPE="anthropic",
        AI_GATEWAY_PROVIDER_0_KEYS_FILE=str(several),
        TRACE_HONEYCOMB_API_KEY_FILE=str(secret),
    )
    assert _keys(settings) == {
        "anthropic": ("planted-a", "planted-b", "planted-c"),
        "openai": ("planted-one",),
    }
    assert settings.trace_honeycomb_api_key == "planted-one"
    assert set(settings.watched_files) == {str(secret), str(several)}
    assert str(settings.sources["openai_key"]) == "env CODER_AI_GATEWAY_OPENAI_KEY_FILE"
    assert "planted" not in repr(settings)


def test_bedrocks_credentials_may_be_in_files(secret: Path) -> None:
    settings = _load(
        AIBRIDGE_PROVIDER_0_TYPE="bedrock",
        AIBRIDGE_PROVIDER_0_BEDROCK_REGION="eu-west-1",
        AIBRIDGE_PROVIDER_0_BEDROCK_ACCESS_KEY_FILE=str(secret),
        AIBRIDGE_PROVIDER_0_BEDROCK_ACCESS_KEY_SECRET_COMMAND=_says("planted-two"),
    )
    (entry,) = read_providers(settings.provider_environ).entries
    assert entry.bedrock is not None
    assert (entry.bedrock.access_key, entry.bedrock.access_key_secret) == (
        "planted-one",
        "planted-two",
    )


def test_a_command_may_say_a_secret() -> None:
    settings = _load(AI_GATEWAY_ANTHROPIC_KEY_COMMAND=_says("planted-said"))
    assert _keys(settings) == {"anthropic": ("planted-said",)}
    assert settings.watched_files == ()


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (_says("planted", 3), "the command failed with code 3"),
        (_says(""), "the command wrote nothing"),
        ("/nobody/here planted", "the command cannot be run: No such file or directory"),
        ('"planted', "is not a command: no closing quotation"),
    ],
)
def test_a_command_that_says_nothing_stops_the_start(command: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        _load(AI_GATEWAY_OPENAI_KEY_COMMAND=command)
    assert str(caught.value).startswith("CODER_AI_GATEWAY_OPENAI_KEY_COMMAND")
    assert problem in str(caught.value)
    assert "planted" not in str(caught.value)


def test_a_file_that_is_not_there_or_empty_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for problem in ("No such file", "is empty", "is not a text file"):
        with pytest.raises(SettingsError, match=problem) as caught:
            _load(**{f"AI_GATEWAY_{'PROVIDER_0_KEY'}_FILE": str(path)})
        assert "CODER_AI_GATEWAY_PROVIDER_0_KEY_FILE" in str(caught.value)
        path.write_bytes(b"\n" if problem == "No such file" else b"\xff\xfe")


def test_a_secret_is_given_once(secret: Path) -> None:
    with pytest.raises(SettingsError, match=r"OPENAI_KEY and .*OPENAI_KEY_FILE exclude each other"):
        _load(AI_GATEWAY_OPENAI_KEY="a", AI_GATEWAY_OPENAI_KEY_FILE=str(secret))
    with pytest.raises(SettingsError, match=r"KEY_COMMAND and .*KEY_FILE exclude each other"):
        _load(AI_GATEWAY_OPENAI_KEY_COMMAND=_says("a"), AI_GATEWAY_OPENAI_KEY_FILE=str(secret))


def _yaml(folder: Path, providers: object, environ: dict[str, str] | None = None) -> Settings:
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump({"ai_gateway": {"providers": providers}}))
    return load({"config": str(path)}, {**LOCAL, **(environ or {})})


def test_providers_may_be_in_the_yaml_file(secret: Path, tmp_path: Path) -> None:
    settings = _yaml(
        tmp_path,
        [
            {"type": "anthropic", "key_file": str(secret), "max_retries": 2},
            {"type": "openai", "name": "eu", "keys": ["a", "b"], "models": ["gpt-5*", "o*"]},
            {"type": "openai", "name": "own", "no_key": True},
        ],
    )
    assert _keys(settings) == {"anthropic": ("planted-one",), "eu": ("a", "b"), "own": ()}
    anthropic, eu, own = read_providers(settings.provider_environ).entries
    assert anthropic.extras["max_retries"] == 2
    assert eu.extras["models"].upstream("o3") == "o3"
    assert own.extras["no_key"] is True
    assert settings.watched_files == (str(secret),)


@pytest.mark.parametrize(
    ("providers", "problem"),
    [
        ({"type": "openai"}, r"providers must be a list of providers"),
        (["openai"], r"providers\[0\] must be a mapping with a type"),
        ([{"type": "openai", "keyfile": "x"}], r'unknown field "keyfile", did you mean "key_file"'),
        ([{"type": "openai", "key": {"a": 1}}], r"providers\[0\].key must be a text or a list"),
    ],
)
def test_what_is_no_list_of_providers_is_refused(
    tmp_path: Path, providers: object, problem: str
) -> None:
    with pytest.raises(SettingsError, match=problem):
        _yaml(tmp_path, providers)


def test_providers_are_not_in_both_places(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="PROVIDER_0_TYPE both configure providers"):
        _yaml(tmp_path, [{"type": "openai", "key": "a"}], FIRST)


# -- rotation


def test_a_file_that_changes_is_noticed_once_it_is_settled(secret: Path, tmp_path: Path) -> None:
    watch = FileWatch((str(secret), str(tmp_path / "never")))
    assert watch.changed() == []
    secret.write_text("planted-longer")
    assert watch.changed() == []
    assert watch.changed() == [str(secret)]
    watch.look()
    watch = FileWatch((str(secret),), watch)
    assert watch.changed() == []
    new = tmp_path / "new"
    new.write_text("planted-other2")
    os.replace(new, secret)
    assert [watch.changed(), watch.changed()] == [[], [str(secret)]]


def test_a_file_that_goes_is_no_news_until_it_is_back(secret: Path) -> None:
    watch = FileWatch((str(secret),))
    secret.unlink()
    assert [watch.changed(), watch.changed()] == [[], []]
    secret.write_text("planted-back")
    assert [watch.changed(), watch.changed()] == [[], [str(secret)]]


def test_a_new_gateway_key_in_the_same_file_is_taken_at_a_reload(secret: Path) -> None:
    environ = {"CODER_URL": "http://coderd.example", "CODER_AI_GATEWAY_KEY_FILE": str(secret)}
    old = load({}, environ)
    assert old.watched_files == (str(secret),)
    secret.write_text("two")
    new = load({}, environ)
    assert old.needing_restart(new) == []
    assert reloaded(old, lambda: new).gateway_key == "two"


def test_another_place_for_the_gateway_key_waits_for_a_restart(secret: Path) -> None:
    url = {"CODER_URL": "http://coderd.example"}
    old = load({}, {**url, "CODER_AI_GATEWAY_KEY_FILE": str(secret)})
    new = load({}, {**url, "CODER_AI_GATEWAY_KEY": "two"})
    assert set(old.needing_restart(new)) == {"--key", "--key-file"}
    assert reloaded(old, lambda: new).gateway_key == "planted-one"


def test_a_reload_without_a_secret_changes_nothing(secret: Path) -> None:
    def read() -> Settings:
        return _load(AI_GATEWAY_OPENAI_KEY_FILE=str(secret))

    old = read()
    secret.unlink()
    assert reloaded(old, read) is old
