"""The connection in front of coderd's own libraries."""

from __future__ import annotations

import queue
import uuid
from collections.abc import Iterator
from typing import Any

import pykka
import pytest
from coderd_talk import Talk, eventually, interception, prompt
from go_peer import GoPeer

from aigateway.actors.control.coderd import _session
from aigateway.actors.control.coderd.wire.yamux import Limits
from aigateway.actors.control.messages import (
    Accepted,
    Caller,
    Denied,
    McpConfiguration,
    McpServer,
    ProvidersChanged,
    Unavailable,
)
from aigateway.actors.values.records import (
    InterceptionEnded,
    ModelThought,
    TokenUsage,
    ToolUsage,
)

OWNER = "c0ffee00-1111-4222-8333-444455556666"
TOKEN = "tokenalice-abcdefghijklmnopqrstuv"
LIVE: dict[str, Any] = {"providers": None}


@pytest.fixture(scope="module")
def process() -> Iterator[GoPeer]:
    with GoPeer(keepalive=1.0, write_timeout=2.0) as peer:
        yield peer


@pytest.fixture
def peer(process: GoPeer) -> GoPeer:
    process.reset()
    process.add_user(TOKEN, OWNER, "alice", email="alice@example.com")
    return process


def names(box: queue.Queue[ProvidersChanged]) -> list[str]:
    return [config.name for config in box.get(timeout=10).providers]


@pytest.mark.parametrize("reuse", [True, False])
def test_every_call_is_understood(peer: GoPeer, reuse: bool) -> None:
    peer.set_providers([{"name": "one", "type": "openai", "keys": ["k"]}])
    peer.set_mcp(
        coder={"id": "coder", "url": "https://coder/mcp"},
        servers=[{"id": "github", "url": "https://github/mcp"}],
        tokens={OWNER: {"github": "gh"}},
        errors={},
    )
    with Talk(peer, actor=LIVE, stream_reuse=reuse) as talk:
        caller = talk.authorize(TOKEN, "one", "gpt")
        assert caller == Caller(OWNER, "alice", "tokenalice", "alice@example.com", websocket=False)
        record = interception(initiator_id=OWNER, metadata={"a": [1, None, {"b": True}]})
        assert talk.start_interception(record) == Accepted()
        report = talk.store(
            prompt(record.id, "hé"),
            TokenUsage(
                interception_id=record.id,
                msg_id="m",
                input_tokens=1,
                output_tokens=2,
                created_at=1767225600.5,
                extra_token_types={"reasoning": 3},
            ),
            ToolUsage(interception_id=record.id, msg_id="m", tool="t", input="{}", created_at=1.0),
            ModelThought(interception_id=record.id, content="hm", created_at=1.0),
            InterceptionEnded(id=record.id, ended_at=1767225601.0),
        )
        assert len(report.done) == 5
        assert talk.mcp(OWNER, TOKEN) == McpConfiguration(
            (
                McpServer("coder", "https://coder/mcp", TOKEN),
                McpServer("github", "https://github/mcp", "gh"),
            )
        )
        assert names(talk.subscribe()) == ["one"]
    stored = peer.records()
    assert [entry["rpc"] for entry in stored] == [
        "RecordInterception",
        "RecordPromptUsage",
        "RecordTokenUsage",
        "RecordToolUsage",
        "RecordModelThought",
        "RecordInterceptionEnded",
    ]
    assert stored[0]["record"]["metadata"] == {"a": [1, None, {"b": True}]}
    assert stored[1]["record"]["prompt"] == "hé"
    assert stored[2]["record"]["metadata"] == {"reasoning": 3}
    (session,) = peer.sessions(open=0)
    # A stream for each of the twelve calls, or one for the watch and a few for the others: the
    # next call may begin before the end that follows the last one's answer has come.
    assert (session["accepted_streams"] <= 6) is reuse


