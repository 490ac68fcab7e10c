"""Machines without a folder for temporary files, shared memory or a home."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from aigateway.http.cli.start import _check_folder
from aigateway.http.metrics.folder import VARIABLE, make_folder
from aigateway.http.server.application import gunicorn_options
from aigateway.http.settings import Settings, SettingsError, load

LOCAL = {"CODER_AI_GATEWAY_LOCAL": "true"}


@pytest.fixture
def no_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setenv(VARIABLE, "")


@pytest.fixture
def no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = os.access

    def denied(path: Any, mode: int) -> bool:
        return path != "/dev/shm" and allowed(path, mode)

    monkeypatch.setattr(os, "access", denied)


def _settings(runtime_dir: Path) -> Settings:
    return load({"runtime_dir": str(runtime_dir)}, LOCAL)


def test_heartbeats_are_elsewhere_where_shared_memory_cannot_be_written_to(
    tmp_path: Path, no_shared_memory: None
) -> None:
    assert "worker_tmp_dir" not in gunicorn_options(_settings(tmp_path))


def test_heartbeats_are_in_the_runtime_folder_where_there_is_no_other(
    tmp_path: Path, no_shared_memory: None, no_temporary_folder: None
) -> None:
    folder = tmp_path / "run"
    assert gunicorn_options(_settings(folder))["worker_tmp_dir"] == str(folder)
    assert folder.is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="set TMPDIR or --runtime-dir"):
        gunicorn_options(_settings(tmp_path / "file" / "run"))


def test_metrics_are_in_the_runtime_folder_where_there_is_no_other(
    tmp_path: Path, no_temporary_folder: None
) -> None:
    folder = make_folder(str(tmp_path / "run"))
    assert folder.parent == tmp_path / "run"
    with pytest.raises(OSError, match="No usable temporary"):
        make_folder()


def test_settings_are_read_where_there_is_no_temporary_folder(no_temporary_folder: None) -> None:
    assert load({}, LOCAL).runtime_dir


def test_who_has_no_home_is_told_which_option_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(_path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(SettingsError, match=r"no home folder for ~/x; set --state-dir"):
        _check_folder("~/x", "--state-dir")
