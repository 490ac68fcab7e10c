"""The parts of the demonstration, without a gateway."""

from __future__ import annotations

import json
import os
import signal
import time
from types import SimpleNamespace

import pytest
from attrs import evolve

from aigateway.actors.control.local.api_keys import list_keys
from aigateway.actors.control.local.people import find_user, list_users, user_id_for
from aigateway.actors.control.local.policies import newest
from aigateway.actors.control.local.schema import open_database
from aigateway.http.demo._cases import CASES
from aigateway.http.demo._expectations import differences, expect
from aigateway.http.demo.gateway import DemoFailed, GatewayProcess, child_environment
from aigateway.http.demo.history import tell_people
from aigateway.http.demo.imitation import HeardRequest, answer
from aigateway.http.demo.interrupts import Interrupts
from aigateway.http.demo.records import Recorded, RecordedCall, RecordReader, Usage
from aigateway.http.demo.server import ImitationServer
from aigateway.http.demo.smoke import run_cases


@pytest.fixture
def database(tmp_path):
    connection = open_database(tmp_path / "records.db")
    yield connection
    connection.close()


@pytest.fixture
def reader(database, tmp_path):
    with RecordReader(tmp_path / "records.db") as reader:
        yield reader


def insert(connection, table, **values):
    names = ", ".join(values)
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", [*values.values()])


REQUIRED = """
    initiator_id username api_key_id provider provider_name model client user_agent
    credential_kind credential_hint
"""


def insert_interception(connection, interception_id, started_at, **values):
    base = dict.fromkeys(REQUIRED.split(), "x")
    base |= {"id": interception_id, "started_at": started_at, "metadata": "{}", **values}
    insert(connection, "interceptions", **base)


TOKENS = {"msg_id": "m", "metadata": "{}", "created_at": "2026-01-01T00:00:00Z"}


def test_what_belongs_to_an_interception_is_read_together(database, reader):
    insert_interception(database, "b", "2026-01-01T00:00:01Z", error_type="timeout")
    insert_interception(database, "a", "2026-01-01T00:00:02Z", model="big")
    for number in (1, 2):
        insert(
            database,
            "token_usages",
            interception_id="a",
            input_tokens=number,
            output_tokens=10 * number,
            cache_read_input_tokens=100 * number,
            cache_write_input_tokens=1000 * number,
            **TOKENS,
        )
    tool = {"tool_call_id": "c", "item_id": "", "tool": "t", "input": "{}", "injected": 0}
    insert(database, "tool_usages", interception_id="a", **tool, **TOKENS)
    insert(database, "user_prompts", interception_id="a", prompt="why", **TOKENS)
    newest, other = reader.newest(5)
    assert (newest.id, newest.model, newest.error) == ("a", "big", None)
    assert newest.usage == Usage(3, 30, 300, 3000)
    assert newest.tools == (RecordedCall("t", "{}", "c"),)
    assert newest.prompts == ("why",)
    assert newest.message_ids == {"m"}
    assert (other.id, other.error, other.usage) == ("b", "timeout", Usage())
    assert reader.newest(1) == [newest]
    assert reader.get("b") == other
    assert reader.get("none") is None
    assert reader.count() == 2


def test_a_reader_notices_that_something_was_written(database, reader):
    assert reader.changed()
    assert not reader.changed()
    insert_interception(database, "a", "2026-01-01T00:00:02Z")
    assert reader.changed()
    assert not reader.changed()


@pytest.mark.parametrize("number", Interrupts.SIGNALS)
def test_a_signal_to_end_wakes_who_waits_and_no_more(number):
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        assert not interrupts.wait(0)
        for _ in range(3):
            os.kill(os.getpid(), number)
        assert interrupts.wait(60)
        assert interrupts.given_up()
    assert signal.getsignal(number) is before


def test_the_gateways_environment_is_the_callers_without_its_configuration():
    environ = {
        "PATH": "/bin",
        "CODER_URL": "https://other",
        "CODER_AI_GATEWAY_PROVIDER_7_TYPE": "openai",
        "GUNICORN_CMD_ARGS": "--reload",
        "HTTPS_PROXY": "http://proxy",
        "http_proxy": "http://proxy",
    }
    made = child_environment(environ, "http://imitation", "key")
    assert made == {
        "PATH": "/bin",
        "CODER_AI_GATEWAY_PROVIDER_0_TYPE": "anthropic",
        "CODER_AI_GATEWAY_PROVIDER_0_NAME": "anthropic",
        "CODER_AI_GATEWAY_PROVIDER_0_KEY": "key",
        "CODER_AI_GATEWAY_PROVIDER_0_BASE_URL": "http://imitation",
        "CODER_AI_GATEWAY_PROVIDER_1_TYPE": "openai",
        "CODER_AI_GATEWAY_PROVIDER_1_NAME": "openai",
        "CODER_AI_GATEWAY_PROVIDER_1_KEY": "key",
        "CODER_AI_GATEWAY_PROVIDER_1_BASE_URL": "http://imitation/v1",
        "CODER_AI_GATEWAY_PROVIDER_2_TYPE": "gemini",
        "CODER_AI_GATEWAY_PROVIDER_2_NAME": "gemini",
        "CODER_AI_GATEWAY_PROVIDER_2_KEY": "key",
        "CODER_AI_GATEWAY_PROVIDER_2_BASE_URL": "http://imitation",
    }


