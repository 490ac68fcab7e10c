"""What clients were answered against what the control plane has stored, one by one.

An answer that came whole must have its start, its end, its prompt with the client's own words,
and its token usage.  An answer that came whole and is an error, or a stream that the gateway
itself ended with an error event, must have start and end if it named an interception.  What a
client never saw the end of owes nothing: the process may have been killed under it.  Whatever is
stored must be stored once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from attrs import define, field, frozen

from bench.ledger import StoredRecord

__all__ = ["DOUBT", "OUTCOMES", "Answered", "Balance", "Book", "balance"]

DOUBT = 32
"""Records per worker that one break may leave in doubt (docs/coderd.md)."""

OUTCOMES = ("answered", "refused", "ended by an error event", "cut", "left", "unreachable", "hung")
"""How a request can end: whole; with an error status; a stream with the gateway's error at its
end; broken off without one; its client hung up on purpose; nobody listened; no end in time."""

_ONCE = ("interception", "ended", "prompt", "usage")
"""Kinds of which an interception of this load has one; it calls no tools and shows no thoughts."""


@frozen
class Answered:
    """What one client knows of one request."""

    outcome: str
    marker: str
    """In its prompt, and in no other's."""
    interception: str = ""
    """As the answer's head named it; empty when there was none."""
    api: str = ""
    status: int = 0
    detail: str = ""
    began: float = 0.0
    """Seconds since the load began."""
    seconds: float = 0.0

    @property
    def owed(self) -> tuple[str, ...]:
        """Kinds of records that must be stored for it."""
        if self.outcome == "answered":
            return _ONCE
        told = self.outcome in ("refused", "ended by an error event")
        # An interception whose start was stored too late is a 503 and has nothing but the start.
        return (
            ("interception", "ended") if told and self.interception and self.status != 503 else ()
        )


@define
class Book:
    """Collects answers; its methods may be called from any thread."""

    answers: list[Answered] = field(factory=list)

    def note(self, answer: Answered) -> None:
        self.answers.append(answer)

    def outcomes(self) -> dict[str, int]:
        counts = Counter(answer.outcome for answer in self.answers)
        return {outcome: counts[outcome] for outcome in OUTCOMES}


@frozen
class Balance:
    """What is wrong between answers and records; each entry is a sentence."""

    lost: list[str]
    wrong: list[str]
    """Records that are stored for somebody else's request."""
    doubled: list[str]
    """All that is stored more than once, documented or not."""
    undocumented: list[str]
    """Why these are more, or others, than the documentation says."""
    hung: list[str]

    @property
    def clean(self) -> bool:
        return not (self.lost or self.wrong or self.undocumented or self.hung)


def balance(
    answers: Iterable[Answered],
    stored: Iterable[StoredRecord],
    *,
    permitted: int = 0,
) -> Balance:
    """Hold one against the other.

    ``permitted`` is how many usage records may be there twice: none with the embedded control
    plane, else :data:`DOUBT` for each worker and each break of its line or its life.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    prompts: dict[str, set[str]] = defaultdict(set)
    for record in stored:
        counts[record.interception][record.kind] += 1
        if record.kind == "prompt":
            prompts[record.interception].add(record.text)
    answers = list(answers)
    doubled, undocumented = _doubles(counts, permitted)
    return Balance(
        lost=_losses(answers, counts),
        wrong=[
            f"{answer.interception} ({answer.marker}) has another's prompt"
            for answer in answers
            if any(answer.marker not in text for text in prompts.get(answer.interception, ()))
        ],
        doubled=doubled,
        undocumented=undocumented,
        hung=[
            f"{answer.marker} ({answer.api}, at {answer.began:.1f} s): {answer.detail}"
            for answer in answers
            if answer.outcome == "hung"
        ],
    )


def _losses(answers: Iterable[Answered], counts: Mapping[str, Counter[str]]) -> list[str]:
    found = []
    for answer in answers:
        have = counts.get(answer.interception, Counter())
        missing = [kind for kind in answer.owed if not have[kind]]
        if answer.outcome == "answered" and not answer.interception:
            found.append(f"{answer.marker}: answered without a name of its record")
        elif missing:
            what = f"{answer.outcome}, {answer.status}" if answer.status else answer.outcome
            found.append(
                f"{answer.interception} ({answer.marker}, {answer.api}, {what}, at"
                f" {answer.began:.1f} s, took {answer.seconds:.1f} s): no {', '.join(missing)}"
            )
    return found


def _doubles(counts: Mapping[str, Counter[str]], permitted: int) -> tuple[list[str], list[str]]:
    doubled, undocumented, total = [], [], 0
    for interception, have in counts.items():
        extra = {kind: number - 1 for kind, number in have.items() if number > 1}
        if not extra:
            continue
        words = ", ".join(f"{have[kind]} x {kind}" for kind in extra)
        doubled.append(f"{interception}: {words}")
        total += sum(extra.values())
        if "interception" in extra or "ended" in extra:
            undocumented.append(f"{interception}: a start or an end is never doubled: {words}")
        elif permitted and sum(extra.values()) > 1:
            undocumented.append(f"{interception}: more than one record was in doubt: {words}")
    if total > permitted:
        undocumented.append(f"{total} records are doubled, {permitted} may be")
    return doubled, undocumented
