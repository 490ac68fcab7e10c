"""The concurrency cap: how many run, how many wait, and who is next."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from waiting import wait_until

from aigateway.http.request.admission import Admission

LONG = 30.0


def test_without_a_limit_everybody_enters() -> None:
    admission = Admission(0, 0, 0.0)
    assert all(admission.enter() for _ in range(1000))
    assert admission.running == 1000
    admission.leave()
    assert (admission.running, admission.waiting) == (999, 0)


@pytest.mark.parametrize(("depth", "wait"), [(0, LONG), (5, 0.0)])
def test_without_a_queue_one_too_many_is_refused_at_once(depth: int, wait: float) -> None:
    admission = Admission(2, depth, wait)
    assert admission.enter()
    assert admission.enter()
    assert not admission.enter()
    admission.leave()
    assert admission.enter()
    assert admission.running == 2


def test_who_waits_too_long_is_refused_and_leaves_the_queue() -> None:
    admission = Admission(1, 5, 0.01)
    assert admission.enter()
    assert not admission.enter()
    assert (admission.running, admission.waiting) == (1, 0)
    admission.leave()
    assert admission.running == 0


def test_places_go_to_who_waits_longest() -> None:
    admission = Admission(1, 3, LONG)
    assert admission.enter()
    order: list[int] = []

    def work(number: int) -> bool:
        entered = admission.enter()
        order.append(number)
        return entered

    with ThreadPoolExecutor(4) as pool:
        waiting: list[Future[bool]] = []
        for number in range(3):
            waiting.append(pool.submit(work, number))
            wait_until(lambda number=number: admission.waiting == number + 1, "it waits", 10.0)  # type: ignore[misc]
        # The queue is full.
        assert not admission.enter()
        for number in range(3):
            admission.leave()
            wait_until(lambda number=number: len(order) == number + 1, "it has run", 10.0)  # type: ignore[misc]
            # A place that was handed over is taken: nobody slips in.
            assert admission.running == 1
        assert all(each.result(10) for each in waiting)
    assert order == [0, 1, 2]
    admission.leave()
    assert (admission.running, admission.waiting) == (0, 0)


@pytest.mark.parametrize("handed_over", [False, True])
def test_a_request_that_is_killed_while_it_waits_keeps_no_place(
    monkeypatch: pytest.MonkeyPatch, handed_over: bool
) -> None:
    admission = Admission(1, 5, LONG)
    assert admission.enter()

    class Killed(BaseException):
        pass

    def killed(_self: threading.Event, _timeout: float | None = None) -> bool:
        if handed_over:
            admission.leave()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(threading.Event, "wait", killed)
        with pytest.raises(Killed):
            admission.enter()
    assert admission.waiting == 0
    assert admission.running == (0 if handed_over else 1)


def test_the_limit_holds_under_many_threads() -> None:
    admission = Admission(3, 100, LONG)
    most = [0]
    lock = threading.Lock()

    def work() -> None:
        for _ in range(50):
            assert admission.enter()
            with lock:
                most[0] = max(most[0], admission.running)
            assert admission.running <= 3
            admission.leave()

    with ThreadPoolExecutor(12) as pool:
        for done in [pool.submit(work) for _ in range(12)]:
            done.result(30)
    assert 1 <= most[0] <= 3
    assert (admission.running, admission.waiting) == (0, 0)