def test_a_gateway_that_does_not_start_says_why(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "state").write_text("a file where a folder should be")
    gateway = GatewayProcess(folder, imitation="http://127.0.0.1:1", provider_key="k")
    with gateway, pytest.raises(DemoFailed, match="state"):
        gateway.wait_until_ready()


def recorded_as_expected(expectation):
    return Recorded(
        id="i",
        username="u",
        client="c",
        session_id=None,
        provider="p",
        model=expectation.model,
        started_at="",
        ended_at="",
        error=None,
        usage=expectation.usage,
        prompts=(expectation.prompt,),
        tools=tuple(
            RecordedCall(name, json.dumps(arguments), call)
            for name, arguments, call in expectation.tools
        ),
        thoughts=expectation.thoughts,
        message_ids=frozenset({expectation.message_id}),
    )


RICHEST = next(case for case in CASES if "thinking, tools" in case.title)


def test_right_records_make_no_difference_and_wrong_ones_are_named():
    expectation = expect(RICHEST.upstream_path, json.dumps(RICHEST.body).encode())
    right = recorded_as_expected(expectation)
    assert differences(expectation, right) == []
    assert expectation.thoughts
    assert len(expectation.tools) == 2
    for change, name in (
        ({"model": "other"}, "model"),
        ({"prompts": ()}, "prompts"),
        ({"usage": Usage(1, 2)}, "tokens"),
        ({"tools": right.tools[:1]}, "tool calls"),
        ({"tools": (RecordedCall("get_weather", "no json", "c"),)}, "tool calls"),
        ({"thoughts": ()}, "thoughts"),
        ({"message_ids": frozenset({"other"})}, "message ids"),
        ({"error": "timeout"}, "error"),
    ):
        (difference,) = differences(expectation, evolve(right, **change))
        assert difference.startswith(f"{name}: ")


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.status == 200], ids=lambda case: case.title
)
def test_expectations_are_what_the_imitation_says(case):
    """Worked out a second way: from the blocking answer's own JSON."""
    body = json.dumps({**case.body, "stream": False}).encode()
    path = case.upstream_path.replace(":streamGenerateContent", ":generateContent")
    reply = answer(HeardRequest("POST", path, {"x-api-key": "k"}, body))
    told = json.loads(reply.body)
    expectation = expect(case.upstream_path, body)
    if path.endswith(":generateContent"):
        # Under the names that the others have.
        google = told["usageMetadata"]
        thoughts = google.get("thoughtsTokenCount", 0)
        told["usage"] = {
            "cache_read_input_tokens": google.get("cachedContentTokenCount", 0),
            "output_tokens": google["candidatesTokenCount"] + thoughts,
        }
        told |= {"id": told["responseId"], "model": told["modelVersion"]}
    usage = told["usage"]
    details = usage.get("prompt_tokens_details", usage.get("input_tokens_details", {}))
    cached = usage.get("cache_read_input_tokens", details.get("cached_tokens"))
    assert expectation.message_id == told["id"]
    assert expectation.model == told["model"]
    assert expectation.usage.cache_read == cached
    assert expectation.usage.output == usage.get("output_tokens", usage.get("completion_tokens"))
    assert all(call_id in reply.body.decode() for _, _, call_id in expectation.tools)
    assert all(thought in reply.body.decode() for thought in expectation.thoughts)


def test_the_smoke_test_sees_that_there_is_no_gateway(reader):
    heard = []
    with ImitationServer(heard=heard.append) as imitation:
        stage = SimpleNamespace(
            imitation=imitation,
            gateway=SimpleNamespace(url=imitation.url, check=lambda: None),
            records=reader,
            heard=heard,
            provider_key="provider",
            own_key="own",
            user_key="user",
        )
        results = list(run_cases(stage, lambda: False))
        assert len(results) == len(CASES) + 2
        assert all(result.problems for result in results)
        assert list(run_cases(stage, lambda: True)) == []
    assert all(result.problems for result in run_cases(stage, lambda: False))


def test_the_people_of_the_two_weeks_have_keys_a_group_and_a_policy(database, tmp_path):
    now = time.time()
    tell_people(tmp_path / "records.db", now)
    assert [user.name for user in list_users(database)] == ["ada", "edsger", "grace"]
    # The same ones whose requests are told.
    assert find_user(database, "ada").id == user_id_for("ada")
    states = {key.state(now) for key in list_keys(database)}
    assert states == {"active", "expired", "revoked"}
    assert newest(database).version == 1
