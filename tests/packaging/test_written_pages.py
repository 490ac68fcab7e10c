"""That the pages for people agree with the checkout, as far as a program can see."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest

from aigateway.actors.values.provider_config import PROVIDER_TYPES
from aigateway.http.cli import COMMANDS, cli

CHECKOUT = Path(__file__).parents[2]
PAGES = [
    CHECKOUT / "README.md",
    CHECKOUT / "CHANGELOG.md",
    *sorted((CHECKOUT / "docs").rglob("*.md")),
]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]

LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
FLAG = re.compile(r"`(--[a-z][a-z0-9-]*[a-z0-9])(?=[`= ])")
COMMAND = re.compile(r"`aigateway ([a-z]+)")


def _name(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def _anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in LINK.findall(CODE.sub("", page.read_text())):
        parts = urlsplit(link)
        target = page.parent / parts.path if parts.path else page
        if parts.scheme:
            continue
        if not target.exists():
            wrong.append(f"{link}: there is no such file")
        elif parts.fragment and parts.fragment not in _anchors(target):
            wrong.append(f"{link}: the page has no such heading")
    assert wrong == []


def test_every_page_is_listed_in_the_readme() -> None:
    readme = (CHECKOUT / "README.md").read_text()
    pages = [page for page in PAGES if page.parent == CHECKOUT / "docs"]
    assert [_name(page) for page in pages if f"({_name(page)})" not in readme] == []


def test_every_type_of_provider_has_a_page() -> None:
    index = (CHECKOUT / "docs" / "providers.md").read_text()
    rows = re.findall(r"^\| \[[^]]+\]\((providers/[^)]+)\) \| ([^|]+) \|", index, re.MULTILINE)
    assert {page for page, _ in rows} == {
        f"providers/{page.name}" for page in (CHECKOUT / "docs" / "providers").glob("*.md")
    }
    assert {kind for _, kinds in rows for kind in re.findall(r"`([^`]+)`", kinds)} == set(
        PROVIDER_TYPES
    )


def _flags(command: click.Command) -> set[str]:
    """All flags of a command and of those below it."""
    found = {flag for parameter in command.params for flag in parameter.opts}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            found |= _flags(below)
    return found


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_flags_and_commands_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    assert sorted(set(FLAG.findall(text)) - _flags(cli) - {"--flag"}) == []
    assert sorted(set(COMMAND.findall(text)) - COMMANDS.keys()) == []


def test_each_dependency_has_a_reason() -> None:
    required = [*PROJECT["dependencies"]]
    for extra in PROJECT["optional-dependencies"].values():
        required += extra
    names = {re.match(r"[\w-]+", text).group().lower() for text in required}  # type: ignore[union-attr]
    page = (CHECKOUT / "docs" / "dependencies.md").read_text().lower()
    said = {word for row in re.findall(r"^\|.*$", page, re.MULTILINE) for word in _words(row)}
    stubs = {name for name in names if name.startswith("types-")}
    assert sorted(names - said - stubs - {"aigateway", "mypy", "ruff"}) == []


def _words(row: str) -> set[str]:
    return set(re.findall(r"[\w-]+", row))
