"""A body tells its end once and gives its exchange back, however far it was read."""

from __future__ import annotations

import contextlib
import gc
import weakref
from typing import Any

import pytest

from aigateway.actors.providers.request import GiveBack, Opened
from aigateway.actors.upstream.errors import GatewayEnds, Quiet, UpstreamCut
from aigateway.http.request.relay import (
    Body,
    CutAnswer,
    Finished,
    OpenAnswer,
    Patience,
    passed,
)


class Exchange:
    """Plays what is read: bytes, or errors to raise."""

    status, reusable, last_data_at = 200, True, 0.0

    def __init__(self, *said: bytes | Exception) -> None:
        self._said = list(said)
        self.closed = False

    @property
    def complete(self) -> bool:
        return not self._said

    def set_quiet(self, seconds: float) -> None: ...

    def close(self) -> None:
        self.closed = True

    def read(self) -> bytes:
        said = self._said.pop(0)
        if isinstance(said, Exception):
            raise said
        return said


class Provider:
    """Hears what the provider's actor is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def tell(self, message: Any) -> None:
        self.told.append(message)


class Given:
    """A passed body over an exchange that plays ``said``."""

    def __init__(self, *said: bytes | Exception) -> None:
        self.exchange, self.provider = Exchange(*said), Provider()
        self.ends: list[Finished] = []
        parts: Any = (self.exchange, None, self.provider)
        answer = OpenAnswer(Opened(*parts, "p", "", 0.0), Patience(0.0, 1e12))
        self.body = Body(answer, passed(answer), lambda status, text: f"{status}".encode())
        self.body.finished = self.ends.append

    def outcome(self) -> str:
        (end,) = self.ends
        (told,) = self.provider.told
        assert isinstance(told, GiveBack)
        return end.outcome


def test_a_body_that_is_closed_before_it_was_begun_ends_like_one_that_was() -> None:
    given = Given(b"a", b"b")
    given.body.close()
    given.body.close()
    assert given.outcome() == "left"
    assert given.exchange.closed


def test_a_body_that_is_closed_in_the_middle_lets_its_exchange_go() -> None:
    given = Given(b"a", b"b")
    assert next(iter(given.body)) == b"a"
    given.body.close()
    assert (given.outcome(), given.ends[0].sent) == ("left", 1)


def test_a_whole_body_is_over_before_its_last_piece_goes_out() -> None:
    given = Given(b"a", Quiet(), b"bc")
    pieces = iter(given.body)
    assert [next(pieces), next(pieces)] == [b"a", b"bc"]
    assert (given.outcome(), given.ends[0].sent) == ("complete", 3)
    assert list(pieces) == []
    given.body.close()
    assert given.outcome() == "complete"


def test_a_cut_body_never_ends_as_a_whole_one() -> None:
    given = Given(b"a", UpstreamCut("reset"))
    pieces = iter(given.body)
    assert next(pieces) == b"a"
    with pytest.raises(CutAnswer):
        next(pieces)
    given.body.close()
    assert given.outcome() == "cut"


@pytest.mark.parametrize("said", [[], [b"a"]])
def test_a_gateway_that_ends_answers_instead_only_where_nothing_was_sent(said: list[bytes]) -> None:
    given = Given(*said, GatewayEnds("stopping"))
    given.body.instead = lambda _status, _body: True
    got = []
    try:
        got.extend(iter(given.body))
    except CutAnswer:
        got.append(b"cut")
    assert got == ([b"503"] if not said else [b"a", b"cut"])
    assert given.outcome() == ("refused" if not said else "cut")


def _seen_by_the_edge(body: Body) -> Body:
    """With what hears of its end and looks at it once more, as the gateway's does."""
    body.finished = lambda _how: body.__dict__.update(seen=body.failed)
    body.instead = lambda _status, _data: body.failed
    return body


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("pieces", [0, 1, 9], ids=["unread", "in the middle", "to the end"])
def test_what_a_body_holds_is_free_at_its_end_without_a_garbage_collector(
    cut: bool, pieces: int
) -> None:
    given = Given(b"a", b"b", *([UpstreamCut("reset")] if cut else []))
    body = _seen_by_the_edge(given.body)
    gone, reading = weakref.ref(body), iter(body)
    gc.disable()
    try:
        with contextlib.suppress(CutAnswer, StopIteration):
            for _ in range(pieces):
                next(reading)
        body.close()
        del given.body, body, reading
        assert gone() is None
    finally:
        gc.enable()
