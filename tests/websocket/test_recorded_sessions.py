"""Responses on a WebSocket: recorded, refused and ended as over HTTP."""

from __future__ import annotations

import json
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import ReceivedRequest, ScriptedProvider, Steps, event, stream
from socket_client import open_session, ws_url
from socket_provider import SocketProvider, completed, response_events
from socket_rig import Mine, Start
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection

THOUGHT = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "look around"}],
}


def called(number: int) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": f"fc_{number}",
        "call_id": f"call_{number}",
        "name": "shell",
        "arguments": '{"command":"ls"}',
    }


TABLES = ("token_usages", "user_prompts", "tool_usages", "model_thoughts", "model_answers")


def turns() -> list[dict[str, Any]]:
    """Requests of one conversation: a question, and what two calls have given."""
    said = [{"role": "user", "content": [{"type": "input_text", "text": "what is here?"}]}]
    done = [
        [{"type": "function_call_output", "call_id": f"call_{n}", "output": f"file {n}"}]
        for n in (1, 2)
    ]
    first = {"model": "gpt-imaginary", "input": said}
    rest = [
        {"model": "gpt-imaginary", "input": each, "previous_response_id": f"resp_{number}"}
        for number, each in enumerate(done, 1)
    ]
    return [first, *rest]


def events_of(number: int) -> list[dict[str, Any]]:
    if number <= 2:
        return response_events(f"resp_{number}", [THOUGHT, called(number)])
    return response_events(f"resp_{number}", text="two files")


def rows(gateway: GatewayProcess) -> list[dict[str, Any]]:
    """All that is recorded, without what differs between any two runs."""
    count = len(turns())
    ended = "SELECT id FROM interceptions WHERE ended_at IS NOT NULL ORDER BY started_at"
    ids = wait_until(lambda: len(found := gateway.rows(ended)) == count and found, "all end")
    kept = []
    for each in ids:
        record = gateway.records(each["id"])
        del record["id"], record["started_at"], record["ended_at"], record["api_key_id"]
        del record["user_agent"]
        for table in TABLES:
            for row in record[table]:
                for name in ("interception_id", "created_at", "id", "record_id"):
                    row.pop(name, None)
        sent = gateway.rows(
            "SELECT kind, content FROM content_parts WHERE interception_id = ? ORDER BY place",
            each["id"],
        )
        kept.append({**record, "sent": sent})
    return kept


def test_a_conversation_leaves_the_rows_that_it_leaves_over_http(
    start: Start, sockets: SocketProvider, tmp_path: Path, worker_class: str
) -> None:
    def over_http(request: ReceivedRequest) -> Steps:
        number = len(http.requests)
        return stream([event(each, each["type"]) for each in events_of(number)])

    def over_socket(
        provider: SocketProvider, connection: ServerConnection, asked: dict[str, Any]
    ) -> None:
        for each in events_of(len(provider.received)):
            connection.send(json.dumps(each))

    sockets.script = over_socket
    gateway = start("--content", "full")
    with open_session(gateway) as session:
        for asked in turns():
            session.create(**asked)
            assert session.answer() == events_of(len(sockets.received))
    assert sockets.received == [{"type": "response.create", **each} for each in turns()]
    with ScriptedProvider(otherwise=over_http) as http:
        upstreams = [Upstream("openai", http.url)]
        options = ["--worker-class", worker_class, "--content", "full"]
        with GatewayProcess(tmp_path / "http", upstreams, options) as other:
            for asked in turns():
                answer = requests.post(
                    f"{other.url}/openai/v1/responses",
                    json={**asked, "stream": True},
                    headers={"Authorization": f"Bearer {other.key()}"},
                    timeout=30,
                )
                assert b"response.completed" in answer.content
            expected = rows(other)
    found = rows(gateway)
    assert found == expected
    assert [each["correlating_tool_call_id"] for each in found] == [None, "call_1", "call_2"]
    assert [len(each["tool_usages"]) for each in found] == [1, 1, 0]
    assert [len(each["model_thoughts"]) for each in found] == [1, 1, 0]
    assert [len(each["user_prompts"]) for each in found] == [1, 0, 0]
    answers = [[row["content"] for row in each["model_answers"]] for each in found]
    assert answers == [[], [], ["two files"]]
    sent = [[json.loads(part["content"]) for part in each["sent"]] for each in found]
    assert sent == [asked["input"] for asked in turns()]
    assert all(each["token_usages"][0]["input_tokens"] == 20 for each in found)


