"""``python -m fake_coderd``: a coderd for tests in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from attrs import frozen
from coderd_talk import Talk, interception

from aigateway.actors.control.messages import Accepted, Caller

TESTS = Path(__file__).parents[2]


@frozen
class _Elsewhere:
    url: str


def test_it_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "fake_coderd", "--records", str(records)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert process.stdout is not None
    with process, process.stdout:
        ready = json.loads(process.stdout.readline())
        assert ready["key"] == "gateway-key"
        record = interception()
        with Talk(_Elsewhere(ready["url"])) as talk:
            assert isinstance(talk.authorize("tok-alice-secret"), Caller)
            assert talk.start_interception(record) == Accepted()
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    (stored,) = map(json.loads, records.read_text().splitlines())
    assert stored["rpc"] == "RecordInterception"
    assert stored["id"] == record.id
