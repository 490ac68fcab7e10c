"""The providers that coderd configures, live."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from attrs import evolve
from coderd_talk import Talk, eventually
from fake_coderd import FakeCoderd

from aigateway.actors.control.coderd.wire import coderd_pb2 as pb
from aigateway.actors.control.messages import ProvidersChanged
from aigateway.actors.values.provider_config import ProviderConfig

LIVE: dict[str, Any] = {"providers": None}


def provider(name: str, **fields: Any) -> pb.AIProvider:
    return pb.AIProvider(name=name, type="openai", enabled=True, **fields)


@pytest.fixture
def coderd() -> Iterator[FakeCoderd]:
    with FakeCoderd() as coderd:
        coderd.deployment.providers = (provider("one"),)
        yield coderd


@pytest.fixture
def talk(coderd: FakeCoderd) -> Iterator[Talk]:
    with Talk(coderd, actor=LIVE) as talk:
        yield talk


def names(box: queue.Queue[ProvidersChanged]) -> list[str]:
    return [config.name for config in box.get(timeout=10).providers]


def test_the_subscriber_is_told_the_set_and_its_changes(talk: Talk) -> None:
    box = talk.subscribe()
    assert names(box) == ["one"]
    talk.coderd.set_providers(provider("one"), provider("two"))
    assert names(box) == ["one", "two"]
    talk.coderd.set_providers()
    assert names(box) == []


def test_a_late_subscriber_is_told_at_once(talk: Talk) -> None:
    first = talk.subscribe()
    assert names(first) == ["one"]
    second = talk.subscribe()
    assert names(second) == ["one"]
    talk.coderd.set_providers(provider("two"))
    assert names(second) == ["two"]
    assert first.empty()


def test_a_signal_without_a_change_is_not_passed_on(talk: Talk) -> None:
    box = talk.subscribe()
    assert names(box) == ["one"]
    talk.coderd.set_providers(provider("one"))
    talk.coderd.wait_for_call("GetAIProviders", 2)
    talk.coderd.set_providers(provider("two"))
    assert names(box) == ["two"]


def test_a_subscriber_that_is_gone_does_no_harm(talk: Talk) -> None:
    box: queue.Queue[ProvidersChanged] = talk.subscribe()
    assert names(box) == ["one"]
    talk._mailboxes[-1].stop()
    talk.coderd.set_providers(provider("two"))
    eventually(lambda: names(talk.subscribe()) == ["two"])


def test_the_gateways_own_settings_are_applied(coderd: FakeCoderd) -> None:
    def finish(providers: tuple[ProviderConfig, ...]) -> tuple[ProviderConfig, ...]:
        return tuple(evolve(config, max_retries=7) for config in providers)

    with Talk(coderd, actor={**LIVE, "finish_providers": finish}) as talk:
        (config,) = talk.subscribe().get(timeout=10).providers
        assert config.max_retries == 7


def test_providers_of_ones_own_replace_coderds(coderd: FakeCoderd) -> None:
    own = (ProviderConfig(name="own", type="openai", base_url="https://x/v1"),)
    with Talk(coderd, actor={"providers": own}) as talk:
        assert talk.subscribe().get(timeout=10).providers == own
        coderd.set_providers(provider("two"))
        assert coderd.deployment.count_calls("GetAIProviders") == 0
        assert coderd.deployment.count_calls("WatchAIProviders") == 0


def test_a_load_that_fails_is_tried_again(coderd: FakeCoderd) -> None:
    coderd.faults.fail("GetAIProviders", "not seeded yet", times=1)
    coderd.faults.garble("GetAIProviders", b"\xff\xff\xff", times=1)
    with structlog.testing.capture_logs() as logs, Talk(coderd, actor=LIVE) as talk:
        assert names(talk.subscribe()) == ["one"]
    failures = [
        entry["error"]
        for entry in logs
        if entry["event"] == "failed to load ai providers, will retry"
    ]
    assert failures[0] == "not seeded yet"
    assert len(failures) == 2
    loaded = [entry for entry in logs if entry["event"] == "loaded ai providers from coderd"]
    assert [entry["provider_count"] for entry in loaded] == [1]


def test_a_reload_that_fails_keeps_the_old_set_and_is_tried_again(coderd: FakeCoderd) -> None:
    with structlog.testing.capture_logs() as logs, Talk(coderd, actor=LIVE) as talk:
        box = talk.subscribe()
        assert names(box) == ["one"]
        coderd.faults.fail("GetAIProviders", "no database", times=1)
        coderd.set_providers(provider("two"))
        assert names(box) == ["two"]
    events = [entry["event"] for entry in logs]
    assert "failed to reload ai provider snapshot from watch signal" in events
    assert "reloaded ai provider snapshot from watch signal" in events


def test_when_providers_were_loaded_and_were_to_be_is_known(coderd: FakeCoderd) -> None:
    gate = threading.Event()
    coderd.faults.delay("GetAIProviders", gate, times=1)
    with Talk(coderd, actor=LIVE) as talk:
        coderd.wait_for_call("GetAIProviders", 1)
        tried = talk.status()
        assert (tried.providers_tried_at > 0, tried.providers_loaded_at) == (True, 0)
        gate.set()
        assert names(talk.subscribe()) == ["one"]
        loaded = talk.status()
        assert loaded.providers_loaded_at >= tried.providers_tried_at
        coderd.faults.hang("GetAIProviders", times=1)
        coderd.set_providers(provider("one"))
        coderd.wait_for_call("GetAIProviders", 2)
        failing = talk.status()
        assert failing.providers_tried_at > loaded.providers_loaded_at
        assert failing.providers_loaded_at == loaded.providers_loaded_at


def test_a_signal_during_a_load_loads_again(talk: Talk) -> None:
    box = talk.subscribe()
    assert names(box) == ["one"]
    gate = threading.Event()
    talk.coderd.faults.delay("GetAIProviders", gate, times=1)
    talk.coderd.set_providers(provider("two"))
    talk.coderd.wait_for_call("GetAIProviders", 2)
    talk.coderd.set_providers(provider("three"))
    talk.coderd.set_providers(provider("four"))
    gate.set()
    assert names(box) == ["two"]
    assert names(box) == ["four"]


@pytest.mark.parametrize("error", [None, "lost the database"])
def test_a_watch_that_ends_is_begun_again(coderd: FakeCoderd, error: str | None) -> None:
    with structlog.testing.capture_logs() as logs, Talk(coderd, actor=LIVE) as talk:
        box = talk.subscribe()
        assert names(box) == ["one"]
        coderd.end_watches(error)
        coderd.wait_for_call("WatchAIProviders", 2)
        coderd.set_providers(provider("two"))
        assert names(box) == ["two"]
    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert warning["event"] == "ai provider watch stream ended; reconnecting"
    assert warning["error"] == (error or "")


def test_a_watch_that_is_refused_is_not_hammered(coderd: FakeCoderd) -> None:
    coderd.faults.fail("WatchAIProviders", "no pubsub", times=4)
    with Talk(coderd, actor=LIVE) as talk:
        assert names(talk.subscribe()) == ["one"]
        assert coderd.deployment.count_calls("WatchAIProviders") == 5


def test_the_set_outlives_the_connection(talk: Talk) -> None:
    box = talk.subscribe()
    assert names(box) == ["one"]
    talk.coderd.cut_connections()
    talk.coderd.wait_for_call("WatchAIProviders", 2)
    talk.coderd.wait_for_call("GetAIProviders", 2)
    talk.coderd.deployment.providers = (provider("two"),)
    talk.coderd.cut_connections()
    assert names(box) == ["two"]


def test_a_load_that_is_cut_off_is_done_by_the_next_session(talk: Talk) -> None:
    box = talk.subscribe()
    assert names(box) == ["one"]
    talk.coderd.faults.hang("GetAIProviders", times=1)
    talk.coderd.set_providers(provider("two"))
    talk.coderd.wait_for_call("GetAIProviders", 2)
    talk.coderd.cut_connections()
    assert names(box) == ["two"]


def test_going_away_moves_the_watch(talk: Talk) -> None:
    box = talk.subscribe()
    assert names(box) == ["one"]
    talk.coderd.go_away()
    talk.coderd.wait_for_call("WatchAIProviders", 2)
    old = talk.coderd.connections[0]
    assert old.closed.wait(10)
    talk.coderd.set_providers(provider("two"))
    assert names(box) == ["two"]


def test_a_coderd_that_cannot_be_watched_is_asked_with_each_session() -> None:
    with FakeCoderd(version="1.1") as coderd, Talk(coderd, actor=LIVE) as talk:
        coderd.deployment.providers = (provider("one"),)
        box = talk.subscribe()
        # The first load may have come before the provider.
        eventually(lambda: coderd.deployment.count_calls("GetAIProviders") == 1)
        coderd.cut_connections()
        while names(box) != ["one"]:
            pass
        assert coderd.deployment.count_calls("WatchAIProviders") == 0


def test_a_coderd_without_providers_has_an_empty_set() -> None:
    with (
        structlog.testing.capture_logs() as logs,
        FakeCoderd(version="1.0") as coderd,
        Talk(coderd, actor=LIVE) as talk,
    ):
        assert names(talk.subscribe()) == []
        assert coderd.deployment.calls == []
    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert "CODER_AI_GATEWAY_PROVIDER_<N>_*" in warning["event"]
