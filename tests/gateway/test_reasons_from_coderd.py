"""What the log and the client learn of coderd's noes and of its own troubles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from any_coderd import ask
from fake_coderd import CallError, FakeCoderd
from gateway_process import GatewayProcess, Upstream, message_of

KEY = "k1234abcde-0123456789abcdefghij01"


@pytest.fixture(scope="module")
def coderd() -> Iterator[FakeCoderd]:
    with FakeCoderd() as coderd:
        yield coderd


@pytest.fixture(scope="module")
def gateway(coderd: FakeCoderd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("reasons")
    with GatewayProcess(
        folder,
        [Upstream("anthropic", "http://127.0.0.1:9")],
        ["--url", coderd.url],
        local=False,
        environ={"CODER_AI_GATEWAY_KEY": "gateway-key"},
    ) as gateway:
        yield gateway


@pytest.fixture
def alice(coderd: FakeCoderd) -> Iterator[Any]:
    user = coderd.deployment.add_user("alice", KEY)
    yield user
    coderd.faults.clear()
    coderd.deployment.refusals.clear()
    coderd.deployment.budgets.clear()


def refused(gateway: GatewayProcess, key: str) -> tuple[int, str, str, dict[str, Any]]:
    """Status and text of the answer, message and fields of the warning about it."""
    answer = ask(gateway, key)
    line = [line for line in gateway.logs() if str(line["level"]).lower().startswith("warn")][-1]
    said = answer.json()["error"]["message"]
    return answer.status_code, said, message_of(line), line["fields"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("unknown key", 0),
        ("expired", 0),
        ("inactive user", 1001),
        ("some words of a newer coderd", 1001),
        ("model not allowed", 1002),
    ],
)
def test_the_log_has_coderds_reason_and_the_keys_id(
    gateway: GatewayProcess, coderd: FakeCoderd, alice: Any, text: str, code: int
) -> None:
    coderd.deployment.refusals[KEY] = CallError(text, code)
    status, said, message, fields = refused(gateway, KEY)
    assert (status, said, message) == (403, "unauthorized", "key authorization check failed")
    assert (fields["reason"], fields["key_id"]) == (text, "k1234abcde")
    assert KEY not in gateway.log_file.read_text()


def test_over_budget_is_a_line_of_its_own_and_names_the_user(
    gateway: GatewayProcess, coderd: FakeCoderd, alice: Any
) -> None:
    coderd.deployment.set_budget(alice, exceeded=True, limit_micros=1_500_000)
    status, said, message, fields = refused(gateway, KEY)
    assert (status, message) == (403, "user AI budget exceeded")
    assert said.startswith("AI budget of US$1.50 exceeded.")
    assert (fields["user_id"], fields["username"]) == (alice.id, "alice")
    assert fields["key_id"] == "k1234abcde"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (1003, "internal server error checking user AI budget"),
        (1004, "internal server error checking user AI budget"),
        (4711, "coderd could not check whether this request is allowed"),
        (0, "coderd could not check whether this request is allowed"),
    ],
)
def test_an_error_of_coderds_own_is_not_told_as_a_lost_connection(
    gateway: GatewayProcess, coderd: FakeCoderd, alice: Any, code: int, said: str
) -> None:
    coderd.deployment.refusals[KEY] = CallError("evaluation failed", code)
    status, text, message, fields = refused(gateway, KEY)
    assert (status, text) == (503, said)
    assert "connect" not in message
    assert (fields["error"], fields["code"]) == ("evaluation failed", code)


def test_a_budget_that_cannot_be_asked_for_is_not_told_as_a_lost_connection(
    gateway: GatewayProcess, coderd: FakeCoderd, alice: Any
) -> None:
    coderd.faults.fail("IsBudgetExceeded", "no database", code=1003)
    status, text, message, fields = refused(gateway, KEY)
    assert (status, text) == (503, "internal server error checking user AI budget")
    assert "connect" not in message
    assert "no database" in fields["error"]
