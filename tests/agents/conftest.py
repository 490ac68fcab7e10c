"""A repository to work in, as the programs see it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a file, on the branch ``fix/size`` of ``git.example/acme/shop``."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "a.txt").write_text("hello\n")

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=ada", "-c", "user.email=ada@example.com")
        subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)

    git("init", "--initial-branch", "fix/size")
    git("remote", "add", "origin", "https://ada:secret@git.example/acme/shop.git")
    git("add", ".")
    git("commit", "-m", "begin")
    return folder