def test_the_provider_gets_its_own_key_and_nothing_of_the_clients_handshake(mine: Mine) -> None:
    headers = {"session_id": "s-1", "OpenAI-Beta": "responses_websockets=2026-02-06"}
    with mine.open(headers=headers, compression="deflate") as session:
        assert session.ask()[-1]["type"] == "response.completed"
        answered = session.connection.response
    assert answered is not None
    assert "Sec-WebSocket-Extensions" not in answered.headers
    assert answered.headers["X-AI-Gateway-Request-Id"]
    asked = mine.sockets.handshakes[0].headers
    assert asked.get_all("Authorization") == ["Bearer sk-upstream-secret-key"]
    assert asked["OpenAI-Beta"] == "responses_websockets=2026-02-06"
    assert "Sec-WebSocket-Extensions" not in asked
    assert mine.key not in str(asked)


def test_one_response_at_a_time_runs_in_a_lane(mine: Mine) -> None:
    go_on = threading.Event()

    def answer(provider: SocketProvider, connection: ServerConnection, asked: Any) -> None:
        lane = {"stream_id": asked["stream_id"]} if "stream_id" in asked else {}
        events = response_events(f"resp_{asked['input']}", text="a b", **lane)

        def tell() -> None:
            for number, each in enumerate(events):
                connection.send(json.dumps(each))
                if number == 1:
                    assert go_on.wait(20)

        threading.Thread(target=tell).start()

    mine.sockets.script = answer
    with mine.open() as session:
        session.create("one", stream_id="a")
        session.create("two", stream_id="b")
        begun = [session.next() for _ in range(4)]
        assert sorted(each["stream_id"] for each in begun) == ["a", "a", "b", "b"]
        session.create("three", stream_id="a")
        refused = session.next()
        assert (refused["type"], refused["status"], refused["stream_id"]) == ("error", 400, "a")
        assert "still running" in refused["error"]["message"]
        go_on.set()
        rest = [session.next() for _ in range(8)]
        done = [each["response"]["id"] for each in rest if each["type"] == "response.completed"]
        assert sorted(done) == ["resp_one", "resp_two"]
        assert session.ask("four", stream_id="a")[-1]["response"]["id"] == "resp_four"
    found = mine.rows("prompt", "user_prompts")
    assert sorted(each["prompt"] for each in found) == ["four", "one", "two"]


def test_what_prepares_a_conversation_is_recorded_without_a_prompt(mine: Mine) -> None:
    with mine.open() as session:
        session.ask("context", generate=False)
        session.ask("question")
    assert mine.sockets.received[0]["generate"] is False
    assert [each["prompt"] for each in mine.rows("prompt", "user_prompts")] == ["question"]
    assert len(mine.rows("error_type")) == 2


@pytest.mark.parametrize("kind", ["response.cancel", "response.interrupt"])
def test_a_response_that_its_client_stops_ends_and_another_begins(mine: Mine, kind: str) -> None:
    def answer(provider: SocketProvider, connection: ServerConnection, asked: Any) -> None:
        events = response_events(f"resp_{len(provider.received)}", text="a b")
        if len(provider.received) == 1:
            events = events[:3]
        elif asked["type"] == kind:
            status = "interrupted" if kind.endswith("rupt") else "cancelled"
            ended = {**completed("resp_1"), "type": f"response.{status}"}
            events = [{**ended, "response": {**ended["response"], "status": status}}]
        for each in events:
            connection.send(json.dumps(each))

    mine.sockets.script = answer
    with mine.open() as session:
        session.create("go right")
        for _ in range(3):
            session.next()
        stop = {"type": kind, "response_id": "resp_1"}
        session.connection.send(json.dumps(stop))
        assert session.next()["response"]["id"] == "resp_1"
        assert session.ask("go left")[-1]["response"]["status"] == "completed"
    assert mine.sockets.received[1] == stop
    told = mine.rows("input_tokens, output_tokens", "token_usages")
    assert [tuple(each.values()) for each in told] == [(20, 12), (20, 12)]
    assert [each["error_type"] for each in mine.rows("error_type")] == [None, None]


def metadata(kind: str, **more: Any) -> str:
    """What Codex 0.171 says of a request, cut to what is read."""
    said = {"request_kind": kind, **more}
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"))


