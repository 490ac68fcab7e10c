"""Tables of prices: what is taken, and how what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aigateway.actors.control.local.price_files import (
    PricesFileError,
    load_pricing,
    packaged_table,
    read_prices_file,
)
from aigateway.actors.control.local.prices.cost import Pricing
from aigateway.actors.control.local.prices.table import BadPrices, read_table

WHOLE = """
version: acme-3
models:
  - model: claude-opus-5
    names: [our-opus, "opus*"]
    provider: anthropic-eu
    input: 4.5
    output: "22.50"
    cache_read: 0.45
    cache_write: 5.625
    cache_write_1h: 9
    web_search: 10
    over:
      200000: {input: 9, output: 33.75}
    tiers:
      batch: {input: 2.25, output: 11.25}
    geo: {us: 1.1}
    since: 2026-11-01
    hours: 08:00-20:00
"""


def test_a_file_of_yaml_with_all_that_there_is(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text(WHOLE)
    table = read_prices_file(tmp_path / "prices.yaml")
    (price,) = table.models
    assert table.version == "acme-3"
    assert (price.key, price.names) == ("anthropic-eu/claude-opus-5", ("our-opus", "opus*"))
    assert (price.prices["output"], price.prices["cache_read"]) == (22_500_000, 450_000)
    assert price.prices["web_search"] == 10_000_000_000
    assert price.at(200_000)["input"] == 4_500_000
    assert price.at(200_001) == {**price.prices, "input": 9_000_000, "output": 33_750_000}
    assert price.tiers["batch"].prices == {"input": 2_250_000, "output": 11_250_000}


def test_json_is_taken_too_and_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{\n\t"models": [{"model": "m", "input": 0.1}]}')
    (tmp_path / "p.yaml").write_text("models: [{model: m, input: 0.1}]")
    one, other = (read_prices_file(tmp_path / name) for name in ("p.json", "p.yaml"))
    assert one.models == other.models
    assert one.models[0].prices == {"input": 100_000}


def test_a_file_without_a_version_has_that_of_its_bytes(tmp_path: Path) -> None:
    versions = set()
    for price in (1, 2):
        (tmp_path / "p.yaml").write_text(f"models: [{{model: m, input: {price}}}]")
        versions.add(load_pricing(read_prices_file(tmp_path / "p.yaml")).version)
    assert len(versions) == 2


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"input": -1}, "models[0] (m).input: must not be below 0"),
        ({"input": "3$"}, "models[0] (m).input: must be a number of dollars, not '3$'"),
        ({"input": None}, "models[0] (m).input: must be a number of dollars"),
        ({"input": True}, "models[0] (m).input: must be a number of dollars"),
        ({"input": float("nan")}, "models[0] (m).input: must be a number of dollars"),
        ({"input": float("inf")}, "models[0] (m).input: must be a number of dollars"),
        ({"input": "0.0000001"}, "models[0] (m).input: may have at most 6 digits"),
        ({"input": 3_000_000}, "models[0] (m).input: 3000000 dollars cannot be meant"),
        ({"inptu": 3}, "models[0]: there is no field 'inptu'; known are "),
        ({}, "models[0] (m): has no price"),
        ({"input": 1, "names": "x"}, "models[0] (m).names: must be a list"),
        ({"input": 1, "names": [1]}, "models[0] (m).names: must be a list"),
        ({"input": 1, "provider": 3}, "models[0] (m).provider: must be"),
        ({"input": 1, "over": {"many": {}}}, "models[0] (m).over.many: must be a number"),
        ({"input": 1, "over": {5: {"input": "x"}}}, "models[0] (m).over.5.input: must be"),
        ({"input": 1, "over": {5: {"web_search": 1}}}, "models[0] (m).over.5: there is no field"),
        ({"input": 1, "over": {5: {}}}, "models[0] (m).over.5: has no price"),
        ({"input": 1, "tiers": []}, "models[0] (m).tiers: must be a mapping"),
        ({"input": 1, "tiers": {"flex": 2}}, "models[0] (m).tiers.flex: must be a mapping"),
        ({"input": 1, "tiers": {"flex": {"input": "x"}}}, "models[0] (m).tiers.flex.input: "),
        ({"input": 1, "geo": {"us": "x"}}, "models[0] (m).geo.us: must be a number"),
        ({"input": 1, "since": "soon"}, "models[0] (m).since: must be a day"),
        ({"input": 1, "since": 3}, "models[0] (m).since: must be a day"),
        ({"input": 1, "hours": "8-20"}, "models[0] (m).hours: must be times"),
        ({"model": "", "input": 1}, "models[0].model: must be the name"),
        ({"model": 3, "input": 1}, "models[0].model: must be the name"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(entry: dict[str, object], said: str) -> None:
    with pytest.raises(BadPrices) as caught:
        read_table({"version": "1", "models": [{"model": "m", **entry}]})
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (None, "the file: must be a mapping"),
        ([], "the file: must be a mapping"),
        ({"models": []}, "version: must be"),
        ({"version": "1"}, "models: must be a list"),
        ({"version": "1", "models": {}}, "models: must be a list"),
        ({"version": "1", "models": ["m"]}, "models[0]: must be a mapping"),
        ({"version": "1\n2", "models": []}, "version: must be"),
        ({"version": "1", "vendors": {}}, "the file: there is no field 'vendors'"),
        (
            {"version": "1", "models": [{"model": "m", "input": 1}] * 2},
            "models[1] (m): is models[0]",
        ),
    ],
)
def test_what_is_no_table_is_refused(document: object, said: str) -> None:
    with pytest.raises(BadPrices) as caught:
        read_table(document)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"models: [", "line 1"),
        (
            b"models:\n  - model: m\n    input: 1\n    input: 2\n",
            "input: stands there twice (line 4)",
        ),
        (b'{"models": [{"model": "m", "input": 1, "input": 2}]}', "input: stands there twice"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"", "must be a mapping"),
        (b"models: [{model: m, input: -3}]", "models[0] (m).input: must not be below 0"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "prices.yaml"
    file.write_bytes(content)
    with pytest.raises(PricesFileError) as caught:
        read_prices_file(file)
    assert str(caught.value).startswith(f"--prices {file}: ")
    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PricesFileError, match="no such file"):
        read_prices_file(tmp_path / "none.yaml")


def test_names_written_out_come_before_patterns_and_longer_patterns_before_shorter() -> None:
    table = read_table({
        "version": "1",
        "models": [
            {"model": "any", "names": ["*"], "input": 1},
            {"model": "big", "names": ["gpt-*"], "input": 2},
            {"model": "mini", "names": ["gpt-*-mini"], "input": 3},
            {"model": "gpt-5-mini", "input": 4},
        ],
    })  # fmt: skip

    def found(name: str) -> str:
        price = table.find(name, ("",), 0)
        assert price is not None
        return price.model

    assert [found(name) for name in ("gpt-5-mini", "GPT-6-mini", "gpt-6", "o9", "gpt-mini")] == [
        "gpt-5-mini", "mini", "big", "any", "big",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "m", " M ", "m-latest", "m@latest", "m@default", "m-20250101", "m@20250101",
        "m-2025-01-01", "m-v1", "m-v2:0", "m-v1:0:200k", "m-20250101-v1:0", "m[1m]", "us.m",
        "us-gov.m-v1:0", "global.m-20250101-v1:0", "models/m", "publishers/x/models/m@20250101",
        "projects/p/locations/l/publishers/x/models/m",
        "arn:aws:bedrock:eu-west-1:1:inference-profile/eu.m-20250101-v1:0",
    ],
)  # fmt: skip
def test_a_model_is_found_by_all_its_names(name: str) -> None:
    table = read_table({"version": "1", "models": [{"model": "m", "input": 1}]})
    assert table.find(name, ("",), 0) is not None


@pytest.mark.parametrize("name", ["mm", "m-2025", "m-mini", "latest", "", "-v1", "xx.m", "a/m"])
def test_a_model_is_not_taken_for_another(name: str) -> None:
    table = read_table({"version": "1", "models": [{"model": "m", "input": 1}]})
    assert table.find(name, ("",), 0) is None


def test_the_packages_table_is_dated_and_says_what_it_was_made_from(pricing: Pricing) -> None:
    table = packaged_table()
    assert table.version == pricing.version
    assert table.version[:2] == "20"
    assert table.source.startswith("genai-prices ")
    # What everybody uses has a price of each kind.
    for name in ("claude-opus-5", "claude-sonnet-4-5", "claude-haiku-4-5"):
        price = table.find(name, ("anthropic",), 1_795_000_000)
        assert price is not None
        assert {
            "input",
            "output",
            "cache_read",
            "cache_write",
            "cache_write_1h",
            "web_search",
        } <= set(price.prices)
        assert "batch" in price.tiers


def test_the_packages_table_is_written_a_price_a_line_so_that_differences_can_be_read() -> None:
    file = Path(__file__).parents[4] / "actors/control/local/prices/table.json"
    lines = [line for line in file.read_text().splitlines() if line.startswith('{"model"')]
    assert len(lines) == len(json.loads(file.read_text())["models"])


@pytest.mark.parametrize(
    ("address", "vendor"),
    [
        ("https://api.anthropic.com", "anthropic"),
        ("https://api.openai.com/v1", "openai"),
        ("https://bedrock-runtime.eu-west-1.amazonaws.com", "aws"),
        ("https://acme.openai.azure.com/openai/v1", "azure"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "google"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://api.deepseek.com", "deepseek"),
        ("http://127.0.0.1:8000/v1", None),
        ("https://evil.example/https://api.openai.com", None),
    ],
)
def test_an_address_says_whose_list_prices_hold(address: str, vendor: str | None) -> None:
    found = packaged_table().vendor_of(address)
    assert (found and found.name) == vendor
