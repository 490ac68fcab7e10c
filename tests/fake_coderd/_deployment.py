"""What a coderd knows, and how it answers each call."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable

from attrs import define, field, frozen
from google.protobuf.message import DecodeError, Message

from aigateway.actors.control.coderd.wire import coderd_pb2 as pb

__all__ = ["CallError", "Deployment", "StoredRecord", "User"]


class CallError(Exception):
    """Answer the call with this error."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.text = text
        self.code = code


@frozen(kw_only=True)
class User:
    """A user with one API key."""

    username: str
    token: str
    id: str
    api_key_id: str
    workspace_id: str = ""
    email: str = ""


@frozen
class StoredRecord:
    """A record as coderd got it."""

    rpc: str
    """Without the service: ``RecordTokenUsage``."""
    message: Message
    gateway: int
    """Number of the connection it came over."""

    @property
    def interception_id(self) -> str:
        return str(getattr(self.message, "interception_id", "") or getattr(self.message, "id", ""))


@define
class _Budget:
    exceeded: bool
    spend_limit_micros: int | None


Handler = Callable[[bytes, int], Message]


@define(eq=False)
class Deployment:
    """The state of a coderd.  Safe to use from several threads."""

    users: dict[str, User] = field(factory=dict)
    """By token."""
    refusals: dict[str, CallError] = field(factory=dict)
    """By token: how IsAuthorized refuses it."""
    models_denied: set[str] = field(factory=set)
    websockets_allowed: bool = False
    budgets: dict[str, _Budget] = field(factory=dict)
    providers: tuple[pb.AIProvider, ...] = ()
    coder_mcp: pb.MCPServerConfig | None = None
    mcp_servers: tuple[pb.MCPServerConfig, ...] = ()
    mcp_tokens: dict[str, str] = field(factory=dict)
    mcp_errors: dict[str, str] = field(factory=dict)
    records: list[StoredRecord] = field(factory=list)
    calls: list[tuple[str, Message]] = field(factory=list)
    """Every call with its request, answered or not."""
    changed: threading.Condition = field(factory=threading.Condition)

    def add_user(self, username: str, token: str, **fields: str) -> User:
        user = User(
            username=username,
            token=token,
            id=fields.pop("id", str(uuid.uuid5(uuid.NAMESPACE_DNS, username))),
            api_key_id=fields.pop("api_key_id", token.partition("-")[0]),
            **fields,
        )
        self.users[token] = user
        return user

    def set_budget(self, user: User, *, exceeded: bool, limit_micros: int | None) -> None:
        self.budgets[user.id] = _Budget(exceeded, limit_micros)

    def stored(self, rpc: str | None = None) -> list[StoredRecord]:
        with self.changed:
            return [record for record in self.records if rpc in (None, record.rpc)]

    def count_calls(self, rpc: str) -> int:
        with self.changed:
            return sum(1 for name, _ in self.calls if name == rpc)

    def wait_for(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait until something that a call has changed makes ``condition`` true."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while not condition():
                left = deadline - time.monotonic()
                if left <= 0 or not self.changed.wait(left):
                    assert condition(), "what the test waits for did not happen"
                    return

    # -- answering

    def handle(self, rpc: str, data: bytes, gateway: int) -> Message:
        """Answer a unary call.  Raises CallError."""
        name = rpc.rpartition("/")[2]
        handler = _HANDLERS.get(rpc)
        if handler is None:
            raise CallError(f'protocol error: unknown rpc: "{rpc}"')
        kind, method = handler
        request = kind()
        try:
            request.ParseFromString(data)
        except DecodeError as ex:
            raise CallError("proto: cannot parse invalid wire-format data") from ex
        with self.changed:
            self.calls.append((name, request))
            self.changed.notify_all()
            return method(self, name, request, gateway)

    def _is_authorized(self, _name: str, request: pb.IsAuthorizedRequest, _: int) -> Message:
        refusal = self.refusals.get(request.key)
        if refusal is not None:
            raise refusal
        user = self.users.get(request.key)
        if user is None:
            raise CallError("unknown key")
        if request.model in self.models_denied:
            raise CallError("model not allowed", 1002)
        return pb.IsAuthorizedResponse(
            owner_id=user.id,
            api_key_id=user.api_key_id,
            username=user.username,
            workspace_id=user.workspace_id,
            email=user.email,
            responses_websocket_enabled=self.websockets_allowed,
        )

    def _is_budget_exceeded(
        self, _name: str, request: pb.IsBudgetExceededRequest, _: int
    ) -> Message:
        budget = self.budgets.get(request.user_id, _Budget(False, None))
        return pb.IsBudgetExceededResponse(
            exceeded=budget.exceeded, spend_limit_micros=budget.spend_limit_micros
        )

    def _get_providers(self, _name: str, _request: Message, _: int) -> Message:
        return pb.GetAIProvidersResponse(providers=self.providers)

    def _get_mcp(self, _name: str, _request: Message, _: int) -> Message:
        return pb.GetMCPServerConfigsResponse(
            coder_mcp_config=self.coder_mcp, external_auth_mcp_configs=self.mcp_servers
        )

    def _get_tokens(
        self, _name: str, request: pb.GetMCPServerAccessTokensBatchRequest, _: int
    ) -> Message:
        asked = request.mcp_server_config_ids
        return pb.GetMCPServerAccessTokensBatchResponse(
            access_tokens=_only(self.mcp_tokens, asked), errors=_only(self.mcp_errors, asked)
        )

    def _begin(self, name: str, request: pb.RecordInterceptionRequest, gateway: int) -> Message:
        _uuid(request.id, "invalid interception ID")
        _uuid(request.initiator_id, "invalid initiator ID")
        if not request.api_key_id:
            raise CallError("empty API key ID")
        if any(record.interception_id == request.id for record in self.records):
            raise CallError(
                "start interception: pq: duplicate key value violates unique constraint "
                '"aibridge_interceptions_pkey"'
            )
        return self._store(name, request, gateway)

    def _end(self, name: str, request: pb.RecordInterceptionEndedRequest, gateway: int) -> Message:
        _uuid(request.id, "invalid interception ID")
        kinds = {record.rpc for record in self.records if record.interception_id == request.id}
        if not kinds or name in kinds:
            # It looks for one without an end.
            raise CallError("end interception: sql: no rows in result set")
        return self._store(name, request, gateway)

    def _use(self, name: str, request: pb.RecordTokenUsageRequest, gateway: int) -> Message:
        _uuid(request.interception_id, "failed to parse interception_id")
        return self._store(name, request, gateway)

    def _store(self, name: str, request: Message, gateway: int) -> Message:
        self.records.append(StoredRecord(name, request, gateway))
        answers: dict[str, Message] = {
            "RecordInterception": pb.RecordInterceptionResponse(),
            "RecordInterceptionEnded": pb.RecordInterceptionEndedResponse(),
            "RecordTokenUsage": pb.RecordTokenUsageResponse(),
            "RecordPromptUsage": pb.RecordPromptUsageResponse(),
            "RecordToolUsage": pb.RecordToolUsageResponse(),
            "RecordModelThought": pb.RecordModelThoughtResponse(),
        }
        return answers[name]


def _only(values: dict[str, str], wanted: Iterable[str]) -> dict[str, str]:
    return {key: values[key] for key in wanted if key in values}


def _uuid(value: str, what: str) -> None:
    try:
        uuid.UUID(value)
    except ValueError as ex:
        raise CallError(f'{what} "{value}": invalid UUID length: {len(value)}') from ex


_D = Deployment
_HANDLERS: dict[str, tuple[type[Message], Callable[..., Message]]] = {
    "/proto.Authorizer/IsAuthorized": (pb.IsAuthorizedRequest, _D._is_authorized),
    "/proto.Authorizer/IsBudgetExceeded": (pb.IsBudgetExceededRequest, _D._is_budget_exceeded),
    "/proto.ProviderConfigurator/GetAIProviders": (pb.GetAIProvidersRequest, _D._get_providers),
    "/proto.MCPConfigurator/GetMCPServerConfigs": (pb.GetMCPServerConfigsRequest, _D._get_mcp),
    "/proto.MCPConfigurator/GetMCPServerAccessTokensBatch": (
        pb.GetMCPServerAccessTokensBatchRequest,
        _D._get_tokens,
    ),
    "/proto.Recorder/RecordInterception": (pb.RecordInterceptionRequest, _D._begin),
    "/proto.Recorder/RecordInterceptionEnded": (pb.RecordInterceptionEndedRequest, _D._end),
    "/proto.Recorder/RecordTokenUsage": (pb.RecordTokenUsageRequest, _D._use),
    "/proto.Recorder/RecordPromptUsage": (pb.RecordPromptUsageRequest, _D._use),
    "/proto.Recorder/RecordToolUsage": (pb.RecordToolUsageRequest, _D._use),
    "/proto.Recorder/RecordModelThought": (pb.RecordModelThoughtRequest, _D._use),
}