def test_what_codex_says_of_each_request_counts_before_its_handshake(mine: Mine) -> None:
    headers = {
        "User-Agent": "codex-tui/0.171.0 (Debian 12.0.0; x86_64)",
        "session-id": "s-1",
        "thread-id": "s-1",
        "x-codex-turn-metadata": metadata("prewarm"),
    }
    work = {
        "/home/ada/größe": {
            "associated_remote_urls": {"origin": "https://git.example/acme/shop.git"},
            "latest_git_commit_hash": "0123456789abcdef0123456789abcdef01234567",
        }
    }
    told = {"session_id": "s-1", "thread_id": "s-1"}
    with mine.open(headers=headers, user_agent_header=None) as session:
        session.ask([], generate=False, client_metadata={**told, "turn_id": ""})
        turn = {**told, "x-codex-turn-metadata": metadata("turn", workspaces=work)}
        session.ask("make it fit", client_metadata=turn)
        shorter = {**told, "x-codex-turn-metadata": metadata("compaction", workspaces=work)}
        session.ask("make a summary", client_metadata=shorter)
        helper = {
            "session_id": "s-1",
            "thread_id": "a-1",
            "x-codex-parent-thread-id": "s-1",
            "x-openai-subagent": "collab_spawn",
        }
        session.ask("count the files", client_metadata=helper)
        session.ask("and on", client_metadata=turn)
    rows = mine.rows("client, session_id, agent_id, repository, commit_hash")
    assert {(row["client"], row["session_id"]) for row in rows} == {("Codex", "s-1")}
    assert [row["agent_id"] for row in rows] == [None, None, None, "a-1", None]
    shop, commit = "git.example/acme/shop", "0123456789abcdef0123456789abcdef01234567"
    known = (shop, commit)
    assert [(row["repository"], row["commit_hash"]) for row in rows] == [
        (None, None), known, known, (None, None), known,
    ]  # fmt: skip
    kinds = [
        json.loads(row["metadata"])["prompt_kind"]
        for row in mine.rows("t.metadata", "user_prompts")
    ]
    assert kinds == ["user", "compaction", "agent", "user"]


def test_a_response_that_follows_a_steer_by_itself_is_recorded(mine: Mine) -> None:
    def answer(provider: SocketProvider, connection: ServerConnection, asked: Any) -> None:
        if asked["type"] == "response.create":
            for each in response_events("resp_right", text="a b")[:3]:
                connection.send(json.dumps(each))
            return
        done = completed("resp_right")
        done["type"] = "response.incomplete"
        done["response"].update(status="incomplete", incomplete_details={"reason": "steered"})
        for each in (done, *response_events("resp_left", text="left it is")):
            connection.send(json.dumps(each))

    mine.sockets.script = answer
    with mine.open() as session:
        session.create("go right")
        for _ in range(3):
            session.next()
        steer = {
            "type": "response.steer",
            "previous_response_id": "resp_right",
            "input": "no, left",
        }
        session.connection.send(json.dumps(steer))
        events = session.answer()
        assert [each["response"]["id"] for each in events if "response" in each] == [
            "resp_right",
            "resp_left",
            "resp_left",
        ]
    found = mine.rows("prompt, msg_id", "user_prompts")
    assert [(each["msg_id"], each["prompt"]) for each in found] == [
        ("resp_right", "go right"),
        ("resp_left", "no, left"),
    ]
    assert {each["model"] for each in mine.rows("model")} == {"gpt-imaginary"}


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("no json", 400),
        ("[]", 400),
        ('{"type":"response.mystery"}', 400),
        ('{"type":"response.cancel","type":"response.create","model":"m"}', 400),
        ('{"type":"response.create","model":"m","input":"x","background":true}', 501),
    ],
)
def test_a_refused_message_is_an_error_and_the_session_goes_on(
    mine: Mine, message: str, status: int
) -> None:
    with mine.open() as session:
        session.connection.send(message)
        told = session.next()
        assert (told["type"], told["status"]) == ("error", status)
        assert told["error"]["message"]
        assert mine.sockets.received == []
        assert session.ask()[-1]["type"] == "response.completed"


def test_every_request_is_authorised_again(mine: Mine) -> None:
    with mine.open() as session:
        assert session.ask()[-1]["type"] == "response.completed"
        key_id = mine.key.partition("-")[0]
        database = ["--local-db", str(mine.gateway.database)]
        assert mine.gateway.command("keys", "revoke", *database, key_id).returncode == 0

        def refused() -> bool:
            told = session.ask()[-1]
            assert told["type"] == "response.completed" or told["status"] == 403
            return bool(told["type"] == "error")

        # An answer of the control plane is good for a moment.
        wait_until(refused, "the key is no longer good")
    with pytest.raises(Exception, match="403"):
        mine.open()


def test_the_rate_limit_counts_each_request(start: Start) -> None:
    gateway = start("--ai-gateway-rate-limit", "3")
    with open_session(gateway) as session:
        statuses = [session.ask()[-1].get("status") for _ in range(8)]
    assert 429 in statuses
    assert None in statuses


