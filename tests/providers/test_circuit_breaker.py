"""Every state of a circuit, and every way from one to the next."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.providers.breaker import (
    GAUGE,
    Admitted,
    CircuitBreaker,
    CircuitStatus,
    CircuitTransition,
    Rejected,
    Ticket,
    failing_statuses,
)
from aigateway.actors.values.provider_config import PROVIDER_TYPES, BreakerConfig

ROUTE, MODEL = "/v1/messages", "claude-sonnet-4-5"
CONFIG = BreakerConfig(failure_threshold=3, interval=10.0, timeout=30.0, max_requests=2)


def breaker(config: BreakerConfig = CONFIG, *, max_circuits: int = 100) -> CircuitBreaker:
    return CircuitBreaker(config, "anthropic", max_circuits=max_circuits)


def admitted(circuits: CircuitBreaker, now: float, model: str = MODEL) -> Ticket:
    decision = circuits.admit(ROUTE, model, now)
    assert isinstance(decision, Admitted)
    return decision.ticket


def answer(circuits: CircuitBreaker, status: int, now: float, model: str = MODEL) -> str | None:
    """One whole request; the state that it led to, if it led to one."""
    return led_to(circuits.report(admitted(circuits, now, model), status, now))


def led_to(transition: CircuitTransition | None) -> str | None:
    return None if transition is None else transition.after


def state(circuits: CircuitBreaker, model: str = MODEL) -> str:
    return next(circuit.state for circuit in circuits.states() if circuit.model == model)


def opened(now: float = 0.0, config: BreakerConfig = CONFIG) -> CircuitBreaker:
    circuits = breaker(config)
    for _ in range(config.failure_threshold):
        answer(circuits, 503, now)
    assert state(circuits) == "open"
    return circuits


def change(before: str, after: str) -> CircuitTransition:
    return CircuitTransition(ROUTE, MODEL, before, after)


@pytest.mark.parametrize("provider_type", PROVIDER_TYPES)
def test_what_fails_depends_on_the_provider(provider_type: str) -> None:
    speaks_anthropic = provider_type in ("anthropic", "bedrock", "vertex")
    expected = {503, 504, 529} if speaks_anthropic else {503, 504}
    assert failing_statuses(provider_type) == expected
    for status in (200, 400, 401, 403, 404, 408, 429, 500, 501, 502, 503, 504, 529):
        circuits = CircuitBreaker(BreakerConfig(failure_threshold=1), provider_type)
        tripped = answer(circuits, status, 0.0) == "open"
        assert tripped is (status in expected), status


# From closed: (status, at what time)* and whether the last one opens the circuit.
FROM_CLOSED: list[tuple[str, list[tuple[int, float]], bool]] = [
    ("threshold reached", [(503, 0), (504, 1), (529, 2)], True),
    ("one short", [(503, 0), (503, 1)], False),
    ("a success between", [(503, 0), (503, 1), (200, 2), (503, 3), (503, 4)], False),
    ("after a success", [(200, 0), (503, 1), (503, 2), (503, 3)], True),
    ("a 429 is a success", [(503, 0), (503, 1), (429, 2), (503, 3)], False),
    ("a 500 is a success", [(503, 0), (503, 1), (500, 2), (503, 3)], False),
    ("at the interval's last moment", [(503, 0), (503, 1), (503, 10)], True),
    ("past the interval", [(503, 0), (503, 1), (503, 10.1)], False),
    ("again within the next", [(503, 0), (503, 11), (503, 12), (503, 13)], True),
    ("over two intervals", [(503, 9), (503, 9.5), (503, 19.5), (503, 19.6)], False),
]


@pytest.mark.parametrize(
    ("answers", "opens"), [row[1:] for row in FROM_CLOSED], ids=[row[0] for row in FROM_CLOSED]
)
def test_a_closed_circuit_opens_after_failures_in_a_row(
    answers: list[tuple[int, float]], opens: bool
) -> None:
    circuits = breaker()
    changes = [answer(circuits, status, now) for status, now in answers]
    assert changes[:-1] == [None] * (len(answers) - 1)
    assert changes[-1] == ("open" if opens else None)
    assert state(circuits) == ("open" if opens else "closed")


@pytest.mark.parametrize("now", [0.0, 0.1, 29.9, 30.0])
def test_an_open_circuit_rejects_until_its_timeout_is_over(now: float) -> None:
    circuits = opened()
    assert circuits.admit(ROUTE, MODEL, now) == Rejected("open", 30)
    assert state(circuits) == "open"


def test_the_switch_to_half_open_comes_with_the_next_request() -> None:
    circuits = opened()
    assert state(circuits) == "open"
    decision = circuits.admit(ROUTE, MODEL, 30.1)
    assert isinstance(decision, Admitted)
    assert decision.transition == change("open", "half-open")
    assert state(circuits) == "half-open"
    second = circuits.admit(ROUTE, MODEL, 30.2)
    assert isinstance(second, Admitted)
    assert second.transition is None


def test_a_half_open_circuit_admits_its_quota_in_all() -> None:
    circuits = opened()
    first = admitted(circuits, 31)
    assert circuits.report(first, 200, 31) is None
    admitted(circuits, 31)
    assert circuits.admit(ROUTE, MODEL, 31) == Rejected("half-open", 30)


# From half-open with a quota of two: the results in order, and the change that each makes.
FROM_HALF_OPEN = [
    ([200, 200], [None, "closed"]),
    ([200, 429], [None, "closed"]),
    ([503], ["open"]),
    ([529], ["open"]),
    ([200, 504], [None, "open"]),
    ([503, 200], ["open", None]),
    ([503, 503], ["open", None]),
]


@pytest.mark.parametrize(("results", "changes"), FROM_HALF_OPEN)
def test_a_half_open_circuit_is_decided_by_its_probes(
    results: list[int], changes: list[str | None]
) -> None:
    circuits = opened()
    tickets = [admitted(circuits, 31) for _ in results]
    seen = [
        led_to(circuits.report(ticket, status, 32))
        for ticket, status in zip(tickets, results, strict=True)
    ]
    assert seen == changes
    assert state(circuits) == next(change for change in reversed(changes) if change)


def test_a_circuit_that_fails_its_probe_rests_again() -> None:
    circuits = opened()
    assert answer(circuits, 503, 31) == "open"
    assert circuits.admit(ROUTE, MODEL, 60) == Rejected("open", 30)
    assert isinstance(circuits.admit(ROUTE, MODEL, 61.1), Admitted)


def test_a_circuit_that_closed_counts_from_nothing() -> None:
    circuits = opened()
    answer(circuits, 200, 31)
    assert answer(circuits, 200, 31) == "closed"
    assert [answer(circuits, 503, 32) for _ in range(3)] == [None, None, "open"]


def test_the_whole_way_round_is_told() -> None:
    circuits = opened()
    told = []
    for now, status in ((31, 503), (62, 200), (62, 200)):
        decision = circuits.admit(ROUTE, MODEL, now)
        assert isinstance(decision, Admitted)
        told += [decision.transition, circuits.report(decision.ticket, status, now)]
    assert [one for one in told if one] == [
        change("open", "half-open"),
        change("half-open", "open"),
        change("open", "half-open"),
        change("half-open", "closed"),
    ]


def late_after_opening() -> tuple[CircuitBreaker, Ticket, float]:
    circuits = breaker()
    late = admitted(circuits, 0)
    for _ in range(3):
        answer(circuits, 503, 0)
    return circuits, late, 100.0


def late_in_half_open() -> tuple[CircuitBreaker, Ticket, float]:
    circuits, late, _ = late_after_opening()
    admitted(circuits, 31)
    return circuits, late, 31.0


def late_after_closing() -> tuple[CircuitBreaker, Ticket, float]:
    circuits, late, _ = late_after_opening()
    answer(circuits, 200, 31)
    answer(circuits, 200, 31)
    return circuits, late, 31.0


def late_after_the_interval() -> tuple[CircuitBreaker, Ticket, float]:
    circuits = breaker()
    return circuits, admitted(circuits, 0), 10.1


def late_after_being_forgotten() -> tuple[CircuitBreaker, Ticket, float]:
    circuits = breaker(max_circuits=1)
    late = admitted(circuits, 0)
    admitted(circuits, 0, "other")
    return circuits, late, 0.0


def late_after_being_forgotten_and_remade() -> tuple[CircuitBreaker, Ticket, float]:
    circuits, late, _ = late_after_being_forgotten()
    admitted(circuits, 0)
    return circuits, late, 0.0


@pytest.mark.parametrize(
    "situation",
    [
        late_after_opening,
        late_in_half_open,
        late_after_closing,
        late_after_the_interval,
        late_after_being_forgotten,
        late_after_being_forgotten_and_remade,
    ],
)
@pytest.mark.parametrize("status", [200, 503])
def test_a_result_of_an_earlier_generation_changes_nothing(situation, status: int) -> None:
    circuits, late, now = situation()
    before = list(circuits.states())
    for _ in range(5):
        assert circuits.report(late, status, now) is None
        circuits.abandon(late, now)
    assert list(circuits.states()) == before


def test_a_request_without_a_result_gives_its_place_back() -> None:
    circuits = opened()
    tickets = [admitted(circuits, 31), admitted(circuits, 31)]
    assert isinstance(circuits.admit(ROUTE, MODEL, 31), Rejected)
    circuits.abandon(tickets[0], 32)
    admitted(circuits, 32)
    assert isinstance(circuits.admit(ROUTE, MODEL, 32), Rejected)


def test_probes_that_never_report_do_not_keep_the_circuit_shut() -> None:
    circuits = opened()
    lost = [admitted(circuits, 31), admitted(circuits, 31)]
    assert isinstance(circuits.admit(ROUTE, MODEL, 61), Rejected)
    again = [admitted(circuits, 61.1), admitted(circuits, 61.1)]
    assert circuits.admit(ROUTE, MODEL, 61.2) == Rejected("half-open", 30)
    # A slow probe of the first round still counts.
    assert circuits.report(lost[0], 200, 62) is None
    assert led_to(circuits.report(again[0], 200, 62)) == "closed"


def test_giving_back_more_places_than_are_taken_does_no_harm() -> None:
    circuits = opened()
    lost = [admitted(circuits, 31), admitted(circuits, 31)]
    kept = admitted(circuits, 61.1)
    for ticket in lost:
        circuits.abandon(ticket, 62)
    admitted(circuits, 62)
    admitted(circuits, 62)
    assert isinstance(circuits.admit(ROUTE, MODEL, 62), Rejected)
    assert led_to(circuits.report(kept, 503, 62)) == "open"


def test_circuits_of_other_models_and_routes_go_on() -> None:
    circuits = opened()
    assert isinstance(circuits.admit(ROUTE, MODEL, 1), Rejected)
    assert isinstance(circuits.admit(ROUTE, "other", 1), Admitted)
    assert isinstance(circuits.admit("/v1/responses", MODEL, 1), Admitted)
    assert list(circuits.states()) == [
        CircuitStatus(ROUTE, MODEL, "open"),
        CircuitStatus(ROUTE, "other", "closed"),
        CircuitStatus("/v1/responses", MODEL, "closed"),
    ]


def test_no_circuit_exists_before_its_first_request() -> None:
    assert list(breaker().states()) == []


def forgotten(circuits: CircuitBreaker, models: Iterable[str]) -> list[str | None]:
    dropped = []
    for model in models:
        decision = circuits.admit(ROUTE, model, 0)
        assert isinstance(decision, Admitted)
        dropped.append(decision.forgotten and decision.forgotten[1])
    return dropped


def test_the_closed_circuit_used_longest_ago_is_forgotten_first() -> None:
    circuits = breaker(max_circuits=3)
    assert forgotten(circuits, "abcadea") == [None, None, None, None, "b", "c", None]


def test_an_open_circuit_is_remembered_longer_than_a_closed_one() -> None:
    circuits = breaker(BreakerConfig(failure_threshold=1), max_circuits=3)
    answer(circuits, 503, 0, "open")
    assert forgotten(circuits, "abcd") == [None, None, "a", "b"]
    assert state(circuits, "open") == "open"


def test_when_all_are_open_the_oldest_is_forgotten() -> None:
    circuits = breaker(BreakerConfig(failure_threshold=1), max_circuits=2)
    for model in "ab":
        answer(circuits, 503, 0, model)
    assert forgotten(circuits, "c") == ["a"]
    assert len(list(circuits.states())) == 2


def test_an_interval_of_zero_counts_for_ever() -> None:
    circuits = breaker(BreakerConfig(failure_threshold=2, interval=0))
    assert answer(circuits, 503, 0) is None
    assert answer(circuits, 503, 1e9) == "open"


def test_numbers_below_one_mean_one() -> None:
    circuits = breaker(BreakerConfig(failure_threshold=0, max_requests=0, timeout=0.5))
    assert answer(circuits, 200, 0) is None
    assert answer(circuits, 503, 0) == "open"
    assert circuits.admit(ROUTE, MODEL, 0.4) == Rejected("open", 0)
    assert answer(circuits, 200, 1) == "closed"


def test_the_gauge_and_the_repr_show_the_state() -> None:
    assert dict(GAUGE) == {"closed": 0.0, "half-open": 0.5, "open": 1.0}
    assert repr(opened()) == "<CircuitBreaker of 1, 1 not closed>"


STEPS = st.lists(
    st.tuples(st.sampled_from(["admit", "ok", "fail", "abandon"]), st.floats(0, 15)), max_size=80
)


@given(STEPS)
def test_whatever_happens_it_admits_again_in_the_end(steps: list[tuple[str, float]]) -> None:
    circuits = breaker()
    out: list[Ticket] = []
    now, opened_at = 0.0, None
    for action, later in steps:
        now += later
        if action == "admit":
            decision = circuits.admit(ROUTE, MODEL, now)
            if isinstance(decision, Rejected):
                assert state(circuits) != "closed"
                continue
            assert opened_at is None or now > opened_at + CONFIG.timeout
            opened_at = None
            out.append(decision.ticket)
        elif out and action == "abandon":
            circuits.abandon(out.pop(0), now)
        elif out:
            transition = circuits.report(out.pop(0), 200 if action == "ok" else 503, now)
            if transition is not None and transition.after == "open":
                opened_at = now
    assert isinstance(circuits.admit(ROUTE, MODEL, now + CONFIG.timeout + 1), Admitted)
