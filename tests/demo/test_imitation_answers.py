"""The imitation provider's answers, without a socket."""

from __future__ import annotations

import json

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from aigateway.http.demo.imitation import HeardRequest, answer
from aigateway.http.demo.server import ImitationServer

PATHS = ["/v1/messages", "/v1/messages/count_tokens", "/v1/chat/completions", "/v1/responses"]

scalars = st.none() | st.booleans() | st.integers(-3, 9) | st.text(max_size=9)
NAMES = """
    model messages input stream tools tool_choice role content type text name function parameters
    input_schema properties required enum anyOf items minimum integer number array object string
    user assistant tool any auto max_tokens n thinking reasoning system cache_control
"""
names = st.sampled_from(NAMES.split())
values = st.recursive(
    scalars | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5),
    max_leaves=25,
)


def post(path: str, body: object, keys=None):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return answer(HeardRequest("POST", path, {"authorization": "Bearer k"}, data), keys)


@given(st.sampled_from(PATHS), values, st.dictionaries(names, values))
def test_any_json_gets_an_answer_and_the_same_one_twice(path, value, fields):
    base = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "use it"}]}
    for body in (value, {**base, "input": "use it", **fields}):
        reply = post(path, body)
        assert reply.status in (200, 400)
        assert reply == post(path, body)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "model: this field is required"),
        (b'{"model": 3}', "model: this field has the wrong type"),
        (b'{"model": "m"}', ": this field is required"),
    ],
)
def test_a_broken_request_is_refused_in_the_apis_shape(path, body, complaint):
    reply = post(path, body)
    assert reply.status == 400
    refusal = json.loads(reply.body)
    assert complaint in refusal["error"]["message"]
    assert refusal["error"]["type"] == "invalid_request_error"
    assert ("request_id" in refusal) == path.startswith("/v1/messages")


@pytest.mark.parametrize("path", PATHS)
def test_only_posts_are_taken(path):
    assert answer(HeardRequest("GET", path, {"x-api-key": "k"})).status == 405


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Basic known"}, {"authorization": "Bearer other"}, {"x-api-key": "no"}],
)
def test_a_key_is_needed_and_must_be_known(headers):
    assert answer(HeardRequest("POST", "/v1/responses", headers), {"known"}).status == 401


def test_a_prompt_decides_how_long_the_answer_is():
    body = {"model": "m", "input": "tell me something in 300 words"}
    response = json.loads(post("/v1/responses", body).body)
    assert len(response["output"][0]["content"][0]["text"].split()) == 300
    assert response["usage"]["output_tokens"] == 300


def test_a_broken_off_stream_ends_inside_an_event():
    body = {"model": "m", "input": "please break off", "stream": True}
    reply = post("/v1/responses", body)
    assert reply.breaks_off
    assert not reply.events[-1].endswith(b"\n\n")
    assert all(event.endswith(b"\n\n") for event in reply.events[:-1])


def test_events_and_chunks_are_one_and_the_same():
    body = {"model": "m", "input": "hello", "stream": True}
    with ImitationServer(delay=0.001) as server, requests.Session() as session:
        headers = {"Authorization": "Bearer k"}
        for _ in range(2):
            reply = session.post(server.url + "/v1/responses", json=body, headers=headers)
            assert reply.content == b"".join(post("/v1/responses", body).events)


def test_a_server_can_be_stopped_while_it_streams():
    heard = []
    server = ImitationServer(delay=60, heard=heard.append)
    body = {"model": "m", "input": "hello", "stream": True}
    headers = {"Authorization": "Bearer k", "Transfer-Encoding": "chunked"}
    data = (part for part in [json.dumps(body).encode()])
    reply = requests.post(server.url + "/v1/responses?x=1", data=data, headers=headers, stream=True)
    with reply:
        server.stop()
    assert heard[0].path == "/v1/responses"
    assert json.loads(heard[0].body) == body
    with pytest.raises(requests.ConnectionError):
        requests.get(server.url)
