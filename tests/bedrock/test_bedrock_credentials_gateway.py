"""What AWS lets in: signatures, API keys, credentials that are renewed; and its token counts."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
import requests
from aws_imitation import aws_error, aws_gate
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ReceivedRequest, ScriptedProvider, Steps, answer

OLD, NEW = "AKIAOLDOLDOLDOLDOLD1", "AKIANEWNEWNEWNEWNEW1"
SECRETS = {OLD: "old-secret-0123456789abcdef", NEW: "new-secret-0123456789abcdef"}
TOKEN = "ABSKbedrock-api-key-0123456789"
PROFILE = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
ARN = "arn:aws:bedrock:us-west-2:123456789012:application-inference-profile/abc"
ASK: dict[str, Any] = {
    "model": "claude-x",
    "max_tokens": 4000,
    "messages": [{"role": "user", "content": "Good morning."}],
}
BODY = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [{"type": "text", "text": "Hello."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 2},
}


class Aws:
    """What the imitation of AWS takes, and what it was asked behind the gate."""

    def __init__(self) -> None:
        self.valid: dict[str, str] = {}
        self.let_in: list[ReceivedRequest] = []

    def behind(self, request: ReceivedRequest) -> Steps:
        self.let_in.append(request)
        if request.target.endswith("/count-tokens"):
            if "opus-5" in request.target:
                text = "The provided model doesn't support counting tokens."
                return aws_error(400, "ValidationException", text)
            return answer({"inputTokens": 42})
        return answer(BODY)


@pytest.fixture(scope="module")
def aws() -> Aws:
    return Aws()


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("aws") / "credentials"


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, aws: Aws, credentials: Path
) -> Iterator[GatewayProcess]:
    with ScriptedProvider() as provider:
        provider.otherwise = aws_gate(aws.behind, secrets=aws.valid, tokens={TOKEN})
        common = {"BEDROCK_BASE_URL": provider.url, "BEDROCK_REGION": "us-west-2"}
        pair = {"BEDROCK_ACCESS_KEY": NEW, "BEDROCK_ACCESS_KEY_SECRET": "wrong-secret"}
        lists = {"MODELS": f"claude-x = {PROFILE}, claude-opus-5 = us.anthropic.claude-opus-5, "
                 f"hidden = {ARN}, claude-sonnet-4-5 = {ARN}"}  # fmt: skip
        resolved = {"BEDROCK_MODEL": ARN, "BEDROCK_RESOLVED_MODELS": f"{ARN} = {PROFILE}"}
        upstreams = [
            Upstream("bedrock", "", "chain", key="", extra=common),
            Upstream("bedrock", "", "bad-pair", key="", extra={**common, **pair}),
            Upstream(
                "bedrock", "", "token", key="", extra={**common, "BEDROCK_BEARER_TOKEN": TOKEN}
            ),
            Upstream(
                "bedrock", "", "bad-token", key="", extra={**common, "BEDROCK_BEARER_TOKEN": "ABSK"}
            ),
            Upstream("bedrock", "", "listed", key="", extra={**common, **lists}),
            Upstream("bedrock", "", "resolved", key="", extra={**common, **resolved}),
        ]
        environ = {name: "" for name in os.environ if name.startswith("AWS_")}
        environ |= {
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
            "HOME": "/nonexistent",
        }
        folder = tmp_path_factory.mktemp("gw")
        with GatewayProcess(folder, upstreams, environ=environ) as gateway:
            gateway.allowed_errors.append("credentials refused")
            yield gateway
            text = gateway.log_file.read_text() + gateway.stderr()
            assert TOKEN not in text
            assert not any(secret in text for secret in SECRETS.values())


def use(aws: Aws, credentials: Path, configured: str, valid: str) -> None:
    """Have the gateway find one key in AWS's own file while AWS takes another."""
    credentials.write_text(
        f"[default]\naws_access_key_id={configured}\naws_secret_access_key={SECRETS[configured]}\n"
    )
    aws.valid.clear()
    aws.valid[valid] = SECRETS[valid]


def ask(gateway: GatewayProcess, provider: str, **changes: Any) -> requests.Response:
    return requests.post(
        f"{gateway.url}/{provider}/v1/messages",
        json={**ASK, **changes},
        headers={"X-Api-Key": gateway.key()},
        timeout=60,
    )


def test_credentials_that_aws_refuses_are_renewed_once_and_the_request_goes_on(
    gateway: GatewayProcess, aws: Aws, credentials: Path
) -> None:
    use(aws, credentials, OLD, OLD)
    assert ask(gateway, "chain").status_code == 200
    # They were replaced, and the gateway does not know it yet.
    use(aws, credentials, NEW, NEW)
    assert ask(gateway, "chain").status_code == 200
    assert f"Credential={NEW}/" in (aws.let_in[-1].header("Authorization") or "")
    # And when there are no better ones the answer does not speak of the client's key.
    use(aws, credentials, NEW, OLD)
    got = ask(gateway, "chain")
    assert got.status_code == 502
    assert "UnrecognizedClientException" in got.json()["error"]["message"]
    found = gateway.records(got.headers["X-AI-Gateway-Interception-Id"])
    assert found["error_type"] == "unauthorized"
    # Nobody is locked out by that.
    use(aws, credentials, OLD, OLD)
    assert ask(gateway, "chain").status_code == 200


