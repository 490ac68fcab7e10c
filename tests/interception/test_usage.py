from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.codec.reading import values
from aigateway.actors.interception.usage import RunningUsage


def _after(*usages: dict[str, Any]) -> RunningUsage:
    running = RunningUsage()
    for usage in usages:
        running.take(values(json.dumps(usage).encode()))
    return running


def test_the_last_total_of_a_field_counts_upwards_and_downwards() -> None:
    assert _after({"output_tokens": 4}, {"output_tokens": 47}).count("output_tokens") == 47
    assert _after({"output_tokens": 47}, {"output_tokens": 20}).count("output_tokens") == 20


def test_a_field_that_is_left_out_or_null_keeps_its_total_and_zero_sets_it() -> None:
    running = _after({"a": 4, "b": 5, "c": 6}, {"b": None, "c": 0})
    assert [running.count(name) for name in "abc"] == [4, 5, 0]


def test_the_fields_of_an_object_are_totals_of_their_own() -> None:
    running = _after({"cache": {"5m": 7, "1h": 8}}, {"cache": {"1h": 9, "5m": None}}, {"cache": {}})
    assert running.count("cache", "5m") == 7
    assert running.count("cache", "1h") == 9
    assert running.count("cache", "2h") == running.count("tools", "searches") == 0


def test_it_is_empty_until_something_was_reported() -> None:
    assert not _after({}, {"input_tokens": None})
    assert _after({"input_tokens": 0})
    assert _after({"cache": {"5m": 0}})


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 9) | st.none())))
def test_any_reports_leave_the_last_number_of_each_field(
    usages: list[dict[str, int | None]],
) -> None:
    running = _after(*usages)
    for name in "abc":
        numbers = [value for usage in usages if (value := usage.get(name)) is not None]
        assert running.count(name) == (numbers[-1] if numbers else 0)
