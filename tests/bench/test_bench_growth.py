"""How costs grow, and whether anything grew: what is sent, measured, judged and told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import attrs
import pytest

from bench.growing import grown_body
from bench.report import draw_plots, report, write_docs
from bench.report.docs import OWN
from bench.results import Measurement, Results
from bench.scenarios.growth import DIMENSIONS
from bench.scenarios.soak import grown
from bench.upstream import Behaviour, Upstream
from bench.window import Sample, by_process

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("size", "messages"), [(1_000, 1), (100_000, 21), (400_000, 2_001), (5_000_000, 21)]
)
def test_a_body_has_the_size_and_the_messages_that_were_asked_for(size: int, messages: int) -> None:
    body = grown_body(size=size, messages=messages)
    said = json.loads(body)["messages"]
    assert len(body) == pytest.approx(size, rel=0.1)
    assert len(said) == messages
    assert [said[0]["role"], said[-1]["role"]] == ["user", "user"]


def test_each_tool_of_a_body_takes_as_much() -> None:
    without, ten, many = (len(grown_body(size=2_000, tools=count)) for count in (0, 10, 500))
    assert (ten - without) / 10 == pytest.approx(500, rel=0.05)
    assert (many - without) / 500 == pytest.approx(500, rel=0.05)


@pytest.mark.parametrize(("kind", "block"), [(1, "text"), (2, "thinking"), (3, "tool_use")])
def test_a_stream_in_one_piece_is_whole(tmp_path: Path, kind: int, block: str) -> None:
    with Upstream(tmp_path) as imitation:
        imitation.behave(Behaviour(events=20_000, at_once=kind))
        with anthropic.Anthropic(api_key="k", base_url=imitation.urls[0]) as client:
            said = [{"role": "user", "content": "hello"}]
            for _ in range(2):
                events = list(
                    client.messages.create(model="m", max_tokens=9, messages=said, stream=True)  # type: ignore[call-overload]
                )
                kinds = [event.type for event in events]
                assert kinds.count("content_block_delta") == 20_000
                assert kinds[-1] == "message_stop"
                assert events[1].content_block.type == block
        counted = imitation.settled()
    assert (counted.answers, counted.events, counted.output_tokens) == (2, 40_000, 40_000)


def test_growth_is_measured_point_by_point_and_every_record_is_there(
    tmp_path: Path, measured: Callable[..., dict[str, Any]]
) -> None:
    tools = measured(
        *("run", "growth", "-s", "aigateway", "--growth", "tools"),
        *("--rounds", "1", "--seconds", "0.1"),
    )
    assert (tools["variant"], tools["failure"], tools["lost"]) == ("tools", "", [])
    numbers = tools["numbers"]
    assert all(numbers[f"tools.cpu_us@{count}"] > 0 for count in (0, 10, 50, 100, 500))
    assert all(numbers[f"tools.stall_ms@{count}"] > 0 for count in (0, 10, 50, 100, 500))
    assert "**Tools that are defined**" in (tmp_path / "report.md").read_text()


def _results(dimension: int, costs: list[float]) -> Results:
    found = DIMENSIONS[dimension]
    numbers = {
        found.key(measure, point): cost
        for measure in found.measures
        for point, cost in zip(found.points, costs, strict=True)
    }
    machine = {"cpus": 2, "cpu": "X", "memory_mb": 1, "system": "S", "kernel": "K"}
    return Results(
        about={
            "command": "python -m bench run growth",
            "revision": "abc",
            "python": "CPython",
            "packages": {},
            "machine": {**machine, "hypervisor": "no"},
            "options": {"rounds": 1, "seconds": 1.0, "workers": 2},
            "load_driver": "wrk",
            "began": "2026-01-01T00:00:00+00:00",
        },
        systems={"aigateway": {"title": "aigateway", "does": "all", "version": "0"}},
        scenarios={"growth": {"title": "How costs grow", "about": "About.", "versus": "how many"}},
        measurements=[
            Measurement(
                scenario="growth",
                variant=found.name,
                value=dimension,
                system="aigateway",
                round=1,
                began="2026-01-01T00:00:00+00:00",
                numbers=numbers,
                lost=[],
                records={"interceptions": 7},
            )
        ],
    )


def test_the_page_says_what_one_more_costs(tmp_path: Path) -> None:
    # Of 1, 10, 100, 1,000, 5,000 and 20,000 KB: twice as much for each KB at the end.
    results = _results(0, [1_000, 1_018, 1_198, 2_998, 10_998, 70_998])
    assert draw_plots(results, tmp_path) == ["growth.svg"]
    page = tmp_path / "performance.md"
    page.write_text(f"Before.\n{OWN['growth'][0]}\nold\n{OWN['growth'][1]}\nAfter.\n")
    write_docs(results, page, ["growth.svg"])
    text = page.read_text()
    assert "old" not in text
    assert "| 20,000 | 70,998 |" in text
    assert (
        "From 1 to 20,000 KB: +3.50 µs for each; in the last step 2.00 times what it was in the"
        " one before." in text
    )
    assert "![growth](growth.svg)" in text


def test_what_costs_the_same_with_more_is_said_to(tmp_path: Path) -> None:
    number = [each.name for each in DIMENSIONS].index("providers")
    text = report(_results(number, [1_000, 1_000, 1_050, 1_000, 1_100]))
    assert "With 500 providers the CPU time is 1.10 times what it is with 3." in text


def test_results_of_several_runs_become_one_report(tmp_path: Path) -> None:
    first, second = _results(0, [1.0] * 6), _results(3, [1.0] * 5)
    second.about["command"] = "python -m bench run growth --growth tools"
    second.about["began"] = "2025-01-01T00:00:00+00:00"
    text = report(Results.joined([first, second]))
    assert "**Size of the body**" in text
    assert "**Tools that are defined**" in text
    assert "`python -m bench run growth` and `python -m bench run growth --growth tools`" in text
    assert "; 2025-01-01" in text
    assert "14 requests were checked" in text


# -- the soak


def _series(seconds: float, memory: float, files: int, more: float, also: int) -> list[list[float]]:
    """A sample each 5 s, growing evenly by so much over all of it."""
    return [
        [at, (memory + more * at / seconds) * 1e6, files + also * at / seconds]
        for at in range(0, int(seconds), 5)
    ]


def test_growth_of_one_process_is_told_whatever_the_others_do() -> None:
    steady, leaking = _series(1800, 50, 40, 0, 0), _series(1800, 50, 40, 20, 0)
    processes = {"main": _series(1800, 30, 9, 0, 0), "worker 1": steady, "worker 2": leaking}
    (found,) = grown(processes, 1800)
    assert found.startswith("worker 2 has grown: private memory by 10")
    assert grown({"worker 1": steady}, 1800) == []
    (files,) = grown({"worker 1": _series(1800, 50, 40, 0, 60)}, 1800)
    assert files.startswith("worker 1 has grown: open files by")


def test_caches_that_fill_at_the_beginning_are_no_growth() -> None:
    filled = [[at, (60 if at > 300 else 20) * 1e6, 40] for at in range(0, 1800, 5)]
    assert grown({"worker 1": filled}, 1800) == []


def test_a_process_that_was_replaced_is_told() -> None:
    early = [s for s in _series(1800, 50, 40, 0, 0) if s[0] < 900]
    late = [s for s in _series(1800, 50, 40, 0, 0) if s[0] >= 900]
    assert grown({"worker 1": early, "worker 2": late}, 1800) == [
        "worker 1 was there only from second 0 to 895",
        "worker 2 was there only from second 900 to 1795",
    ]


def test_a_short_soak_is_not_judged() -> None:
    assert grown({"worker 1": _series(120, 50, 40, 50, 0)}, 120) == []


def test_samples_are_told_apart_by_process() -> None:
    first = Sample(0.0, 30, 3, {7: (10, 1), 9: (20, 2)})
    second = attrs.evolve(first, at=5.0, processes={7: (11, 1), 12: (5, 4)})
    assert by_process([first, second]) == {
        "main": [[0.0, 10, 1], [5.0, 11, 1]],
        "worker 1": [[0.0, 20, 2]],
        "worker 2": [[5.0, 5, 4]],
    }


def test_a_soak_of_agents_samples_every_process_and_loses_nothing(
    tmp_path: Path, measured: Callable[..., dict[str, Any]]
) -> None:
    soak = measured(
        *("soak", "--minutes", "0.05", "--agents", "4", "--agent-turns", "6"),
        *("--agent-last-kb", "60", "--agent-think", "0.1", "--agent-events", "5"),
        *("-s", "aigateway", "--workers", "1"),
    )
    assert (soak["failure"], soak["lost"], soak["faults"]) == ("", [], [])
    assert soak["numbers"]["turns"] > 4
    assert soak["numbers"]["answers_changed"] == 0
    assert set(soak["processes"]) == {"main", "worker 1"}
    assert all(len(series) > 5 for series in soak["processes"].values())
