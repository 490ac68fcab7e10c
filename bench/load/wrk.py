"""wrk, the load generator for saturation: closed loop, in C, with prepared requests."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from bench.load.driver import DriverFailed, LoadResult
from bench.load.histogram import Histogram
from bench.load.spec import KEY_PLACE, Target
from bench.processes import Child

__all__ = ["Wrk"]

_SCRIPT = """\
local files = {%(files)s}
local keys_file = "%(keys)s"
local requests, keys, before, after, turn = {}, {}, {}, {}, 0

local function read(name)
  local file = assert(io.open(name, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

function init(args)
  for index, name in ipairs(files) do
    requests[index] = read(name)
    local from, to = requests[index]:find("%(place)s", 1, true)
    if from then
      before[index] = requests[index]:sub(1, from - 1)
      after[index] = requests[index]:sub(to + 1)
    end
  end
  if keys_file ~= "" then
    for key in read(keys_file):gmatch("%%S+") do keys[#keys + 1] = key end
  end
end

function request()
  turn = turn + 1
  local index = (turn - 1) %% #requests + 1
  if #keys == 0 then return requests[index] end
  return before[index] .. keys[(turn - 1) %% #keys + 1] .. after[index]
end

function done(summary, latency, requests)
  local out = assert(io.open("%(result)s", "w"))
  out:write(string.format('{"seconds":%%.6f,"answers":%%d,"bytes":%%d,"connect":%%d,' ..
    '"read":%%d,"write":%%d,"status":%%d,"timeout":%%d,"buckets":[',
    summary.duration / 1e6, summary.requests, summary.bytes, summary.errors.connect,
    summary.errors.read, summary.errors.write, summary.errors.status, summary.errors.timeout))
  for index = 1, #latency do
    local value, count = latency(index)
    out:write(string.format("%%s[%%d,%%d]", index > 1 and "," or "", value, count))
  end
  out:write("]}")
  out:close()
end
"""


class Wrk:
    """One run of wrk; :meth:`wait` returns its result."""

    def __init__(
        self,
        program: Path,
        environ: Mapping[str, str],
        target: Target,
        *,
        connections: int,
        seconds: float,
        folder: Path,
        name: str,
        timeout: float = 10.0,
    ) -> None:
        self._result = folder / f"{name}.result.json"
        self._limit = seconds + timeout + 30.0
        script = folder / f"{name}.lua"
        script.write_text(
            _SCRIPT
            % {
                "files": ", ".join(json.dumps(file) for file in target.requests),
                "keys": target.keys,
                "place": KEY_PLACE.decode(),
                "result": self._result,
            }
        )
        self.began = time.monotonic()
        self.child = Child(
            [
                str(program),
                "--threads=1",
                f"--connections={connections}",
                f"--duration={seconds:.0f}s",
                f"--timeout={timeout:.0f}s",
                f"--script={script}",
                f"http://127.0.0.1:{target.port}/",
            ],
            folder / f"{name}.log",
            env=environ,
        )

    def wait(self) -> LoadResult:
        """Wait for its end.  Raises DriverFailed."""
        try:
            self.child.process.wait(self._limit)
        except subprocess.TimeoutExpired:
            raise DriverFailed(f"wrk took more than {self._limit:.0f} s") from None
        if not self._result.exists():
            raise DriverFailed(f"wrk failed:\n{self.child.last_words()}")
        found = json.loads(self._result.read_text())
        errors = {
            name: int(found[name])
            for name in ("connect", "read", "write", "status", "timeout")
            if found[name]
        }
        latency = Histogram()
        for value, count in found["buckets"]:
            latency.add_many([value] * count)
        bad = errors.get("status", 0)
        numbers = {
            "seconds": found["seconds"],
            "sent": found["answers"],
            "ok": found["answers"] - bad,
            "ok_in_time": found["answers"] - bad,
            "unanswered": errors.get("timeout", 0),
            # All of it is in the latencies; wrk does not say its own CPU time.
        }
        return LoadResult(numbers, {"latency": latency}, errors, "wrk")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.child.stop()
