"""A run that loses a record fails, and says which."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import attrs
import pytest

from bench.campaign import Campaign
from bench.control_planes import LocalPlane
from bench.ledger import RecordCounts, losses
from bench.options import Options
from bench.scenarios import Outcome, Scenario, Variant
from bench.stand import Stand
from bench.systems import all_systems
from bench.upstream import Counters

SEEN = Counters(requests=10, answers=9, cut=1, prompts=9, input_tokens=900, output_tokens=90)
STORED = RecordCounts(
    interceptions=10,
    ended=10,
    client_gone=1,
    prompts=10,
    usages=9,
    input_tokens=900,
    output_tokens=90,
)


def test_nothing_is_lost_when_all_is_stored() -> None:
    assert losses(STORED, SEEN) == []


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"interceptions": 9, "ended": 9}, "1 of 10 requests reached the provider without"),
        ({"ended": 8}, "2 interceptions have no end"),
        ({"prompts": 8}, "1 prompts are missing"),
        ({"usages": 7, "client_gone": 1}, "1 of 9 complete answers have no complete token usage"),
        ({"output_tokens": 80}, "the token usages add up to 900 in and 80 out"),
    ],
)
def test_each_kind_of_loss_is_named(changed: dict[str, int], text: str) -> None:
    (found,) = losses(attrs.evolve(STORED, **changed), SEEN)
    assert text in found


def test_an_answer_that_its_client_did_not_wait_for_may_lack_its_usage() -> None:
    stored = attrs.evolve(STORED, usages=8, input_tokens=800, output_tokens=80, client_gone=1)
    assert losses(stored, SEEN) == []


class _Careless(Scenario):
    """Loses a record on purpose: deletes it from the database."""

    name = "careless"
    title = "Careless"
    about = "loses one"
    columns = ()

    def __init__(self, loss: str) -> None:
        self._loss = loss

    def run(self, stand: Stand, variant: Variant) -> Outcome:
        stand.settle()
        plane = stand.running.ledger
        assert isinstance(plane, LocalPlane)
        with sqlite3.connect(plane.environ["CODER_AI_GATEWAY_LOCAL_DB"]) as db:
            db.execute(self._loss)
        db.close()
        return Outcome(numbers={})


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        ("DELETE FROM interceptions WHERE rowid = 1", "without a recorded interception"),
        ("DELETE FROM token_usages WHERE rowid = 1", "have no complete token usage"),
    ],
)
def test_a_record_that_is_gone_from_the_database_is_a_loss(
    loss: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.ledger.STILL", 0.2)
    (gateway,) = (system for system in all_systems() if system.name == "aigateway")
    campaign = Campaign([_Careless(loss)], [gateway], Options(workers=1, rounds=1), tmp_path)
    campaign.prepare(_quiet)
    results = campaign.run(_quiet, _quiet)
    assert any(text in line for line in results.lost)
    assert all(line.startswith("careless  on aigateway, round 1:") for line in results.lost)
    (kept,) = (tmp_path / "failed").iterdir()
    assert (kept / "gateway.log.json").exists()


def _quiet(*_: object) -> None:
    """Say nothing."""
