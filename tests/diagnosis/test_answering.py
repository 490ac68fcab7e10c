"""What a worker says of itself, shortened for those who look each second."""

from __future__ import annotations

from aigateway.http.diagnosis.answering import _first


def test_of_many_actors_those_that_others_work_for_are_shown() -> None:
    roles = [
        "supervisor",
        "provider/a",
        *(f"provider/a/worker-{n}" for n in range(9)),
        "provider/b",
    ]
    actors = [{"role": role} for role in roles]
    shown = [each["role"] for each in _first(actors, 5)]
    assert shown == [
        "supervisor", "provider/a", "provider/a/worker-0", "provider/a/worker-1", "provider/b",
    ]  # fmt: skip
    assert _first(actors, 12) == actors
    assert [each["role"] for each in _first(actors, 1)] == [
        "supervisor",
        "provider/a",
        "provider/b",
    ]