def test_a_model_that_is_not_served_is_an_error(start: Start, sockets: SocketProvider) -> None:
    gateway = start(extra={"MODELS": "gpt-imaginary=real-name"})
    with open_session(gateway) as session:
        told = session.ask(model="another")[-1]
        assert (told["type"], told["status"]) == ("error", 404)
        session.ask()
    assert [each["model"] for each in sockets.received] == ["real-name"]


def test_an_error_of_the_provider_is_recorded_and_shows_no_key(mine: Mine) -> None:
    def answer(provider: SocketProvider, connection: ServerConnection, asked: Any) -> None:
        text = "Incorrect API key provided: sk-upstream-secret-key"
        error = {"type": "invalid_request_error", "code": "invalid_api_key", "message": text}
        connection.send(json.dumps({"type": "error", "status": 401, "error": error}))

    mine.sockets.script = answer
    with mine.open() as session:
        told = session.ask()[-1]
        assert told["status"] == 502
        assert "sk-upstream-secret-key" not in json.dumps(told)
        assert session.ask()[-1]["status"] == 502
    runtime = ["--runtime-dir", str(mine.gateway.runtime_dir)]
    assert "everything" in mine.gateway.command("actors", *runtime).stdout, "its key rests"
    for each in mine.rows("error_type, error_message"):
        assert each["error_type"]
        assert "sk-upstream-secret-key" not in each["error_message"]


@pytest.mark.parametrize("kind", ["error", "response.failed", "close"])
def test_no_way_of_telling_a_failure_shows_the_gateways_key(mine: Mine, kind: str) -> None:
    text = "no access for org-ABCDEFGHIJKLMNOPQRSTUVWX with sk-upstream-secret-key"

    def answer(provider: SocketProvider, connection: ServerConnection, asked: Any) -> None:
        error = {"code": "server_error", "message": text}
        if kind == "close":
            connection.close(3000, text)
        elif kind == "error":
            connection.send(json.dumps({"type": kind, "error": error}))
        else:
            response = {"id": "resp_1", "status": "failed", "error": error}
            connection.send(json.dumps({"type": kind, "response": response}))

    mine.sockets.script = answer
    with mine.open() as session:
        told = json.dumps(session.ask()[-1])
        if kind == "close":
            told += session.closed()[1]
    [row] = mine.rows("error_message")
    for shown in (told, row["error_message"]):
        assert "no access for *** with ***" in shown
        assert "org-" not in shown
        assert "sk-" not in shown


# -- ends


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1009, 1011, 1012, 1013, 3000, 4000, None])
def test_a_close_of_the_provider_never_looks_like_an_end(mine: Mine, code: int | None) -> None:
    def answer(provider: SocketProvider, connection: ServerConnection, asked: Any) -> None:
        for each in response_events("resp_1", text="a b")[:3]:
            connection.send(json.dumps(each))
        if code is None:
            connection.socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            connection.socket.close()
        else:
            connection.close(code, "so long")

    mine.sockets.script = answer
    with mine.open() as session:
        told = session.ask()[-1]
        assert (told["type"], told["status"]) == ("error", 502)
        closed, _reason = session.closed()
        assert closed == (1011 if code in (None, 1000) else code)
    [found] = mine.rows("error_type, ended_at")
    assert found["error_type"] == "server_error"
    assert found["ended_at"]


def test_a_close_between_responses_is_handed_on(mine: Mine) -> None:
    with mine.open() as session:
        session.ask()
        mine.sockets.connections[0].close(4000, "enough")
        assert session.closed() == (4000, "enough")


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_client_that_goes_leaves_the_usage(mine: Mine, how: str) -> None:
    gone = threading.Event()

    def answer(provider: SocketProvider, connection: ServerConnection, asked: Any) -> None:
        for number, each in enumerate(response_events("resp_1", text="a b")):
            connection.send(json.dumps(each))
            if number == 2:
                assert gone.wait(20)

    mine.sockets.script = answer
    session = mine.open()
    session.create()
    for _ in range(3):
        session.next()
    if how == "close":
        session.connection.close()
    else:
        linger = struct.pack("ii", 1, 0)
        session.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        session.connection.socket.close()
    gone.set()
    mine.sockets.wait(lambda: bool(mine.sockets.closed))
    [found] = mine.rows("id")
    record = mine.gateway.records(found["id"])
    assert [each["output_tokens"] for each in record["token_usages"]] == [12]
    lines = wait_until(
        lambda: [
            each["fields"]
            for each in mine.gateway.logs()
            if each.get("fields", {}).get("interception_id") == found["id"]
        ],
        "the response is logged",
    )
    assert lines[0]["outcome"] == "left"


