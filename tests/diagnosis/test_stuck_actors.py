"""An actor of a real gateway hangs, and the gateway still says where."""

from __future__ import annotations

import json
import os
import re
import signal
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from gateway_process import GatewayProcess, Upstream, message_of, wait_until
from imitation_provider import ScriptedProvider

KEY = "sk-planted-provider-key-0123456789"
PROMPT = "a planted prompt that nobody else reads"

# Python imports this when it starts.  It must not import anything of the gateway itself: gevent
# has to come first.
TROUBLE = """
import importlib.abc, os, sys, time
FOLDER = os.environ["TROUBLE"]

def there(name):
    return os.path.exists(os.path.join(FOLDER, name))

def make_trouble(module):
    receive = module.Provider.receive

    def troubled(self, message):
        if type(message).__name__ == "Perform":
            if there("die"):
                os.unlink(os.path.join(FOLDER, "die"))
                raise RuntimeError("died with " + self._config.keys[0])
            open(os.path.join(FOLDER, "hangs"), "w").close()
            hang_here(message.request.body)
        return receive(self, message)

    module.Provider.receive = troubled

def hang_here(prompt):
    while there("hang"):
        if there("politely"):
            time.sleep(0.01)

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "aigateway.actors.providers.provider":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (execute(module), make_trouble(module))
        return spec

sys.meta_path.insert(0, Finder())
"""


class Trouble:
    """A gateway whose provider actor hangs when it is told to."""

    def __init__(self, folder: Path, provider: ScriptedProvider, *options: str) -> None:
        self.folder = folder
        (folder / "sitecustomize.py").write_text(textwrap.dedent(TROUBLE))
        self.gateway = GatewayProcess(
            folder / "gateway",
            [Upstream("anthropic", provider.url, key=KEY)],
            options,
            environ={"TROUBLE": str(folder), "PYTHONPATH": str(folder)},
        )
        self.gateway.allowed_errors += ["actor ended, restarting it", "died with"]

    def switch(self, *names: str) -> None:
        for name in names:
            (self.folder / name).touch()

    def ask(self) -> requests.Response:
        return requests.post(
            f"{self.gateway.url}/anthropic/v1/messages",
            json={
                "model": "m",
                "max_tokens": 9,
                "messages": [{"role": "user", "content": PROMPT}],
            },
            headers={"X-Api-Key": self.gateway.key(), "X-Request-Id": "the-one-that-waits"},
            timeout=60,
        )

    def command(self, *argv: str) -> str:
        done = self.gateway.command("actors", "--runtime-dir", str(self.gateway.runtime_dir), *argv)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def written(self) -> dict[str, Any] | None:
        return next(
            (line for line in self.gateway.logs() if message_of(line) == "what this worker does"),
            None,
        )


@pytest.mark.parametrize(
    ("options", "switches"),
    [
        # Under gevent an actor that never gives control back stops everything else.
        pytest.param([], [], id="gevent-and-everything-with-it"),
        pytest.param([], ["politely"], id="gevent"),
        pytest.param(["--worker-class", "gthread"], ["politely"], id="gthread"),
    ],
)
def test_where_an_actor_hangs_is_seen(
    tmp_path: Path, provider: ScriptedProvider, options: list[str], switches: list[str]
) -> None:
    trouble = Trouble(tmp_path, provider, *options)
    gateway = trouble.gateway
    with gateway, ThreadPoolExecutor() as pool:
        trouble.switch("die", "hang", *switches)
        answer = pool.submit(trouble.ask)
        wait_until((tmp_path / "hangs").exists, "the actor hangs")
        (seen,) = json.loads(trouble.command("--trace", "--json"))
        os.kill(gateway.process.pid, signal.SIGUSR2)
        line = wait_until(trouble.written, "the worker has written it")
        (tmp_path / "hang").unlink()
        assert answer.result().status_code == 200
        calm = trouble.command("--trace")
        shown = gateway.stderr()

    assert "error" not in seen, seen
    actors = {actor["role"]: actor for actor in seen["actors"]}
    assert {"supervisor", "control-plane", "recorder"} <= set(actors)
    assert {actors[role]["state"] for role in ("supervisor", "recorder")} == {"waiting"}
    assert all(actor["stack"] is not None for actor in actors.values())
    stuck = actors["provider/anthropic"]
    assert (stuck["state"], stuck["message"], stuck["restarts"]) == ("working", "Perform", 1)
    assert 0 < stuck["seconds"] < 60
    functions = [entry.rpartition(" ")[2] for entry in seen["stacks"][stuck["stack"]]]
    place = functions.index("_actor_loop")
    assert "on_receive" in functions[place:]
    place = functions.index("troubled")
    assert functions[place + 1] == "hang_here"
    assert stuck["last_error"] == "RuntimeError: died with ********"
    assert seen["requests"] == 1
    (request,) = seen["oldest"]
    assert (request["request_id"], request["stage"]) == ("the-one-that-waits", "provider")

    text = line["fields"]["attached"]
    assert re.search(r"^provider/anthropic +working: Perform, for [0-9.]+ s ", text, re.M)
    assert line["fields"]["pid"] == seen["pid"]
    # People get the same lines, indented below the entry.
    assert textwrap.indent(text, "    ") in shown

    assert "hang_here" not in calm
    for secret in (KEY, PROMPT, gateway.key()):
        assert secret not in f"{seen} {text} {shown} {calm}"