def test_a_wrong_pair_in_the_settings_has_nothing_to_be_renewed_with(
    gateway: GatewayProcess, aws: Aws
) -> None:
    aws.valid[NEW] = SECRETS[NEW]
    before = len(aws.let_in)
    assert ask(gateway, "bad-pair").status_code == 502
    assert len(aws.let_in) == before


def test_an_api_key_is_sent_instead_of_a_signature(gateway: GatewayProcess, aws: Aws) -> None:
    got = ask(gateway, "token")
    assert got.status_code == 200
    request = aws.let_in[-1]
    assert request.header("Authorization") == f"Bearer {TOKEN}"
    assert request.header("X-Amz-Date") is None
    found = gateway.records(got.headers["X-AI-Gateway-Interception-Id"])
    assert found["credential_hint"] == "ABSK...6789"
    assert ask(gateway, "bad-token").status_code == 502


def test_awss_own_variable_with_an_api_key_counts(tmp_path: Path) -> None:
    aws = Aws()
    with ScriptedProvider(otherwise=aws_gate(aws.behind, tokens={TOKEN})) as provider:
        extra = {"BEDROCK_BASE_URL": provider.url, "BEDROCK_REGION": "us-west-2"}
        upstreams = [Upstream("bedrock", "", "aws", key="", extra=extra)]
        environ = {"AWS_BEARER_TOKEN_BEDROCK": TOKEN}
        with GatewayProcess(tmp_path, upstreams, environ=environ) as gateway:
            assert ask(gateway, "aws").status_code == 200


def test_a_profile_is_asked_for_and_what_is_behind_it_is_recorded(
    gateway: GatewayProcess, aws: Aws, credentials: Path
) -> None:
    use(aws, credentials, OLD, OLD)
    got = ask(gateway, "resolved", thinking={"type": "adaptive"})
    assert got.status_code == 200
    request = aws.let_in[-1]
    assert request.target.startswith("/model/arn%3Aaws%3Abedrock")
    # Behind it is a model that wants a budget.
    assert request.json()["thinking"] == {"type": "enabled", "budget_tokens": 3200}
    found = gateway.records(got.headers["X-AI-Gateway-Interception-Id"])
    assert found["model"] == PROFILE
    ask(gateway, "listed", model="hidden", thinking={"type": "adaptive"})
    assert aws.let_in[-1].json()["thinking"] == {"type": "adaptive"}
    ask(gateway, "listed", model="claude-sonnet-4-5", thinking={"type": "adaptive"})
    assert aws.let_in[-1].json()["thinking"]["type"] == "enabled"


# -- counting tokens


def count(gateway: GatewayProcess, provider: str, model: str, **more: Any) -> int:
    with anthropic.Anthropic(
        base_url=f"{gateway.url}/{provider}", api_key=gateway.key(), max_retries=0
    ) as client:
        found: int = client.messages.count_tokens(
            model=model,
            messages=ASK["messages"],
            extra_headers={"anthropic-beta": "unknown"},
            **more,
        ).input_tokens
    return found


def counted(aws: Aws) -> dict[str, Any]:
    """The body that AWS was asked to count last."""
    encoded = aws.let_in[-1].json()["input"]["invokeModel"]["body"]
    body: dict[str, Any] = json.loads(base64.b64decode(encoded))
    return body


def test_tokens_are_counted_by_aws_for_the_foundation_model(
    gateway: GatewayProcess, aws: Aws, credentials: Path
) -> None:
    use(aws, credentials, OLD, OLD)
    assert count(gateway, "listed", "claude-x") == 42
    target = aws.let_in[-1].target
    assert target == "/model/anthropic.claude-sonnet-4-5-20250929-v1%3A0/count-tokens"
    assert counted(aws) == {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 1,
        "messages": ASK["messages"],
    }
    assert count(gateway, "chain", "claude-x") == 42
    assert count(gateway, "resolved", "claude-x") == 42


@pytest.mark.parametrize(
    ("thinking", "sent", "max_tokens"),
    [
        ({"type": "adaptive"}, {"type": "disabled"}, 1),
        ({"type": "enabled", "budget_tokens": 2048}, None, 2049),
    ],
)
def test_what_aws_counts_is_a_request_that_it_would_answer(
    gateway: GatewayProcess,
    aws: Aws,
    credentials: Path,
    thinking: dict[str, Any],
    sent: dict[str, Any] | None,
    max_tokens: int,
) -> None:
    use(aws, credentials, OLD, OLD)
    assert count(gateway, "listed", "claude-x", thinking=thinking) == 42
    found = counted(aws)
    assert found["thinking"] == (sent or thinking)
    assert found["max_tokens"] == max_tokens


@pytest.mark.parametrize("model", ["hidden", "claude-opus-5"])
def test_where_aws_cannot_count_the_answer_is_501(
    gateway: GatewayProcess, aws: Aws, credentials: Path, model: str
) -> None:
    use(aws, credentials, OLD, OLD)
    with pytest.raises(anthropic.APIStatusError) as caught:
        count(gateway, "listed", model)
    assert caught.value.status_code == 501
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["type"] == "error"
    assert "123456789012" not in caught.value.response.text


def test_a_model_that_is_not_served_is_not_counted(gateway: GatewayProcess) -> None:
    with pytest.raises(anthropic.NotFoundError):
        count(gateway, "listed", "claude-opus-9")
