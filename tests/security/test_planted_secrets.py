"""No secret leaves the gateway but to whom it is for.

Secrets of every kind are planted, everything that can fail is made to fail, at the most
talkative log level and with dumps on; then all that the gateway said is searched: logs,
answers, dumps, metrics, process arguments, records, and what its own commands print.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from attrs import define, field
from aws_imitation import bedrock_stream, exception_frame, sts_script
from fake_coderd import FakeCoderd
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import (
    Close,
    ReceivedRequest,
    Reset,
    ScriptedProvider,
    Steps,
    answer,
    error,
    event,
    head,
    stream,
)

from aigateway.actors.control.coderd.wire import coderd_pb2 as pb

PLANTED = {
    "gateway key": "gwk-planted-0123456789abcdefghijklmnopq",
    "first anthropic key": "sk-ant-planted-first-0123456789",
    "second anthropic key": "sk-ant-planted-second-0123456789",
    "openai key": "sk-planted-openai-0123456789",
    # No shape that a filter could know.
    "plain key": "plantedplainkeyofaprovider",
    "aws secret": "planted/aws+secret/0123456789abcdefghijk",
    "role secret": "planted/role+secret/0123456789abcdefghij",
    "role token": "plantedRoleSessionToken0123456789",
    "user token": "plantedusr-tokenofalice0123456789",
    "unknown token": "plantedunk-tokenofnobody0123456",
    "byok key": "sk-ant-planted-byok-0123456789",
    "github token": "ghu_plantedgithubtoken0123456789abc",
    "proxy password": "planted-proxy-password",
    "proxy password of the environment": "planted-environ-password",
    "password in an address": "planted-address-password",
    "redis password": "planted-redis-password",
    "key in a query": "planted-query-key-0123456789",
    "cookie": "planted-cookie-0123456789",
    "token in a broken request": "planted-broken-0123456789",
}
NOBODY = "127.0.0.1:1"
FAULTS = ["ok", "500", "reset", "garbage", "html", "cut", "half", "gzip", "429", "401", "403"]
"""Those that are about a key come last: with them the provider's keys are used up."""


# -- the provider


def script(request: ReceivedRequest) -> Steps:
    """What the model's name asks for; the provider is a proxy and AWS's STS as well."""
    if b"Action=AssumeRole" in request.body:
        keys = (PLANTED["role secret"], PLANTED["role token"])
        return sts_script("ASIAPLANTEDROLE", *keys, expires="2099-01-01T00:00:00Z")
    if request.method == "CONNECT" or request.target.startswith("http://"):
        return answer("who are you?", 407, [("Proxy-Authenticate", "Basic")])
    fault = next((name for name in FAULTS if f"m-{name}" in _asked(request)), "ok")
    cookie = [("Set-Cookie", f"session={PLANTED['cookie']}")]
    start = event({"type": "message_start", "message": {"id": "m"}}, name="message_start")
    framed = request.target.endswith("-stream")
    match fault:
        case "401" | "403" | "500":
            return error(int(fault))
        case "429":
            return error(429, retry_after="1")
        case "reset":
            return [Reset()]
        case "garbage":
            return [b"this is not HTTP\r\n\r\n", Close()]
        case "html":
            return answer("<html>sorry</html>", 200, cookie, content_type="text/html")
        case "cut" | "half" if framed:
            parts = [{"type": "message_start"}, exception_frame("throttlingException", "slow")]
            return [*bedrock_stream(parts, end=False), Reset()]
        case "cut":
            return [*stream([start], headers=cookie, end=False), Reset()]
        case "half":
            return [head(200, [("Content-Length", "500")]), b'{"id":', Close()]
        case "gzip":
            return answer(b"no gzip", 200, [("Content-Encoding", "gzip"), *cookie])
        case _:
            return answer({"id": "m", "type": "message", "content": [], "usage": {}}, 200, cookie)


def _asked(request: ReceivedRequest) -> str:
    return request.target + request.body.decode("latin-1")


# -- the gateway


