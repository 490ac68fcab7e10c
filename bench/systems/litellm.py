"""The LiteLLM proxy, from PyPI, in a virtual environment of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.payloads import MODELS, SLOW_MODEL, Endpoint
from bench.processes import Child, clean_environ, free_port
from bench.systems.base import Running, Surroundings, System
from bench.systems.direct import PATHS, credentials
from bench.systems.packages import python_package

__all__ = ["LiteLlm"]

REQUIREMENT = "litellm[proxy]"
MASTER_KEY = "sk-bench-master-key"


class LiteLlm(System):
    name = "litellm"
    title = "LiteLLM proxy"
    does = "checks one master key, replaces it, re-encodes; no records (they need PostgreSQL)"

    def __init__(self) -> None:
        self._bin = Path()

    def prepare(self, say: Callable[[str], None]) -> str:
        self._bin = python_package("litellm", REQUIREMENT, say)
        code = "import importlib.metadata as m; print(m.version('litellm'))"
        shown = subprocess.run(
            [str(self._bin / "python"), "-c", code], capture_output=True, text=True, check=False
        )
        return shown.stdout.strip()

    def launch(self, around: Surroundings) -> Running:
        port = free_port()
        main, slow = (f"http://127.0.0.1:{each}" for each in around.upstream_ports)
        models = (
            (MODELS["chat"], "openai/gpt-4o", f"{main}/v1"),
            (MODELS["messages"], "anthropic/claude-sonnet-4-5", main),
            (SLOW_MODEL, "openai/gpt-4o", f"{slow}/v1"),
        )
        config = {
            "model_list": [
                {
                    "model_name": name,
                    "litellm_params": {"model": model, "api_base": url, "api_key": "sk-provider"},
                }
                for name, model, url in models
            ],
            "general_settings": {"master_key": MASTER_KEY},
            "litellm_settings": {"num_retries": 0, "telemetry": False, "request_timeout": 600},
        }
        file = around.folder / "litellm.yaml"
        # JSON is YAML.
        file.write_text(json.dumps(config, indent=1))
        # As its production guide says: no debug log, production mode; the list of prices
        # is the one in the package, so that nothing is fetched.
        environ = clean_environ(
            LITELLM_LOG="ERROR",
            LITELLM_MODE="PRODUCTION",
            LITELLM_LOCAL_MODEL_COST_MAP="True",
            LITELLM_TELEMETRY="False",
        )
        arguments = ["--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
        child = Child(
            [str(self._bin / "litellm"), *arguments, "--num_workers", str(around.workers)],
            around.folder / "litellm.log",
            cwd=around.folder,
            env=environ,
        )
        return Running(
            [child],
            {
                api: Endpoint(port, path, credentials(api, MASTER_KEY), MODELS[api])
                for api, path in PATHS.items()
            },
            slow=Endpoint(port, PATHS["chat"], credentials("chat", MASTER_KEY), SLOW_MODEL),
        )
