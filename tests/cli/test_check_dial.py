"""``aigateway check --dial``: every provider with every key, and coderd."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aws_imitation import aws_error, signature_problem
from click.testing import CliRunner, Result
from fake_coderd import FakeCoderd
from imitation_provider import ReceivedRequest, ScriptedProvider, Steps, answer, error

from aigateway.http.cli.check import command

PREFIX = "CODER_AI_GATEWAY_PROVIDER_"
GOOD, BAD = "sk-good-key-0123456789abcdef", "sk-bad-key-0123456789abcdef"
SECRET = "aws-secret-0123456789abcdef"


@pytest.fixture
def dial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run the command with exactly these variables; ``providers`` are given by their fields."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str, providers: list[dict[str, str]], **env: str) -> Result:
        for index, fields in enumerate(providers):
            env.update({f"{PREFIX}{index}_{name}": value for name, value in fields.items()})
        with monkeypatch.context() as patch:
            patch.setattr("os.environ", {"HOME": str(tmp_path), **env})
            return CliRunner().invoke(command, ["--dial", *argv])

    return run


def by_key(answers: Mapping[str, Steps]) -> Any:
    """A provider that answers each key in its way."""

    def script(request: ReceivedRequest) -> Steps:
        key = request.header("X-Api-Key") or (request.header("Authorization") or "")[7:]
        return answers.get(key, error(401))

    return script


def dialled(result: Result) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(result.output)["dialled"]
    return found


def test_each_provider_is_asked_for_its_models_with_each_key(
    dial: Any, scripted_provider: ScriptedProvider
) -> None:
    scripted_provider.otherwise = by_key({GOOD: answer({"data": []})})
    url = scripted_provider.url
    result = dial(
        *("--local", "--changed"),
        providers=[
            {"TYPE": "anthropic", "BASE_URL": url, "KEYS": f"{GOOD},{BAD}"},
            {"TYPE": "openai", "BASE_URL": f"{url}/v1", "KEY": GOOD},
            {"TYPE": "copilot", "BASE_URL": url},
        ],
    )
    assert result.exit_code == 1
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    rows = lines[lines.index("Dialled") + 1 :]
    assert rows[0].startswith("anthropic key sk-g...cdef 200 ")
    assert rows[0].endswith(" ms fine")
    assert rows[1].startswith("anthropic key sk-b...cdef 401 ")
    assert rows[1].endswith(" ms the credentials were refused")
    # In the order of their names.
    assert rows[2].startswith("copilot no key 401 ")
    assert rows[2].endswith(" ms reachable; users bring their own keys")
    assert rows[3].startswith("openai key sk-g...cdef 200 ")
    wrong = 'provider "anthropic", key sk-b...cdef: the credentials were refused'
    assert lines[lines.index("Wrong") + 1 :] == [wrong]
    assert GOOD not in result.output
    assert BAD not in result.output
    asked = sorted(r.request_line for r in scripted_provider.requests)
    assert asked == ["GET /models HTTP/1.1", *["GET /v1/models HTTP/1.1"] * 3]


@pytest.mark.parametrize(
    ("kind", "given", "right"),
    [("openai", "", "/v1"), ("openai", "/", "/v1"), ("anthropic", "/v1", "")],
)
@pytest.mark.parametrize("status", [200, 401])
def test_a_wrong_path_is_a_problem_that_names_the_right_one(
    dial: Any, scripted_provider: ScriptedProvider, kind: str, given: str, right: str, status: int
) -> None:
    scripted_provider.otherwise = lambda request: answer(
        {"data": []}, status if request.target == "/v1/models" else 404
    )
    base = scripted_provider.url
    result = dial(
        *("--local", "--json"),
        providers=[{"TYPE": kind, "BASE_URL": f"{base}{given}", "KEY": GOOD}],
    )
    (found,) = dialled(result)
    assert result.exit_code == 1
    assert found["problem"] == (
        f"nothing is at this path, but {base}{right} answers: use that as the base URL"
    )


@pytest.mark.parametrize(
    ("status", "note", "problem"),
    [
        (200, "", None),
        (403, "", "the credentials were refused"),
        (404, "reachable; it has no list of models, so the key was not tried", None),
        (429, "reachable, and rate-limited", None),
        (503, "", "it answered with HTTP status 503"),
        (302, "", "it answered with HTTP status 302"),
    ],
)
def test_what_an_answer_means(
    dial: Any, scripted_provider: ScriptedProvider, status: int, note: str, problem: str | None
) -> None:
    scripted_provider.otherwise = answer({}, status)
    result = dial(
        *("--local", "--json"),
        providers=[{"TYPE": "anthropic", "BASE_URL": scripted_provider.url, "KEY": GOOD}],
    )
    (found,) = dialled(result)
    assert (found["status"], found["note"], found["problem"]) == (status, note, problem)
    assert found["duration_ms"] > 0
    assert result.exit_code == (1 if problem else 0)


def test_a_provider_that_cannot_be_reached_is_a_failure(dial: Any) -> None:
    result = dial(
        *("--local", "--json"),
        providers=[{"TYPE": "openai", "BASE_URL": "http://127.0.0.1:1/v1", "KEY": GOOD}],
    )
    (found,) = dialled(result)
    assert (found["status"], result.exit_code) == (None, 1)
    assert "cannot connect to 127.0.0.1:1" in found["problem"]


def test_what_cannot_serve_is_not_dialled(dial: Any) -> None:
    result = dial("--local", "--json", providers=[{"TYPE": "azure", "KEY": GOOD}])
    assert dialled(result) == []


def aws(url: str, **fields: str) -> dict[str, str]:
    return {
        "TYPE": "bedrock",
        "BEDROCK_BASE_URL": url,
        "BEDROCK_REGION": "eu-west-1",
        "BEDROCK_ACCESS_KEY": "AKIAIOSFODNN7EXAMPLE",
        "BEDROCK_ACCESS_KEY_SECRET": SECRET,
        "BEDROCK_MODEL": "big",
        "BEDROCK_SMALL_FAST_MODEL": "small",
        **fields,
    }


def test_bedrock_is_asked_with_both_models(dial: Any, scripted_provider: ScriptedProvider) -> None:
    def script(request: ReceivedRequest) -> Steps:
        problem = signature_problem(request, SECRET, region="eu-west-1", service="bedrock")
        assert problem is None, problem
        if request.target == "/model/big/invoke":
            return aws_error(400, "ValidationException", "anthropic_version: field required")
        return aws_error(404, "ResourceNotFoundException", "no such model")

    scripted_provider.otherwise = script
    result = dial("--local", "--json", providers=[aws(scripted_provider.url)])
    big, small = dialled(result)
    assert (big["credential"], big["status"], big["problem"]) == ("AKIA...MPLE big", 400, None)
    assert (small["status"], small["problem"]) == (404, "there is no such model")
    assert result.exit_code == 1
    assert SECRET not in result.output


def test_mantle_is_asked_for_its_models(dial: Any, scripted_provider: ScriptedProvider) -> None:
    scripted_provider.otherwise = answer({"data": []})
    url = f"{scripted_provider.url}/anthropic"
    result = dial("--local", "--json", providers=[aws(url, BEDROCK_PROTOCOL="mantle")])
    assert result.exit_code == 0
    asked = scripted_provider.requests[0]
    assert asked.target == "/anthropic/v1/models"
    problem = signature_problem(asked, SECRET, region="eu-west-1", service="bedrock-mantle")
    assert problem is None, problem


def test_gemini_is_asked_for_its_models_and_answers_400_to_a_wrong_key(
    dial: Any, scripted_provider: ScriptedProvider
) -> None:
    def script(request: ReceivedRequest) -> Steps:
        if request.target != "/v1beta/models":
            return error(404)
        good = request.header("X-Goog-Api-Key") == GOOD
        assert request.header("anthropic-version") is None
        return answer({"models": []}) if good else error(400)

    scripted_provider.otherwise = script
    url = scripted_provider.url
    google = {"TYPE": "gemini", "BASE_URL": url, "KEYS": f"{GOOD},sk-wrong-key-0123456789"}
    wrong = {**google, "NAME": "versioned", "BASE_URL": f"{url}/v1beta", "KEYS": GOOD}
    result = dial("--local", "--json", providers=[google, wrong])
    assert result.exit_code == 1
    assert [each["problem"] for each in dialled(result)] == [
        None,
        "the credentials were refused",
        f"nothing is at this path, but {url} answers: use that as the base URL",
    ]


def test_coderd_is_dialled_too(dial: Any, scripted_provider: ScriptedProvider) -> None:
    with FakeCoderd() as coderd:
        env = {"CODER_URL": coderd.url, "CODER_AI_GATEWAY_KEY": coderd.gateway_key}
        (found,) = dialled(dial("--json", providers=[], **env))
        assert (found["target"], found["status"], found["problem"]) == ("coderd", 101, None)
        assert found["note"] == "API version 1.4"
        env["CODER_AI_GATEWAY_KEY"] = "gateway-key-that-was-revoked"
        result = dial("--json", providers=[], **env)
    (found,) = dialled(result)
    assert result.exit_code == 1
    assert "AI Gateway key invalid" in found["problem"]
    assert "gateway-key-that-was-revoked" not in result.output


def test_without_the_option_nobody_is_dialled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scripted_provider: ScriptedProvider
) -> None:
    env = {
        "HOME": str(tmp_path),
        f"{PREFIX}0_TYPE": "anthropic",
        f"{PREFIX}0_BASE_URL": scripted_provider.url,
        f"{PREFIX}0_KEY": GOOD,
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", env)
    result = CliRunner().invoke(command, ["--local", "--json"])
    assert dialled(result) == []
    assert scripted_provider.requests == []