@define
class Scene:
    gateway: GatewayProcess
    provider: ScriptedProvider
    coderd: FakeCoderd
    dumps: Path
    metrics: str
    said: list[str] = field(factory=list)
    """Everything that clients were told."""

    def request(self, method: str, path: str, **more: Any) -> None:
        """Send a request and remember whatever comes back."""
        try:
            got = requests.request(
                method, f"{self.gateway.url}{path}", timeout=30, stream=True, **more
            )
        except requests.RequestException as ex:
            self.said.append(str(ex))
            return
        text = f"{got.status_code} {got.reason}\n{dict(got.headers)}\n"
        with contextlib.suppress(requests.RequestException):
            for piece in got.iter_content(None):
                text += piece.decode("utf-8", "replace")
        got.close()
        self.said.append(text)

    def raw(self, data: bytes) -> None:
        """Send bytes, remember what comes until the gateway closes."""
        host, _, port = self.gateway.url.removeprefix("http://").rpartition(":")
        received = b""
        with (
            socket.create_connection((host, int(port)), timeout=10) as client,
            contextlib.suppress(OSError),
        ):
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while piece := client.recv(65536):
                received += piece
        self.said.append(received.decode("latin-1"))


def own_providers(provider: ScriptedProvider) -> list[Upstream]:
    """Providers of the gateway's own environment."""
    proxy = f"http://proxyuser:{PLANTED['proxy password']}@{provider.url.removeprefix('http://')}"
    keys = f"{PLANTED['first anthropic key']},{PLANTED['second anthropic key']}"
    aws = {
        "BEDROCK_BASE_URL": provider.url,
        "BEDROCK_REGION": "eu-west-1",
        "BEDROCK_ACCESS_KEY": "AKIAPLANTEDPLANTED12",
        "BEDROCK_ACCESS_KEY_SECRET": PLANTED["aws secret"],
    }
    away = f"http://baseuser:{PLANTED['password in an address']}@{NOBODY}"
    plain = {"key": PLANTED["plain key"]}
    return [
        Upstream("anthropic", provider.url, key="", extra={"KEYS": keys}),
        Upstream("openai", provider.url, key=PLANTED["openai key"]),
        Upstream("copilot", provider.url, key=""),
        Upstream("bedrock", provider.url, key="", extra=aws),
        Upstream(
            "bedrock", "", "role", key="",
            extra={**aws, "BEDROCK_ROLE_ARN": "arn:aws:iam::123456789012:role/r"},
        ),
        Upstream("anthropic", away, "away", **plain, extra={"FALLBACK": "role"}),
        Upstream("openai", "http://upstream.invalid", "walled", **plain, extra={"PROXY": proxy}),
        Upstream("openai", "https://upstream.invalid", "tunnel", **plain, extra={"PROXY": proxy}),
        Upstream("openai", "https://upstream.invalid", "by-environment", **plain),
    ]  # fmt: skip


def deployments_providers(provider: ScriptedProvider) -> tuple[pb.AIProvider, ...]:
    """Providers that coderd has: their secrets are in no setting of the gateway."""
    bedrock = pb.AIProviderBedrock(
        region="eu-west-1",
        access_key="AKIAPLANTEDPLANTED12",
        access_key_secret=PLANTED["aws secret"],
        model="big",
        small_fast_model="small",
    )

    def has(name: str, kind: str, url: str, **more: Any) -> pb.AIProvider:
        return pb.AIProvider(name=name, type=kind, enabled=True, base_url=url, **more)

    keys = [PLANTED["first anthropic key"], PLANTED["second anthropic key"]]
    return (
        has("anthropic", "anthropic", provider.url, keys=keys),
        has("openai", "openai", f"{provider.url}/v1", keys=[PLANTED["openai key"]]),
        has("copilot", "copilot", provider.url),
        has("bedrock", "bedrock", provider.url, bedrock=bedrock),
        has("away", "anthropic", f"http://{NOBODY}", keys=[PLANTED["plain key"]]),
        # Keys that make no pool: the provider is reported as misconfigured.
        has("walled", "openai", f"{provider.url}/v1", keys=[PLANTED["plain key"]] * 2),
    )


