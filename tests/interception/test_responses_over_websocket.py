"""A response on a WebSocket leaves the records that the same one leaves over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest
from interception_driver import NOW, event, exchange, finish

from aigateway.actors.codec.headers import HeaderList, first_of
from aigateway.actors.interception.interface import InvalidRequest
from aigateway.actors.interception.responses_socket import (
    BUSY,
    CREATE,
    ClientMessage,
    Lanes,
    SocketResponse,
    begins_response,
    error_message,
    error_message_of,
    headers_of,
    mask_error,
    open_response,
    read_client_message,
    refused_status,
    steered_request,
)

USAGE = {
    "input_tokens": 30,
    "output_tokens": 12,
    "total_tokens": 42,
    "input_tokens_details": {"cached_tokens": 10},
    "output_tokens_details": {"reasoning_tokens": 4},
}
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_2",
    "name": "shell",
    "arguments": '{"command":"ls"}',
}
THOUGHT = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "look around"}],
}
ASKED = {
    "model": "gpt-imaginary",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "what is here?"}]},
    ],
}
ANSWERED = {
    "model": "gpt-imaginary",
    "input": [{"type": "function_call_output", "call_id": "call_1", "output": "a file"}],
    "previous_response_id": "resp_0",
}


def response(status: str = "in_progress", **more: Any) -> dict[str, Any]:
    return {"id": "resp_1", "status": status, "model": "gpt-imaginary", "output": [], **more}


def events() -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = [
        {"type": "response.created", "response": response()},
        {"type": "response.in_progress", "response": response()},
        {"type": "response.output_item.done", "output_index": 0, "item": THOUGHT},
        {"type": "response.output_text.delta", "delta": "hel\nlo", "output_index": 1},
        {"type": "response.output_item.done", "output_index": 1, "item": CALL},
        {
            "type": "response.completed",
            "response": response("completed", output=[THOUGHT, CALL], usage=USAGE),
        },
    ]
    return [{**each, "sequence_number": number} for number, each in enumerate(told)]


def over_http(asked: dict[str, Any], told: list[dict[str, Any]]) -> Any:
    stream = b"".join(event(each["type"], **each) for each in told)
    return exchange("responses", {**asked, "stream": True}, stream)


def opened(asked: dict[str, Any], **more: Any) -> SocketResponse:
    body = json.dumps({"type": "response.create", **asked, **more}).encode()
    return open_response("int-1", body)


@pytest.mark.parametrize("asked", [ASKED, ANSWERED])
@pytest.mark.parametrize("indent", [None, 2])
def test_records_are_those_of_http(asked: dict[str, Any], indent: int | None) -> None:
    there = over_http(asked, events())
    interception = opened(asked)
    assert interception.correlating_tool_call_id == there.interception.correlating_tool_call_id
    assert interception.model == there.interception.model
    for each in events():
        assert not interception.over
        message = json.dumps(each, indent=indent).encode()
        assert interception.receive_data(message, NOW) == message
    assert interception.over
    here = finish(interception)
    assert here.records == there.records
    assert here.outcome == there.outcome
    assert here.client == b""
    assert not interception.cut


def test_what_prepares_a_conversation_has_no_prompt() -> None:
    interception = opened(ASKED, generate=False)
    done = {"type": "response.completed", "response": response("completed", usage=USAGE)}
    interception.receive_data(json.dumps(done).encode(), NOW)
    found = finish(interception)
    assert found.prompts == []
    assert [each.input_tokens for each in found.tokens] == [20]


@pytest.mark.parametrize("status", [400, 429, 503])
def test_a_refusal_is_that_of_http(status: int) -> None:
    error = {"type": "bad", "code": "previous_response_not_found", "message": "there is no such"}
    there = exchange(
        "responses",
        {**ASKED, "stream": True},
        json.dumps({"error": error}).encode(),
        status=status,
        content_type="application/json",
    )
    interception = opened(ASKED)
    message = json.dumps({"type": "error", "status": status, "error": error}).encode()
    assert interception.receive_data(message, NOW) == message
    assert interception.over
    here = finish(interception)
    assert here.records == there.records == []
    assert here.outcome.error_type == there.outcome.error_type
    assert "there is no such" in str(here.outcome.error_message)


def test_a_cut_is_told_as_an_error_and_recorded() -> None:
    interception = opened(ASKED)
    for each in events()[:4]:
        interception.receive_data(json.dumps(each).encode(), NOW)
    found = finish(interception, end="cut")
    told = json.loads(found.client)
    assert (told["type"], told["status"], told["sequence_number"]) == ("error", 502, 4)
    assert "connection reset by peer" in told["error"]["message"]
    assert found.interception.cut
    assert found.outcome.error_type == "server_error"
    assert [each.metadata["usage_complete"] for each in found.tokens] == [False]


def test_a_failure_inside_of_an_answer_is_its_end() -> None:
    interception = opened(ASKED)
    interception.receive_data(json.dumps(events()[0]).encode(), NOW)
    error = {"code": "rate_limit_exceeded", "message": "slow down"}
    failed = {"type": "response.failed", "response": response("failed", error=error)}
    interception.receive_data(json.dumps(failed).encode(), NOW)
    assert interception.over
    assert finish(interception).outcome.error_message == "slow down"


# -- what clients say


def test_a_message_says_what_it_asks_for_and_in_which_lane() -> None:
    create = b' {"type" : "response.create", "stream_id": "a", "input": "hi"}'
    assert read_client_message(create) == ClientMessage("response.create", "a")
    assert read_client_message(b'{"type":"x","stream_id":null}') == ClientMessage("x", None)
    assert read_client_message(b"{}") == ClientMessage("", None)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b'"response.create"',
        b'{"type":"response.create"',
        b'{"type":"response.cancel","type":"response.create"}',
        b'{"type":"response.cancel","ty\\u0070e":"response.create"}',
        b'{"type":"response.create","stream_id":"a","stream_id":"b"}',
        b'{"type":"response.create","stream_id":7}',
        b'{"type":"response.create","generate":false,"generate":true}',
        b"\xff\xfe",
    ],
)
def test_what_can_be_understood_in_two_ways_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_client_message(payload)


@pytest.mark.parametrize("told", [None, 1, "x", [], {}, {"session_id": 1}, {"session_id": ""}])
def test_a_message_that_says_nothing_of_itself_has_the_headers_of_the_handshake(told: Any) -> None:
    handshake = HeaderList([("session-id", "s-1")])
    asked = read_client_message(json.dumps({"type": CREATE, "client_metadata": told}).encode())
    assert headers_of(handshake, asked) == handshake


def test_what_a_message_says_of_itself_stands_in_the_place_of_that_header() -> None:
    handshake = HeaderList([("Session-Id", "s-1"), ("Originator", "codex")])
    told = {"session_id": "s-2", "originator": "other", "x-codex-turn-metadata": "größe"}
    asked = read_client_message(json.dumps({"type": CREATE, "client_metadata": told}).encode())
    found = headers_of(handshake, asked)
    assert (first_of(found, "session-id"), first_of(found, "originator")) == ("s-2", "codex")
    assert first_of(found, "x-codex-turn-metadata").encode("latin-1").decode() == "größe"


def test_a_steered_response_has_the_model_of_the_one_before() -> None:
    steer = b'{"type":"response.steer","previous_response_id":"resp_1","input":"no, left"}'
    interception = open_response("int-2", steered_request(steer, "gpt-imaginary"))
    assert interception.model == "gpt-imaginary"
    done = {"type": "response.completed", "response": response("completed", usage=USAGE)}
    interception.receive_data(json.dumps(done).encode(), NOW)
    assert [each.prompt for each in finish(interception).prompts] == ["no, left"]
    assert open_response("int-3", steered_request(b"", "m")).model == "m"


# -- what servers say


def test_an_error_has_a_status_and_the_words_of_the_api() -> None:
    said = json.loads(error_message_of(403, b'{"message":"over the budget"}', "a"))
    assert (said["type"], said["status"], said["stream_id"]) == ("error", 403, "a")
    assert said["error"]["message"] == "over the budget"
    body = b'{"error":{"type":"t","code":"c","message":"m","param":null}}'
    assert json.loads(error_message_of(429, body)) == {
        "type": "error",
        "status": 429,
        "error": {"type": "t", "code": "c", "message": "m", "param": None},
    }
    assert refused_status(error_message(418, {})) == 418
    assert refused_status(b'{"type":"response.created","status":"error"}') == 0
    assert begins_response(b'{"type":"response.created","response":{}}')
    assert not begins_response(b'{"type":"x","text":"\\"type\\":\\"response.created\\""}')


def test_errors_to_the_gateways_own_key_do_not_name_it() -> None:
    error = {"message": "Incorrect API key provided: sk-secret-of-the-gateway"}
    message = error_message(401, error)
    shown = mask_error(message, ["sk-secret-of-the-gateway"])
    assert b"sk-secret" not in shown
    assert json.loads(shown)["status"] == 502
    plain = error_message(400, {"message": "bad"})
    assert mask_error(plain, ["sk-secret-of-the-gateway"]) == plain


# -- who runs


def test_one_runs_in_each_lane() -> None:
    lanes: Lanes[str] = Lanes()
    assert lanes.take(None)
    assert not lanes.take(None)
    assert lanes.find(b"{}") is None
    assert lanes.fill(None, "first")
    assert lanes.find(b'{"stream_id":"a"}') == "first"
    assert lanes.take("a")
    lanes.put("a", "second")
    assert not lanes.fill("a", "third")
    lanes.free("a")
    assert lanes.find(b'{"stream_id":"a"}') == "second"
    assert lanes.find(b'{"stream_id":"b"}') is None
    assert lanes.find(b'{"text":"stream_id"}') == "first"
    # A refusal that does not say of what.
    assert lanes.pop(None) == "first"
    assert lanes.find(b'{"type":"error","status":400}') == "second"
    assert lanes.find(b'{"type":"x"}') is None
    lanes.put(None, "first")
    assert lanes.find(b'{"type":"error","status":400}') == "first"
    assert lanes.running() == ["a", None]
    assert lanes.pop("a") == "second"
    assert lanes.pop("a") is None
    assert lanes.take("a")
    assert lanes.pop_all() == ["first"]
    assert len(lanes) == 0
    assert BUSY