# -- frames


def test_frames_come_as_they_were_sent(mine: Mine) -> None:
    """By another library, which shows single frames."""
    events = [json.dumps(each, indent=1).encode() for each in response_events("resp_1", text="é x")]

    def answer(provider: SocketProvider, connection: ServerConnection, asked: Any) -> None:
        for each in events:
            half = len(each) // 2
            connection.send(iter([each[:half], each[half:]]), text=True)
        connection.ping(b"are you there?")

    mine.sockets.script = answer
    client = websocket.WebSocket(fire_cont_frame=True, enable_multithread=False)
    client.connect(ws_url(mine.gateway), header=[f"Authorization: Bearer {mine.key}"], timeout=20)
    large = "x" * (1 << 20)
    asked = json.dumps({"type": "response.create", "model": "m", "input": large}).encode()
    abnf = websocket.ABNF
    parts = [asked[at : at + 1000] for at in range(0, len(asked), 1000)]
    for number, part in enumerate(parts):
        opcode = abnf.OPCODE_CONT if number else abnf.OPCODE_TEXT
        client.send_frame(abnf.create_frame(part, opcode, number == len(parts) - 1))
        if number == 3:
            client.ping("ahead?")
    assert client.recv_data_frame(control_frame=True)[1].data == b"ahead?"
    for each in events:
        half = len(each) // 2
        frames = [client.recv_frame() for _ in range(3)]
        assert [frame.data for frame in frames] == [each[:half], each[half:], b""]
        assert [frame.fin for frame in frames] == [0, 0, 1]
    assert client.recv_data_frame(control_frame=True)[1].data == b"are you there?"
    assert mine.sockets.received[0]["input"] == large
    client.close()


def test_a_client_that_reads_slowly_gets_all(mine: Mine) -> None:
    text = "y" * 50_000

    def answer(provider: SocketProvider, connection: ServerConnection, asked: Any) -> None:
        for each in response_events("resp_1", text=" ".join([text] * 40)):
            connection.send(json.dumps(each))

    mine.sockets.script = answer
    url = ws_url(mine.gateway)
    client = websocket.WebSocket(sockopt=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)])
    client.connect(url, header=[f"Authorization: Bearer {mine.key}"], timeout=30)
    client.send(json.dumps({"type": "response.create", "model": "m", "input": "x"}))
    kinds = []
    while not kinds or kinds[-1] != "response.completed":
        kinds.append(json.loads(client.recv())["type"])
    assert kinds.count("response.output_text.delta") == 40
    client.close()


def test_what_is_no_websocket_closes_with_a_reason(mine: Mine) -> None:
    with mine.open() as session:
        session.connection.socket.sendall(b"\x81\x02hi")
        code, reason = session.closed()
        assert (code, reason) == (1002, "a frame without a mask")
    mine.sockets.wait(lambda: bool(mine.sockets.closed))


def test_a_message_over_the_limit_closes_the_session(mine: Mine) -> None:
    with mine.open() as session:
        # It may be closed before all of the message was sent.
        with suppress(ConnectionClosed):
            session.create("x" * (2 << 20))
        assert session.closed()[0] == 1009


POLICY = """
everybody: {models: ["gpt-imaginary"], providers: [openai]}
users:
  carol: {requests_per_minute: 2}
  peter: {providers: [another]}
"""


def test_the_policy_holds_for_each_request(
    tmp_path: Path, sockets: SocketProvider, worker_class: str
) -> None:
    options = ["--worker-class", worker_class]
    gateway = GatewayProcess(tmp_path, [Upstream("openai", sockets.url)], options)
    (tmp_path / "policy.yaml").write_text(POLICY)
    database = ["--local-db", str(gateway.database)]
    done = gateway.command("policy", "apply", "policy.yaml", "--yes", *database)
    assert done.returncode == 0, done.stderr
    with gateway:
        with open_session(gateway) as session:
            told = session.ask(model="gpt-other")[-1]
            assert (told["type"], told["status"]) == ("error", 403)
            assert "policy" in told["error"]["message"]
            assert session.ask()[-1]["type"] == "response.completed"
        with open_session(gateway, "carol") as session:
            # Not that it was opened: what is asked on it.
            kinds = [session.ask()[-1].get("status", 200) for _ in range(3)]
            assert kinds == [200, 200, 429]
        with pytest.raises(Exception, match="403"):
            open_session(gateway, "peter")
    assert len(sockets.received) == 3
    assert len(gateway.rows("SELECT id FROM interceptions")) == 3