@pytest.fixture(params=["gevent-own", "gthread-own", "gevent-coderd"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    worker_class, _, where = request.param.partition("-")
    dumps = tmp_path / "dumps"
    with (
        ScriptedProvider(otherwise=script) as provider,
        FakeCoderd(gateway_key=PLANTED["gateway key"]) as coderd,
    ):
        coderd.deployment.add_user("alice", PLANTED["user token"])
        if where == "coderd":
            coderd.deployment.providers = deployments_providers(provider)
        key_file = tmp_path / "key"
        key_file.write_text(PLANTED["gateway key"])
        by_environment = f"http://envuser:{PLANTED['proxy password of the environment']}@{NOBODY}"
        gateway = GatewayProcess(
            tmp_path / "gw",
            own_providers(provider) if where == "own" else [],
            [
                "--url", coderd.url,
                "--key-file", str(key_file),
                "--worker-class", worker_class,
                "--verbose",
                "--log-filter", ".*",
                "--log-human", str(tmp_path / "gw" / "human.log"),
                "--ai-gateway-dump-dir", str(dumps),
                "--ai-gateway-rate-limit", "100000",
                "--max-wait", "1s",
                "--prometheus-enable",
                "--prometheus-address", "127.0.0.1:0",
                "--ai-gateway-circuit-breaker-enabled",
                "--ai-gateway-send-actor-headers",
            ],
            local=False,
            environ={
                "CODER_AI_GATEWAY_RATE_LIMIT_STORAGE":
                    f"redis://:{PLANTED['redis password']}@{NOBODY}/0",
                "HTTPS_PROXY": by_environment,
                "NO_PROXY": "127.0.0.1",
                "AWS_ENDPOINT_URL_STS": provider.url,
                "AWS_EC2_METADATA_DISABLED": "true",
            },
        )  # fmt: skip
        # Faults are provoked by the hundred here; what matters is what they say.
        gateway.allowed_errors.append("")
        with gateway:
            address = wait_until(lambda: _metrics_address(gateway), "metrics are served")
            yield Scene(gateway, provider, coderd, dumps, f"http://{address}/metrics")


def _metrics_address(gateway: GatewayProcess) -> str:
    lines = (line for line in gateway.logs() if "http server listening" in str(line))
    return next((str(line["fields"]["addr"]) for line in lines), "")


# -- what is done to it


def everything_fails(scene: Scene) -> None:
    alice, byok = PLANTED["user token"], PLANTED["byok key"]
    usual = {"X-Api-Key": alice, "Cookie": f"a={PLANTED['cookie']}"}
    own = {"X-Coder-AI-Governance-Token": alice, "Authorization": f"Bearer {byok}"}
    github = {**own, "Authorization": f"Bearer {PLANTED['github token']}"}
    # Which providers there are differs; a 404 must not leak either.
    for name in ("anthropic", "bedrock", "role", "away", "openai", "walled", "tunnel",
                 "by-environment", "copilot", "nobody"):  # fmt: skip
        gpt = name in ("openai", "walled", "tunnel", "by-environment")
        path = f"/{name}/v1/chat/completions" if gpt else f"/{name}/v1/messages"
        for fault in FAULTS if name in ("anthropic", "openai", "bedrock", "copilot") else ["ok"]:
            for headers in ({**usual}, own, github):
                for streamed in (False, True):
                    body = {
                        "model": f"m-{fault}",
                        "max_tokens": 5,
                        "stream": streamed,
                        "messages": [{"role": "user", "content": "hello"}],
                    }
                    scene.request("POST", path, json=body, headers=headers)
        query = f"?api_key={PLANTED['key in a query']}"
        for headers in (usual, own):
            scene.request("GET", f"/{name}/v1/models{query}", headers=headers)
        scene.request("POST", path, data=b"{", headers=usual)
        scene.request("POST", path, json={}, headers={"X-Api-Key": PLANTED["unknown token"]})


def nonsense(scene: Scene) -> None:
    token = PLANTED["token in a broken request"].encode()
    line = b"POST /anthropic/v1/messages HTTP/1.1\r\nHost: x\r\n"
    for request in (
        b"GET /x?key=" + token + b" HTTP/9.9\r\n\r\n",
        b"GET /x?key=" + token + b"\r\n\r\n",
        b"G\x01T /x?key=" + token + b" HTTP/1.1\r\n\r\n",
        line + b"Authorization Bearer " + token + b"\r\n\r\n",
        line + b"X-Api-Key : " + token + b"\r\n\r\n",
        line + b"X-Api-Key: " + token + b"\r\n folded\r\n\r\n",
        line + b"X-Api-Key: " + token + b"\x00\r\n\r\n",
        line + b"X-Api-Key: " + token + b"\r\nContent-Length: many\r\n\r\n",
        line + b"X-Api-Key: " + token + b"\r\nTransfer-Encoding: odd\r\n\r\n",
        line + b"X-Api-Key: " + token * 5000 + b"\r\n\r\n",
        line + b"X-Api-Key: " + token + b"\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        line + b"X-Api-Key: " + token + b"\r\nExpect: nothing\r\nContent-Length: 9\r\n\r\n{",
        token,
    ):
        scene.raw(request)


def actors_die(scene: Scene) -> None:
    alice = {"X-Api-Key": PLANTED["user token"]}
    ask = {"model": "m-ok", "max_tokens": 5, "messages": []}
    folder = ["--runtime-dir", str(scene.gateway.runtime_dir)]
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            scene.request("POST", "/anthropic/v1/messages", json=ask, headers=alice)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for role in ("provider/anthropic", "provider/bedrock", "recorder", "control-plane"):
            done = scene.gateway.command("actors", *folder, "restart", role, "--crash")
            scene.said += [done.stdout, done.stderr]
    finally:
        stop.set()
        thread.join(60)
    done = scene.gateway.command("actors", "--json", *folder)
    scene.said += [done.stdout, done.stderr]


def coderd_goes_away(scene: Scene) -> None:
    scene.coderd.faults.fail("RecordTokenUsage", "insert token usage: no disk", times=2)
    scene.coderd.refuse(503, {"message": "away"})
    scene.coderd.cut_connections(reset=True)
    for _ in range(2):
        scene.request(
            "POST",
            "/anthropic/v1/messages",
            json={"model": "m-ok"},
            headers={"X-Api-Key": PLANTED["user token"]},
        )
    scene.coderd.admit()
    wait_until(scene.gateway.is_ready, "the gateway is connected again")


# -- what it said


def process_arguments(gateway: GatewayProcess) -> str:
    """The arguments of all its processes, from where anybody on the machine can read them."""
    master = psutil.Process(gateway.process.pid)
    pids = [master.pid, *(child.pid for child in master.children(recursive=True))]
    assert len(pids) > 2
    return "\n".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in pids)


def all_files(folder: Path) -> dict[str, str]:
    return {
        str(path): path.read_bytes().decode("latin-1")
        for path in folder.rglob("*")
        if path.is_file() and path.name != "key"
    }


def forms(secret: str) -> set[str]:
    """A secret as it is, and as it may hide: encoded for Basic authentication or a URL."""
    quoted = requests.utils.quote(secret, safe="")
    encoded = {base64.b64encode(f"{user}:{secret}".encode()).decode() for user in _USERS}
    return {secret, quoted, *encoded}


_USERS = ("proxyuser", "envuser", "baseuser", "")


def test_planted_secrets_show_nowhere(scene: Scene, tmp_path: Path) -> None:
    gateway = scene.gateway
    everything_fails(scene)
    nonsense(scene)
    actors_die(scene)
    coderd_goes_away(scene)
    arguments = process_arguments(gateway)
    metrics = requests.get(scene.metrics, timeout=30).text
    checked = [gateway.command("check", *more) for more in ([], ["--json"], ["--json", "--dial"])]
    stored = repr(scene.coderd.deployment.stored())
    gateway.stop()

    files = all_files(tmp_path)
    assert any(name.endswith(".resp.txt") for name in files)
    assert "upstream request failed" in files[str(gateway.log_file)]
    assert "AKIA...ED12" in stored
    assert len(scene.coderd.deployment.stored()) > 50
    assert "all configured keys " in "".join(scene.said)
    places = {
        **files,
        "answers to clients": "\n".join(scene.said),
        "process arguments": arguments,
        "metrics": metrics,
        "records": stored,
        "check": "\n".join(done.stdout + done.stderr for done in checked),
    }
    received = "".join(repr(r.headers) + r.target for r in scene.provider.requests)
    used = {name for name, secret in PLANTED.items() if any(f in received for f in forms(secret))}
    assert used >= {"first anthropic key", "openai key", "byok key", "github token"}
    if any("/role/" in name for name in files):
        assert used >= {"second anthropic key", "role token", "proxy password"}
        assert any("X-Amz-Security-Token: plan...6789" in text for text in files.values())
    assert not used & {"gateway key", "user token", "unknown token", "redis password"}

    found = [
        f"{name} in {place}: …{text[max(0, text.index(form) - 150) : text.index(form) + 40]!r}…"
        for name, secret in PLANTED.items()
        for form in forms(secret)
        for place, text in places.items()
        if form in text and not _allowed(name, place)
    ]
    assert not found, "\n".join(found)
    assert os.listdir(scene.dumps)


def _allowed(name: str, place: str) -> bool:
    """A provider's own cookie is for its client."""
    return (name, place) == ("cookie", "answers to clients")
