"""What holds for a pool of keys after any history of answers."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aigateway.actors.interception.conversation import Affinity
from aigateway.actors.providers.keypool import Key, KeyPool, Subject, Walker

KEYS = tuple(f"sk-key-{number}-0123456789abcd" for number in range(4))
LONGEST = 300.0
SUBJECTS = [Subject.model("a"), Subject.model("b"), Subject.route("a"), Subject.route("/v1/models")]
SESSIONS = [Affinity(), Affinity("one"), Affinity("two"), Affinity("one", binding=True)]
WALL = 1_764_000_000.0


class Histories(RuleBasedStateMachine):
    """Requests begin, are answered and end in any order, while time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = KeyPool(KEYS, LONGEST)
        self.now = 1000.0
        self.walkers: list[Walker] = []
        self.limits: dict[tuple[int, Subject], float] = {}
        """The model: when each key is back for each subject."""

    @rule(subject=st.sampled_from(SUBJECTS), affinity=st.sampled_from(SESSIONS))
    def begin(self, subject: Subject, affinity: Affinity) -> None:
        walker = self.pool.walk(subject, affinity)
        if walker.next(self.now) is not None:
            self.walkers.append(walker)

    @rule(
        place=st.integers(0, 30),
        status=st.sampled_from([200, 400, 401, 401, 403, 429, 429, 500]),
        delay=st.one_of(st.none(), st.integers(1, 100_000)),
        goes_on=st.booleans(),
    )
    def answer(self, place: int, status: int, delay: int | None, goes_on: bool) -> None:
        if not self.walkers:
            return
        walker = self.walkers[place % len(self.walkers)]
        assert isinstance(walker.last, Key)
        if status == 200:
            walker.accepted()
        headers = [] if delay is None else [("Retry-After", str(delay))]
        walker.refused(status, headers, self.now, WALL)
        if status == 429:
            limit = (walker.last.index, walker.subject)
            until = self.now + min(delay or 60, LONGEST)
            self.limits[limit] = max(until, self.limits.get(limit, 0.0))
        if not goes_on or walker.next(self.now) is None:
            walker.end()
            self.walkers.remove(walker)

    @rule(seconds=st.integers(0, 400))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def only_a_429_for_this_subject_excludes_a_key(self) -> None:
        for subject in SUBJECTS:
            limited = {key for (key, about), until in self.limits.items()
                       if about == subject and until > self.now}  # fmt: skip
            walker = self.pool.walk(subject, Affinity())
            handed_out = set()
            while (key := walker.next(self.now)) is not None:
                handed_out.add(key.index)
            walker.end()
            assert handed_out == set(range(len(KEYS))) - limited

    @invariant()
    def every_rest_ends_within_the_cap(self) -> None:
        for status in self.pool.states(self.now):
            assert all(0 < rest.remaining <= LONGEST for rest in status.rests)

    @invariant()
    def what_is_remembered_is_bounded(self) -> None:
        rests = sum(len(status.rests) for status in self.pool.states(self.now))
        assert rests <= len(KEYS) * (len(SUBJECTS) + 1)

    @invariant()
    def requests_in_flight_are_those_that_have_not_ended(self) -> None:
        keys = [walker.last for walker in self.walkers]
        for index in range(len(KEYS)):
            having = [key for key in keys if key is not None and key.index == index]
            if having:
                assert self.pool.inflight(having[0]) == len(having)

    def teardown(self) -> None:
        # Whatever happened: after the longest rest every key is back for everything.
        for walker in self.walkers:
            walker.end()
        later = self.now + LONGEST
        assert all(status.state == "valid" for status in self.pool.states(later))
        assert [key.index for key in _keys(self.pool, later)] == list(range(len(KEYS)))


def _keys(pool: KeyPool, now: float) -> list[Key]:
    walker = pool.walk(SUBJECTS[0], Affinity())
    keys = []
    while (key := walker.next(now)) is not None:
        keys.append(key)
    return keys


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=40)
