"""How requests and tokens per minute are counted for the limits of a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aigateway.actors.values.policy import CallerRules, Limit, Subject
from aigateway.actors.values.records import PromptUsage, TokenUsage
from aigateway.http.request.answers import Answer
from aigateway.http.request.policy import Windows
from aigateway.http.settings import Settings

ADA, LAB = Subject("user", "ada"), Subject("group", "lab")


def limited(*limits: tuple[int, Any, Subject], contact: str = "") -> CallerRules:
    return CallerRules(
        contact=contact,
        limits=tuple(
            Limit(count, what, subject, f"rule of {subject}") for count, what, subject in limits
        ),
    )


def usage(**counts: int) -> TokenUsage:
    values: dict[str, Any] = {"interception_id": "i", "msg_id": "m", "created_at": 1.0}
    values |= {"input_tokens": 0, "output_tokens": 0}
    return TokenUsage(**(values | counts))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(runtime_dir=str(tmp_path / "run"), local_db=str(tmp_path / "gateway.db"))


def test_two_processes_of_a_gateway_count_together(settings: Settings) -> None:
    rules = limited((3, "requests", ADA))
    one, two = Windows(settings), Windows(settings)
    for windows in (one, two, one):
        windows.enter(rules)
    with pytest.raises(Answer) as refused:
        two.enter(rules)
    assert refused.value.status == 429
    assert refused.value.rule == "rule of user:ada"
    two.enter(limited((3, "requests", LAB)))


def test_what_one_limit_refuses_does_not_count_for_the_other(settings: Settings) -> None:
    windows = Windows(settings)
    windows.enter(limited((1, "requests", LAB)))
    both = limited((2, "requests", ADA), (1, "requests", LAB))
    for _ in range(5):
        with pytest.raises(Answer):
            windows.enter(both)
    windows.enter(limited((2, "requests", ADA)))
    windows.enter(limited((2, "requests", ADA)))


def test_tokens_count_when_they_are_known_without_what_caches_answer(settings: Settings) -> None:
    rules = limited((10, "tokens", ADA))
    windows, seen = Windows(settings), []
    watch = windows.watching(rules, seen.append)
    assert watch is not None
    windows.enter(rules)
    prompt = PromptUsage(interception_id="i", msg_id="m", prompt="hi", created_at=1.0)
    watch([prompt, usage(input_tokens=4, output_tokens=5, cache_read_input_tokens=1000)])
    windows.enter(rules)
    watch([usage(cache_write_input_tokens=1)])
    assert len(seen) == 2
    with pytest.raises(Answer) as refused:
        windows.enter(rules)
    assert "allows 10 tokens per minute" in refused.value.text


def test_who_has_no_limit_of_tokens_is_not_watched(settings: Settings) -> None:
    windows = Windows(settings)
    assert windows.watching(limited((1, "requests", ADA)), None) is None
    windows.enter(CallerRules())
    assert not Path(settings.runtime_dir).exists()


def test_nothing_is_nothing(settings: Settings) -> None:
    with pytest.raises(Answer) as refused:
        Windows(settings).enter(limited((0, "requests", ADA), contact="ask me"))
    assert refused.value.text.endswith("; ask me")
    assert dict(refused.value.headers)["Retry-After"].isdigit()
    with pytest.raises(Answer):
        Windows(settings).enter(limited((0, "tokens", ADA)))


def test_a_folder_that_cannot_be_written_lets_each_process_count(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    windows = Windows(Settings(runtime_dir=str(tmp_path / "file" / "run")))
    rules = limited((1, "requests", ADA))
    windows.enter(rules)
    with pytest.raises(Answer):
        windows.enter(rules)
