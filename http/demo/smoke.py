"""The smoke test: one request of each kind, and whether all of it is right.

Each request goes through the gateway and, with a key of its own, directly to the imitation:
both answers must be the same to the byte.  What the gateway recorded must be what the
imitation's answer says, and the imitation must have seen the provider's key only.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeAlias

import requests
from attrs import field, frozen

from aigateway.actors.upstream.adapter import PlainSession
from aigateway.http.demo._cases import CASES, OPENING, Case
from aigateway.http.demo._expectations import differences, expect
from aigateway.http.demo.imitation import HeardRequest
from aigateway.http.demo.records import Recorded
from aigateway.http.demo.stage import USERNAME, Stage

__all__ = ["Result", "open_with", "run_cases"]

REQUEST_LIMIT = 10.0
RECORD_LIMIT = 5.0
"""Seconds until an answer has begun or gone on, and until its records are there."""

_INTERCEPTION = "X-AI-Gateway-Interception-Id"


@frozen
class Result:
    """How one case went; without problems it went well."""

    title: str
    status: int
    problems: tuple[str, ...]
    recorded: Recorded | None = None


_Outcome: TypeAlias = tuple[int, list[str], Recorded | None]
"""Status of the answer, what is wrong, what was recorded."""
_Run: TypeAlias = Callable[[Stage, requests.Session], _Outcome]


@frozen
class _Reply:
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    broken: str = ""

    @property
    def content_type(self) -> str:
        return self.headers.get("Content-Type", "")


def run_cases(stage: Stage, given_up: Callable[[], bool]) -> Iterator[Result]:
    """Run all cases one after the other, until ``given_up`` says so.

    Raises DemoFailed when the gateway has ended.
    """
    with PlainSession() as session:
        runs: list[tuple[str, _Run]] = [
            *((case.title, partial(_run_case, case=case)) for case in CASES),
            ("unknown key", _run_unknown_key),
            ("model list", _run_model_list),
        ]
        for title, run in runs:
            if given_up():
                return
            stage.gateway.check()
            try:
                status, problems, recorded = run(stage, session)
            except requests.RequestException as ex:
                status, problems, recorded = 0, [f"the request failed: {ex}"], None
            yield Result(title, status, tuple(problems), recorded)


def _send(
    session: requests.Session,
    url: str,
    key: str,
    body: bytes | None,
    headers: Mapping[str, str],
) -> _Reply:
    anthropic = "anthropic-version" in headers
    credential = {"X-Api-Key": key} if anthropic else {"Authorization": f"Bearer {key}"}
    reply = session.request(
        "GET" if body is None else "POST",
        url,
        data=body,
        headers={**headers, **credential, "Content-Type": "application/json"},
        timeout=REQUEST_LIMIT,
        stream=True,
    )
    data, broken = b"", ""
    with reply:
        try:
            for part in reply.iter_content(None):
                data += part
        except requests.RequestException as ex:
            broken = f"the answer broke off: {ex}"
    return _Reply(reply.status_code, reply.headers, data, broken)


def _run_case(stage: Stage, session: requests.Session, *, case: Case) -> _Outcome:
    body = _json(case.body)
    direct_url = stage.imitation.url + case.upstream_path + case.query
    direct = _send(session, direct_url, stage.own_key, _json(case.direct_body), case.headers)
    url = stage.gateway.url + case.path + case.query
    relayed = _send(session, url, stage.user_key, body, case.headers)
    recorded = _await_record(stage, relayed.headers.get(_INTERCEPTION, ""))
    problems = [
        *_answer_problems(case, direct, relayed),
        *_upstream_problems(stage, case, body),
        *_record_problems(case, body, recorded),
    ]
    return relayed.status, problems, recorded


def open_with(stage: Stage, given_up: Callable[[], bool]) -> None:
    """Send a few requests, one after the other, until ``given_up`` says so; look at nothing."""
    with PlainSession() as session:
        for case in OPENING:
            if given_up():
                return
            url = stage.gateway.url + case.path + case.query
            with contextlib.suppress(requests.RequestException):
                _send(session, url, stage.user_key, _json(case.body), case.headers)


def _json(value: object) -> bytes:
    # With spaces, as clients write it: what the gateway encodes again would be seen.
    return json.dumps(value).encode()


def _answer_problems(case: Case, direct: _Reply, relayed: _Reply) -> Iterator[str]:
    if direct.status != case.status:
        yield f"the imitation answered {direct.status}, should be {case.status}"
    if relayed.status != direct.status:
        yield f"the gateway answered {relayed.status}: {relayed.body[:200]!r}"
    elif relayed.body != case.expected_bytes(direct.body):
        yield "the answer's bytes are not those of the imitation"
    if relayed.content_type != direct.content_type:
        yield f"the answer has the content type {relayed.content_type!r}"
    if relayed.broken:
        yield relayed.broken


def _upstream_problems(stage: Stage, case: Case, body: bytes) -> Iterator[str]:
    heard: HeardRequest = stage.heard[-1]
    if heard.key != stage.provider_key or heard.path != case.upstream_path:
        yield "the imitation did not get the request with the provider's key"
    if any(stage.user_key in value for value in heard.headers.values()):
        yield "the imitation got the user's key"
    if not case.usage_is_forced and heard.body != body:
        yield "the imitation did not get the bytes that the client sent"


def _await_record(stage: Stage, interception_id: str) -> Recorded | None:
    """The interception with all its records: its end is stored last."""
    deadline = time.monotonic() + RECORD_LIMIT
    while True:
        recorded = stage.records.get(interception_id)
        if recorded is not None and recorded.ended_at is not None:
            return recorded
        if not interception_id or time.monotonic() > deadline:
            return recorded
        time.sleep(0.01)


def _record_problems(case: Case, body: bytes, recorded: Recorded | None) -> Iterator[str]:
    if recorded is None:
        yield "nothing was recorded"
        return
    if recorded.ended_at is None:
        yield "the end was not recorded"
    found = (recorded.username, recorded.client, recorded.session_id, recorded.provider)
    should = (USERNAME, case.client, case.session_id, case.provider)
    if found != should:
        yield f"recorded user, client, session and provider {found}, should be {should}"
    if recorded.answers != case.answers:
        yield f"recorded that it answers the call {recorded.answers}, should be {case.answers}"
    if case.status == 200:
        yield from differences(expect(case.upstream_path, body), recorded)
    elif not (recorded.error or "").startswith(case.error_type):
        yield f"recorded the error {recorded.error!r}, should be {case.error_type}"


def _run_unknown_key(stage: Stage, session: requests.Session) -> _Outcome:
    """A key that nobody made lets nobody in, and leaves no trace upstream."""
    case, before, heard = CASES[0], stage.records.count(), len(stage.heard)
    key = stage.user_key[::-1]
    reply = _send(session, stage.gateway.url + case.path, key, _json(case.body), case.headers)
    problems = []
    if reply.status != 403:
        problems.append(f"an unknown key was answered {reply.status}, should be 403")
    if stage.records.count() != before or len(stage.heard) != heard:
        problems.append("a request with an unknown key was recorded or sent on")
    return reply.status, problems, None


def _run_model_list(stage: Stage, session: requests.Session) -> _Outcome:
    """What is passed through comes back as it is."""
    before = stage.records.count()
    direct = _send(session, stage.imitation.url + "/v1/models", stage.own_key, None, {})
    relayed = _send(session, stage.gateway.url + "/openai/v1/models", stage.user_key, None, {})
    problems = []
    if (relayed.status, relayed.body) != (200, direct.body):
        problems.append(f"the gateway answered {relayed.status}: {relayed.body[:200]!r}")
    if stage.records.count() != before:
        problems.append("a request that is passed through was recorded")
    return relayed.status, problems, None