def test_no_and_later_are_told_apart(peer: GoPeer) -> None:
    with Talk(peer) as talk:
        assert talk.authorize("tokenalice-" + "x" * 22) == Denied("unauthorized")
        assert talk.authorize("nodash") == Denied("unauthorized")
        peer.set_budget(OWNER, True, 1_500_000)
        denied = talk.authorize(TOKEN)
        assert isinstance(denied, Denied)
        assert "US$1.50" in denied.message
        peer.disturb("IsAuthorized", "error", text="no database", code=1003)
        assert talk.authorize(TOKEN) == Unavailable("no database")
        for silence in ("fin", "empty"):
            # Once or twice is made good for by asking again.
            peer.disturb("IsAuthorized", silence, times=2)
            assert isinstance(talk.authorize(TOKEN), Denied)
            peer.disturb("IsAuthorized", silence, times=3)
            assert isinstance(talk.authorize(TOKEN), Unavailable)


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "1.3"])
def test_older_versions_are_spoken(peer: GoPeer, version: str) -> None:
    peer.server(version=version, paths=["/api/v2/aibridge/serve"])
    peer.set_providers([{"name": "one", "type": "openai"}])
    with Talk(peer, actor=LIVE) as talk:
        assert isinstance(talk.authorize(TOKEN, "one", "gpt"), Caller)
        assert names(talk.subscribe()) == ([] if version == "1.0" else ["one"])
        assert talk.status().detail.endswith(f"API {version}")


@pytest.mark.parametrize("reuse", [True, False])
def test_messages_of_4_mib_and_hundreds_at_once(peer: GoPeer, reuse: bool) -> None:
    with Talk(peer, stream_reuse=reuse, parallel_records=300, record_timeout=60) as talk:
        owner = str(uuid.uuid4())
        text = "p" * (4 * 1024 * 1024 - 200)
        assert talk.store(prompt(owner, text)).done
        assert peer.records("RecordPromptUsage")[0]["record"]["prompt"] == text
        peer.delete_records()
        owners = [str(uuid.uuid4()) for _ in range(300)]
        seqs = talk.send(prompt(each, str(n)) for n in range(3) for each in owners)
        assert sorted(talk.reports(seqs).done) == sorted(seqs)
        for each in owners[::50]:
            records = peer.records(interception_id=each)
            assert [entry["record"]["prompt"] for entry in records] == ["0", "1", "2"]


def test_a_large_set_of_providers_arrives(peer: GoPeer) -> None:
    peer.set_providers(
        [{"name": f"p{n}", "type": "openai", "keys": ["k" * 100_000]} for n in range(30)]
    )
    with Talk(peer, actor=LIVE) as talk:
        assert len(names(talk.subscribe())) == 30


def test_the_watch_follows_and_comes_back(peer: GoPeer) -> None:
    with Talk(peer, actor=LIVE) as talk:
        box = talk.subscribe()
        assert names(box) == []
        for name in ("one", "two"):
            peer.set_providers([{"name": name, "type": "openai"}])
            assert names(box) == [name]
            peer.end_watches("pubsub is gone" if name == "one" else "")
            peer.signal_watchers(at_least=1)


@pytest.mark.parametrize("how", ["reset", "fin", "cancel", "yamux", "close"])
def test_every_kind_of_end_is_dialled_again(peer: GoPeer, how: str) -> None:
    with Talk(peer) as talk:
        peer.disturb("IsAuthorized", "stall")
        reply = talk.begin_authorize(TOKEN)
        peer.calls("IsAuthorized", "stalled", at_least=1)
        peer.drop(how)
        assert isinstance(reply.get(timeout=10), Caller)
        peer.sessions(open=1)


def test_a_go_away_moves_to_another_session(peer: GoPeer) -> None:
    with Talk(peer) as talk:
        peer.disturb("IsAuthorized", "stall")
        reply = talk.begin_authorize(TOKEN)
        peer.calls("IsAuthorized", "stalled", at_least=1)
        peer.go_away()
        peer.sessions(at_least=2)
        assert isinstance(talk.authorize("tokenother-" + "x" * 22), Denied)
        peer.release()
        assert isinstance(reply.get(timeout=10), Caller)
        peer.sessions(open=1)


