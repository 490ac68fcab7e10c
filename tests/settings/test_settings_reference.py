"""The docs page is written from the table, and is current."""

from __future__ import annotations

from pathlib import Path

from aigateway.http.settings import OPTIONS
from aigateway.http.settings._indexed_env import FIELDS as READ_FIELDS
from aigateway.http.settings.reference import FIELDS, reference
from aigateway.http.settings.table import GROUPS

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_in_docs_is_current() -> None:
    assert PAGE.read_text() == reference(), (
        "run: python -m aigateway.http.settings > docs/configuration.md"
    )


def test_the_page_names_every_flag_variable_and_key() -> None:
    page = reference()
    for row in OPTIONS:
        for name in (*row.flags, *row.envs, row.yaml):
            assert f"`{name}`" in page or not name


def test_every_option_is_in_a_group_that_is_shown() -> None:
    assert {row.group for row in OPTIONS} == set(GROUPS)


def test_every_field_of_numbered_providers_is_described() -> None:
    described = {name for names in FIELDS for name in names.split(", ")}
    assert described == READ_FIELDS


def test_no_flag_variable_or_key_is_used_twice() -> None:
    for names in (
        [flag for row in OPTIONS for flag in (*row.flags, *row.hidden_flags)],
        [name for row in OPTIONS for name in (*row.envs, *row.old_envs)],
        [name for row in OPTIONS for name in (row.yaml, row.old_yaml) if name],
    ):
        assert len(names) == len(set(names))
