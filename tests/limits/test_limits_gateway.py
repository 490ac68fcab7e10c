"""Limits and dumps as a client of a real gateway meets them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import (
    Reset,
    ScriptedProvider,
    WaitFor,
    answer,
    error,
    event,
    imitate,
    stream,
)

WORKERS = pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
ASK = {
    "model": "claude-x",
    "max_tokens": 50,
    "messages": [{"role": "user", "content": "hi"}],
}


def gateway(
    folder: Path, provider: ScriptedProvider, worker_class: str, *options: str
) -> GatewayProcess:
    upstreams = [Upstream("anthropic", provider.url), Upstream("openai", provider.url)]
    return GatewayProcess(folder, upstreams, ["--worker-class", worker_class, *options])


def ask(gateway: GatewayProcess, user: str = "alice", **more: Any) -> requests.Response:
    return requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json={**ASK, **more},
        headers={"X-Api-Key": gateway.key(user)},
        timeout=30,
    )


# -- the rate limit


@WORKERS
def test_a_client_over_its_rate_is_told_so_and_others_are_not(
    tmp_path: Path, worker_class: str
) -> None:
    with (
        ScriptedProvider(otherwise=imitate()) as provider,
        gateway(tmp_path, provider, worker_class, "--ai-gateway-rate-limit", "2") as limited,
    ):
        limited.key("bob")
        limited.key()
        # Five requests cannot fit into two windows of two, should one end between them.
        answers = [ask(limited) for _ in range(5)]
        refused = [got for got in answers if got.status_code == 429]
        if not refused:
            # A slow machine took a window for each.
            with ThreadPoolExecutor(20) as pool:
                answers = list(pool.map(lambda _: ask(limited), range(20)))
            refused = [got for got in answers if got.status_code == 429]
        got = refused[0]
        told = "You've been rate limited. Please try again later."
        assert got.json()["message"] == told, "as the reference says it"
        assert got.json()["error"] == {"type": "rate_limit_error", "message": told}
        assert got.headers["Retry-After"] == "1"
        assert got.headers["X-RateLimit-Limit"] == "2"
        assert got.headers["X-RateLimit-Remaining"] == "0"
        assert "X-AI-Gateway-Interception-Id" not in got.headers
        assert ask(limited, "bob").status_code == 200
        for _ in range(10):
            assert requests.get(f"{limited.url}/healthz", timeout=10).status_code == 200
            assert requests.get(f"{limited.url}/readyz", timeout=10).status_code == 200
        # Nothing of a refused request reached the provider.
        assert len(provider.requests) == sum(g.status_code == 200 for g in answers) + 1
        wait_until(lambda: ask(limited).status_code == 200, "the window is over")


# -- the concurrency cap


@WORKERS
def test_a_full_gateway_lets_few_wait_and_refuses_the_rest(
    tmp_path: Path, worker_class: str
) -> None:
    options = ["--ai-gateway-max-concurrency", "2", "--queue-depth", "1", "--queue-wait", "30s"]
    with (
        ScriptedProvider(otherwise=imitate()) as provider,
        gateway(tmp_path, provider, worker_class, *options) as full,
        ThreadPoolExecutor(4) as pool,
    ):
        full.key()
        go_on = threading.Event()
        body = {"id": "m", "type": "message", "content": [], "usage": {}}
        for _ in range(2):
            provider.play([WaitFor(go_on), *answer(body)])
        try:
            running = [pool.submit(ask, full) for _ in range(2)]
            provider.wait_for_request(2)
            # Two more: one waits, the other is refused, whoever comes first.
            more = [pool.submit(ask, full) for _ in range(2)]
            refused = wait_until(
                lambda: [f for f in more if f.done()], "one of the two is refused"
            )[0].result()
            assert refused.status_code == 503
            told = "AI Gateway is currently at capacity. Please try again later."
            assert refused.json()["message"] == told
            assert refused.json()["error"] == {"type": "overloaded_error", "message": told}
            # Probes never wait behind traffic.
            for path in ("/healthz", "/readyz"):
                assert requests.get(f"{full.url}{path}", timeout=10).status_code == 200
            assert len(provider.requests) == 2
        finally:
            go_on.set()
        assert [f.result().status_code for f in running] == [200, 200]
        assert sorted(f.result().status_code for f in more) == [200, 503]
        assert ask(full).status_code == 200


@WORKERS
def test_who_waits_too_long_for_a_place_is_refused(tmp_path: Path, worker_class: str) -> None:
    options = ["--ai-gateway-max-concurrency", "1", "--queue-wait", "50ms"]
    with (
        ScriptedProvider(otherwise=imitate()) as provider,
        gateway(tmp_path, provider, worker_class, *options) as full,
    ):
        go_on = threading.Event()
        start = event({"type": "message_start", "message": {"id": "m"}}, name="message_start")
        stop = event({"type": "message_stop"}, name="message_stop")
        provider.play(stream([start, WaitFor(go_on), stop]))
        with requests.post(
            f"{full.url}/anthropic/v1/messages",
            json={**ASK, "stream": True},
            headers={"X-Api-Key": full.key()},
            stream=True,
            timeout=30,
        ) as running:
            pieces = running.iter_content(None)
            next(pieces)
            # A stream holds its place until its end.
            assert ask(full).status_code == 503
            go_on.set()
            assert b"".join(pieces).endswith(b"\n\n")
        wait_until(lambda: ask(full).status_code == 200, "the place is free again")


# -- dumps


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.rglob(f"*.{suffix}.txt"))


def only(folder: Path, suffix: str) -> str:
    (file,) = wait_until(lambda: files(folder, suffix), f"a {suffix} file is there")
    text: str = file.read_bytes().decode()
    return text


@WORKERS
def test_requests_and_answers_are_dumped_without_keys(tmp_path: Path, worker_class: str) -> None:
    dumps = tmp_path / "dumps"
    with (
        ScriptedProvider(otherwise=imitate()) as provider,
        gateway(
            tmp_path / "gw", provider, worker_class, "--ai-gateway-dump-dir", str(dumps)
        ) as dumping,
    ):
        start = event({"type": "message_start", "message": {"id": "m"}}, name="message_start")
        stop = event({"type": "message_stop"}, name="message_stop")
        provider.play(stream([start, stop], headers=[("Set-Cookie", "session=abcdefghijklmnop")]))
        got = ask(dumping, stream=True, model="vendor/claude-x")
        assert got.content == start + stop
        request = only(dumps / "anthropic" / "vendor-claude-x", "req")
        assert request.startswith("POST /v1/messages HTTP/1.1\r\n")
        assert '"content": "hi"' in request
        assert "X-Api-Key: sk-u...-key\r\n" in request
        answered = only(dumps / "anthropic" / "vendor-claude-x", "resp")
        assert answered.startswith("HTTP/1.1 200 OK\r\n")
        assert "Set-Cookie: sess...mnop\r\n" in answered
        assert answered.endswith((start + stop).decode())
        (name,) = (file.name for file in files(dumps, "req"))
        assert got.headers["X-AI-Gateway-Interception-Id"] in name

        models = requests.get(
            f"{dumping.url}/openai/v1/models?api_key=query-secret-012345",
            headers={"Authorization": f"Bearer {dumping.key()}"},
            timeout=30,
        )
        assert models.status_code == 200
        folder = dumps / "openai" / "passthrough"
        assert only(folder, "req").startswith("GET /v1/models HTTP/1.1\r\n")
        assert only(folder, "resp").endswith(models.text)

        everything = "".join(file.read_text() for file in dumps.rglob("*.txt"))
        for secret in (dumping.key(), "sk-upstream-secret-key", "query-secret", "abcdefghijklmnop"):
            assert secret not in everything


@WORKERS
def test_what_broke_is_dumped_too(tmp_path: Path, worker_class: str) -> None:
    dumps = tmp_path / "dumps"
    with ScriptedProvider(otherwise=imitate()) as provider:
        upstreams = [
            Upstream("anthropic", provider.url),
            Upstream("anthropic", "http://127.0.0.1:1", "away"),
        ]
        options = ["--worker-class", worker_class, "--ai-gateway-dump-dir", str(dumps)]
        with GatewayProcess(tmp_path / "gw", upstreams, options) as dumping:
            start = event({"type": "message_start", "message": {"id": "m"}}, name="message_start")
            provider.play([*stream([start], end=False), Reset()])
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                ask(dumping, stream=True)
            assert "broke off" in only(dumps / "anthropic", "req_error")
            assert only(dumps / "anthropic", "resp").endswith(start.decode())
            for method, path in (("POST", "v1/messages"), ("GET", "v1/models")):
                requests.request(
                    method,
                    f"{dumping.url}/away/{path}",
                    json=ASK,
                    headers={"X-Api-Key": dumping.key()},
                    timeout=30,
                )
            assert "cannot connect" in only(dumps / "away" / "claude-x", "req_error")
            assert "cannot connect" in only(dumps / "away" / "passthrough", "req_error")
            assert not files(dumps / "away", "resp")


@WORKERS
def test_each_attempt_has_its_own_pair_in_the_folder_of_its_provider(
    tmp_path: Path, worker_class: str
) -> None:
    dumps = tmp_path / "dumps"
    keys = {"KEYS": "sk-one-key-0000000001,sk-two-key-0000000002", "FALLBACK": "second"}
    with (
        ScriptedProvider() as first,
        ScriptedProvider(otherwise=imitate()) as second,
        GatewayProcess(
            tmp_path / "gw",
            [
                Upstream("anthropic", first.url, "first", "", keys),
                Upstream("anthropic", second.url, "second", "sk-second-key-00000003"),
            ],
            ["--worker-class", worker_class, "--ai-gateway-dump-dir", str(dumps)],
        ) as dumping,
    ):
        first.play(error(429, retry_after="60"))
        first.play(error(429, retry_after="60"))
        got = requests.post(
            f"{dumping.url}/first/v1/messages",
            json=ASK,
            headers={"X-Api-Key": dumping.key()},
            timeout=30,
        )
        assert got.status_code == 200

        wait_until(lambda: len(list(dumps.rglob("*.txt"))) == 6, "there are six files")
        asked = [files(dumps / name / "claude-x", "req") for name in ("first", "second")]
        answered = [files(dumps / name / "claude-x", "resp") for name in ("first", "second")]
        assert [len(found) for found in (*asked, *answered)] == [2, 1, 2, 1]
        requests_sent, answers = [*asked[0], *asked[1]], [*answered[0], *answered[1]]
        assert [name.name.removesuffix(".req.txt") for name in requests_sent] == [
            name.name.removesuffix(".resp.txt") for name in answers
        ]
        said = {}
        for sent, file in zip(requests_sent, answers, strict=True):
            (key,) = (k for k in ("0001", "0002", "0003") if f"...{k}\r\n" in _raw(sent))
            said[key] = _raw(file)
        assert said["0003"].endswith(got.text)
        for key in ("0001", "0002"):
            assert said[key].startswith("HTTP/1.1 429 ")
            assert "scripted 429" in said[key]


def _raw(file: Path) -> str:
    return file.read_bytes().decode()


def test_a_dump_that_cannot_be_written_disturbs_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    options = ("--ai-gateway-dump-dir", str(tmp_path / "file"))
    with (
        ScriptedProvider(otherwise=imitate()) as provider,
        gateway(tmp_path / "gw", provider, "gevent", *options) as dumping,
    ):
        assert ask(dumping).status_code == 200
        warnings = [line for line in dumping.logs() if "cannot write the dump" in str(line)]
        assert len(warnings) == 1