def test_pings_go_both_ways(peer: GoPeer) -> None:
    limits = Limits(keepalive_interval=0.2, keepalive_timeout=2.0)
    with Talk(peer, limits=limits) as talk:
        peer.disturb("IsAuthorized", "stall")
        reply = talk.begin_authorize(TOKEN)
        peer.calls("IsAuthorized", "stalled", at_least=1)
        # The peer pings each second, and ends the session when that is not answered.
        for _ in range(5):
            assert "rtt_us" in str(peer.ping())
        peer.release()
        assert isinstance(reply.get(timeout=10), Caller)
        assert len(peer.sessions(open=1)) == 1


def test_a_silent_peer_is_left(peer: GoPeer) -> None:
    limits = Limits(keepalive_interval=0.1, keepalive_timeout=0.3)
    with Talk(peer, limits=limits) as talk:
        peer.sessions(open=1)
        peer.stall()
        reply = talk.begin_authorize(TOKEN)
        assert isinstance(reply.get(timeout=10), Caller)


def test_who_asks_on_a_line_that_stands_still_is_answered_when_it_goes_on(
    peer: GoPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_session, "_QUIET", 0.05)
    monkeypatch.setattr(_session, "_LATE", 0.05)
    with Talk(peer, call_timeout=0.3) as talk:
        sessions = len(peer.sessions(open=1))
        peer.stall()
        before = talk.begin_authorize(TOKEN)
        with pytest.raises(pykka.Timeout):
            # Three times as long as coderd has for an answer.
            before.get(timeout=1.0)
        later = talk.begin_authorize("another" + TOKEN)
        peer.unstall()
        assert isinstance(before.get(timeout=10), Caller)
        assert isinstance(later.get(timeout=10), Denied)
        assert len(peer.sessions(open=1)) == sessions, "on the same line"


def test_who_waits_for_a_slow_answer_on_a_line_that_is_well_waits_no_longer(
    peer: GoPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_session, "_QUIET", 0.05)
    with Talk(peer, call_timeout=0.5) as talk:
        peer.disturb("IsAuthorized", "stall")
        assert talk.authorize(TOKEN) == Unavailable("no answer within 0.5 s")
        assert len(peer.calls("IsAuthorized")) == 1


def test_a_call_given_up_is_cancelled_over_there(peer: GoPeer) -> None:
    with Talk(peer, call_timeout=0.3) as talk:
        peer.disturb("IsAuthorized", "stall")
        assert talk.authorize(TOKEN) == Unavailable("no answer within 0.3 s")
        peer.calls("IsAuthorized", "cancelled", at_least=1)
        assert isinstance(talk.authorize(TOKEN), Caller)
        # Those of the two calls that this took.
        eventually(lambda: peer.sessions(open=1)[0]["open_streams"] <= 2)


def test_a_record_stored_before_a_drop_may_be_there_twice_and_no_more(peer: GoPeer) -> None:
    with Talk(peer) as talk:
        record = interception(initiator_id=OWNER)
        peer.disturb("RecordInterception", "drop", when="after")
        assert talk.start_interception(record) == Accepted()
        assert len(peer.records("RecordInterception")) == 1
        peer.disturb("RecordPromptUsage", "drop", when="after")
        texts = [str(number) for number in range(10)]
        batch = [prompt(record.id, text) for text in texts]
        seqs = talk.send(batch)
        report = talk.reports(seqs)
        assert report.done == ()
        assert report.away
        # The report comes before the loss of the second session has been noticed.
        peer.sessions(at_least=3)
        talk.wait_connected()
        assert len(talk.store(*batch).done) == 10
        stored = [entry["record"]["prompt"] for entry in peer.records("RecordPromptUsage")]
        assert stored == ["0", *texts]


def test_a_deleted_key_is_fatal(peer: GoPeer) -> None:
    with Talk(peer) as talk:
        peer.sessions(open=1)
        peer.delete_gateway_key("gateway-key")
        assert "AI Gateway key invalid" in talk.fatal.get(timeout=10)


def test_a_missing_licence_is_fatal(peer: GoPeer) -> None:
    peer.server(licensed=False)
    with Talk(peer, connect=False) as talk:
        assert "unexpected status code 403" in talk.fatal.get(timeout=10)
