"""What breaks and when: the same for the same seed."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from bench.chaos.plan import CHOICES, FIRST, KINDS, draw_plan, kinds_for

SEEDS = st.integers(min_value=0, max_value=2**64)
SECONDS = st.floats(min_value=0, max_value=600)
SOME_KINDS = st.lists(st.sampled_from(KINDS), unique=True).map(tuple)


@given(SEEDS, SECONDS, SOME_KINDS)
def test_the_same_seed_gives_the_same_plan(seed: int, seconds: float, kinds: tuple) -> None:
    assert draw_plan(seed, seconds, kinds) == draw_plan(seed, seconds, kinds)


@given(SEEDS, SECONDS, SECONDS, SOME_KINDS)
def test_a_shorter_plan_is_the_beginning_of_a_longer_one(
    seed: int, one: float, other: float, kinds: tuple
) -> None:
    shorter = draw_plan(seed, min(one, other), kinds)
    assert draw_plan(seed, max(one, other), kinds)[: len(shorter)] == shorter


@given(SEEDS, SECONDS, SOME_KINDS)
def test_faults_come_in_order_and_none_overlaps_another_of_its_kind(
    seed: int, seconds: float, kinds: tuple
) -> None:
    lasts = {kind.name: kind.lasts for kind in kinds}
    ends: dict[str, float] = {}
    before = FIRST
    for fault in draw_plan(seed, seconds, kinds):
        assert before <= fault.at < seconds
        assert ends.get(fault.kind, 0.0) <= fault.at + 0.01
        shortest, longest = lasts[fault.kind]
        assert shortest <= fault.seconds <= longest
        assert 0 <= fault.choice < CHOICES
        before, ends[fault.kind] = fault.at, fault.at + fault.seconds


@given(SEEDS, SOME_KINDS.filter(bool))
def test_no_kind_comes_again_before_each_has_come(seed: int, kinds: tuple) -> None:
    counts: Counter[str] = Counter()
    for fault in draw_plan(seed, 200.0, kinds):
        counts[fault.kind] += 1
        most = max(counts.values())
        assert all(most - counts[kind.name] <= 1 for kind in kinds)


def test_another_seed_gives_another_plan() -> None:
    kinds = kinds_for("coderd")
    assert len({draw_plan(seed, 120.0, kinds) for seed in range(50)}) == 50


def test_faults_of_a_deployment_are_for_those_who_have_one() -> None:
    local = {kind.name for kind in kinds_for("local")}
    assert not any(name.startswith("coderd-") for name in local)
    more = {kind.name for kind in kinds_for("coderd")} - local
    assert more
    assert all(name.startswith("coderd-") for name in more)


def test_kinds_are_chosen_and_left_out_by_name() -> None:
    only = kinds_for("local", only=("reload", "kill-main"), without=("reload",))
    assert [kind.name for kind in only] == ["kill-main"]
    assert draw_plan(1, 600.0, ()) == ()
