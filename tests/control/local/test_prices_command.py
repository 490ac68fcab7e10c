"""``aigateway prices``, and the costs that ``aigateway usage`` shows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from aigateway.actors.control.local.price_files import load_pricing
from aigateway.actors.control.local.store import Store
from aigateway.actors.values.money import dollars
from aigateway.http.cli.check import command as check_all
from aigateway.http.cli.prices import command as prices
from aigateway.http.cli.usage import command as usage

Run = Callable[..., Result]

OWN = "version: acme\nmodels:\n- {model: house-model, input: 1, output: 2}\n"


@pytest.fixture
def run(path: Path, commands_on: Callable[[str], Run]) -> Run:
    return commands_on(str(path))


@pytest.fixture
def used(path: Path, records: Any) -> None:
    """A request that has a list price, and one whose model nobody knows."""
    store = Store(path, 1, load_pricing())
    known = records.start(model="claude-opus-5", username="ada")
    unknown = records.start(model="house-model", username="bob")
    tokens = {"input_tokens": 50_000, "output_tokens": 15_000}
    store.write(
        [known, unknown],
        [records.tokens(known.id, **tokens), records.tokens(unknown.id, **tokens)],
    )
    store.close()


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "prices.yaml").write_text(OWN)
    return str(tmp_path / "prices.yaml")


def test_show_prints_a_models_prices_with_whoever_has_it(run: Run) -> None:
    shown = run(prices, "show", "claude-sonnet-4-5-20250929")
    assert shown.exit_code == 0
    assert re.search(r"anthropic/claude-sonnet-4-5 +3 +15 +0\.3 +3\.75 +6 +10", shown.stdout)
    assert re.search(r"over 200,000 +6 +22\.5 +0\.6 +7\.5 +12", shown.stdout)
    assert re.search(r"batch +1\.5 +7\.5 +0\.15 +1\.875 +3", shown.stdout)
    assert "google/claude-sonnet-4-5" in shown.stdout


def test_show_as_json_has_exact_texts(run: Run) -> None:
    shown = run(prices, "show", "gpt-5.5", "--provider", "openai", "--json")
    (price,) = json.loads(shown.stdout)["prices"]
    assert (price["price"], price["input"], price["web_search"]) == ("openai/gpt-5.5", "5", "10")
    assert price["over"] == {"272000": {"input": "10", "output": "45", "cache_read": "1"}}
    assert price["tiers"]["priority"] == {"input": "12.5", "output": "75", "cache_read": "1.25"}


def test_show_fails_where_there_is_no_price(run: Run) -> None:
    shown = run(prices, "show", "nonesuch\x1b[31m", "--provider", "openai")
    assert shown.exit_code == 1
    assert "nonesuch\\x1b[31m has no price with openai; --prices gives it one." in shown.stdout
    assert run(prices, "show", "nonesuch", "--json").exit_code == 1


def test_own_prices_are_shown_first(run: Run, own: str) -> None:
    shown = run(prices, "show", "house-model", "--prices", own, "--json")
    found = json.loads(shown.stdout)
    assert found["tables"].endswith("+acme")
    assert [(each["table"], each["input"]) for each in found["prices"]] == [("acme", "1")]
    one = run(prices, "show", "house-model", "--prices", own, "--provider", "x", "--json")
    assert json.loads(one.stdout)["prices"] == found["prices"]


def test_check_lists_what_was_used_without_a_price(run: Run, used: None, own: str) -> None:
    found = run(prices, "check", "--since", "1970-01-01")
    assert found.exit_code == 1
    assert re.search(r"anthropic-eu +house-model +the model +1 +65,000", found.stdout)
    assert "claude-opus-5" not in found.stdout
    listed = json.loads(run(prices, "check", "--since", "1970-01-01", "--json").stdout)
    assert [each["reason"] for each in listed["unpriced"]] == ["model"]
    with_own = run(prices, "check", "--since", "1970-01-01", "--prices", own)
    assert (with_own.exit_code, "has a price" in with_own.stdout) == (0, True)


def test_recost_gives_stored_records_the_prices_of_today(run: Run, used: None, own: str) -> None:
    arguments = ("recost", "--since", "1970-01-01", "--prices", own)
    tried = run(prices, *arguments, "--dry-run")
    assert "would change" in tried.stdout
    assert json.loads(run(usage, "--format", "json").stdout)["total"]["unpriced"] == 1
    done = json.loads(run(prices, *arguments, "--json").stdout)
    assert (done["rows"], done["unpriced_before"], done["unpriced_after"]) == (2, 1, 0)
    assert (done["before"], done["after"]) == (625_000_000, 625_000_000 + 80_000_000)
    assert json.loads(run(usage, "--format", "json").stdout)["total"]["unpriced"] == 0


def test_recost_wants_to_know_since_when(run: Run, used: None) -> None:
    assert "--since" in run(prices, "recost").stderr


def test_usage_shows_money_rounded_and_what_has_no_price_as_such(run: Run, used: None) -> None:
    table = run(usage).stdout
    assert re.search(r"ada .* \$0\.63 +0", table)
    assert re.search(r"bob .* unpriced +1", table)
    assert re.search(r"total .* \$0\.63 +1", table)
    found = json.loads(run(usage, "--format", "json").stdout)
    assert found["total"]["cost_nano_usd"] == 625_000_000
    csv = run(usage, "--format", "csv").stdout.splitlines()
    assert csv[0].endswith(",cost_nano_usd,unpriced")
    assert [line.split(",")[-2:] for line in csv[1:]] == [["625000000", "0"], ["", "1"]]
    assert "$0.63" in run(usage, "--chart", "cost").stdout.splitlines()[-2]


@pytest.mark.parametrize("command", ["show", "check", "recost", "start"])
def test_a_file_of_prices_that_is_wrong_is_named_with_the_field(
    run: Run, tmp_path: Path, command: str
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("models: [{model: m, input: 3, outptu: 15}]")
    arguments = {
        "show": (prices, "show", "m"),
        "check": (prices, "check"),
        "recost": (prices, "recost", "--since", "1d"),
        "start": (check_all, "--local"),
    }[command]
    failed = run(*arguments, "--prices", str(file))
    assert failed.exit_code != 0
    said = failed.stdout + failed.stderr
    assert f"--prices {file}: models[0]: there is no field 'outptu'" in said.replace("\n", " ")


@pytest.mark.parametrize(
    ("nano", "shown"),
    [
        (None, "unpriced"),
        (0, "$0.00"),
        (200, "$0.00000020"),
        (1, "$0.000000001"),
        (4_999_999, "$0.0050"),
        (10_000_000, "$0.01"),
        (625_000_000, "$0.63"),
        (1_234_567_894_999_999, "$1,234,567.89"),
    ],
)
def test_money_is_rounded_when_it_is_shown(nano: int | None, shown: str) -> None:
    assert dollars(nano) == shown
