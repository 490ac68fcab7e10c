"""Who may call: coderd's yes, its no, and not knowing."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator

import pytest
from coderd_talk import Talk, eventually
from fake_coderd import CallError, FakeCoderd, User

from aigateway.actors.actor.base import Probe
from aigateway.actors.control.coderd._authorizing import is_no
from aigateway.actors.control.coderd.connection import _Run
from aigateway.actors.control.coderd.wire import coderd_pb2 as pb
from aigateway.actors.control.messages import Caller, Denied, Unavailable
from aigateway.actors.control.rpc_results import Refusal

TOKEN = "tok-alice-secret"
WORKSPACE = "0aa00bb0-1111-4222-8333-444455556666"


@pytest.fixture(scope="module")
def server() -> Iterator[FakeCoderd]:
    with FakeCoderd() as coderd:
        yield coderd


@pytest.fixture(scope="module")
def shared(server: FakeCoderd) -> Iterator[Talk]:
    with Talk(server, call_timeout=5.0) as talk:
        yield talk


@pytest.fixture
def coderd(server: FakeCoderd) -> FakeCoderd:
    """One coderd and one connection for all tests here; each begins with a clean slate."""
    server.faults.clear()
    deployment = server.deployment
    for state in (
        deployment.users,
        deployment.refusals,
        deployment.budgets,
        deployment.calls,
        deployment.models_denied,
    ):
        state.clear()
    return server


@pytest.fixture
def alice(coderd: FakeCoderd) -> User:
    return coderd.deployment.add_user(
        "alice", TOKEN, email="alice@example.com", workspace_id=WORKSPACE
    )


@pytest.fixture
def talk(shared: Talk) -> Talk:
    return shared


def test_a_known_key_is_its_user(talk: Talk, alice: User) -> None:
    assert talk.authorize(TOKEN) == Caller(
        user_id=alice.id,
        username="alice",
        api_key_id="tok",
        email="alice@example.com",
        workspace_id=WORKSPACE,
        websocket=False,
    )
    (request,) = talk.coderd.calls("IsAuthorized")
    assert request == pb.IsAuthorizedRequest(key=TOKEN)


@pytest.mark.parametrize(
    "text",
    [
        "both key and key_id set; exactly one required",
        "invalid key",
        "unknown key",
        "expired",
        "unknown user",
        "deleted user",
        "inactive user",
        "system user",
        "validate key: expired",
    ],
)
def test_a_refused_key_is_denied(talk: Talk, alice: User, text: str) -> None:
    talk.coderd.deployment.refusals[TOKEN] = CallError(text)
    assert talk.authorize(TOKEN) == Denied("unauthorized", 403)


@pytest.mark.parametrize(("code", "denied"), [(1001, True), (1002, True)])
def test_a_refusal_by_code_is_denied(talk: Talk, alice: User, code: int, denied: bool) -> None:
    talk.coderd.deployment.refusals[TOKEN] = CallError("whatever it says", code)
    assert talk.authorize(TOKEN) == Denied("unauthorized", 403)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "pq: the database system is starting up"),
        (0, "context canceled"),
        (0, ""),
        (0, "the key expired-soon index is corrupt"),
        (12, "Unimplemented"),
        (1003, "evaluation failed"),
        (1004, "malformed"),
    ],
)
def test_any_other_error_means_ask_later(talk: Talk, alice: User, code: int, text: str) -> None:
    talk.coderd.deployment.refusals[TOKEN] = CallError(text, code)
    assert talk.authorize(TOKEN) == Unavailable(text)


def test_no_texts_and_codes_are_told_apart() -> None:
    assert is_no(Refusal("expired"))
    assert is_no(Refusal("x", 1001))
    assert not is_no(Refusal("x", 1003))
    assert not is_no(Refusal("unexpired"))


@pytest.mark.parametrize("owner", ["", "alice", "12345"])
def test_a_user_without_a_uuid_is_denied(talk: Talk, coderd: FakeCoderd, owner: str) -> None:
    coderd.deployment.add_user("alice", TOKEN, id=owner)
    assert talk.authorize(TOKEN) == Denied("unauthorized")


def test_a_workspace_without_a_uuid_is_denied(talk: Talk, coderd: FakeCoderd) -> None:
    coderd.deployment.add_user("alice", TOKEN, workspace_id="my-workspace")
    assert talk.authorize(TOKEN) == Denied("unauthorized")


def test_a_token_that_no_text_can_hold_is_denied_here(talk: Talk, coderd: FakeCoderd) -> None:
    assert talk.authorize("tok-\udc80") == Denied("unauthorized")
    assert coderd.deployment.calls == []


def test_callers_with_the_same_token_share_one_call(talk: Talk, alice: User) -> None:
    gate = threading.Event()
    talk.coderd.faults.delay("IsAuthorized", gate, times=1)
    replies = [talk.begin_authorize(TOKEN) for _ in range(20)]
    talk.coderd.wait_for_call("IsAuthorized")
    other = talk.authorize("tok-unknown-secret")
    assert other == Denied("unauthorized")
    gate.set()
    callers = {reply.get(timeout=10).user_id for reply in replies}
    assert callers == {alice.id}
    assert talk.coderd.deployment.count_calls("IsAuthorized") == 2
    assert talk.coderd.deployment.count_calls("IsBudgetExceeded") == 1
    talk.authorize(TOKEN)
    assert talk.coderd.deployment.count_calls("IsAuthorized") == 3


def test_calls_do_not_wait_for_the_inbox_to_be_empty(talk: Talk, coderd: FakeCoderd) -> None:
    begin, end = threading.Event(), threading.Event()
    talk.ref.tell(_Run(lambda: assert_set(begin)))
    replies = [talk.begin_authorize(f"tok-{number}-secret") for number in range(40)]
    talk.ref.tell(_Run(lambda: assert_set(end)))
    begin.set()
    # The actor is still in the last of these messages.
    coderd.wait_for_call("IsAuthorized", 30)
    end.set()
    assert all(reply.get(timeout=10) == Denied("unauthorized") for reply in replies)


def test_a_call_does_not_stay_behind_because_a_probe_came_after_it(
    talk: Talk, coderd: FakeCoderd
) -> None:
    begin = threading.Event()
    talk.ref.tell(_Run(lambda: assert_set(begin)))
    reply = talk.begin_authorize("tok-unknown-secret")
    talk.ref.tell(Probe())
    begin.set()
    # Nothing else comes to the actor that would take the call along.
    assert reply.get(timeout=4) == Denied("unauthorized")


def assert_set(event: threading.Event) -> None:
    assert event.wait(10)


def test_an_answer_that_is_no_message_means_ask_later(talk: Talk, alice: User) -> None:
    talk.coderd.faults.garble("IsAuthorized", b"\xff\xff\xff", times=1)
    answer = talk.authorize(TOKEN)
    assert isinstance(answer, Unavailable)
    assert answer.message.startswith("IsAuthorized: ")


def test_a_stream_closed_without_an_answer_means_ask_again(talk: Talk, alice: User) -> None:
    talk.coderd.faults.hang_up("IsAuthorized", times=2)
    assert isinstance(talk.authorize(TOKEN), Caller)


def test_streams_closed_without_an_answer_mean_ask_later(talk: Talk, alice: User) -> None:
    talk.coderd.faults.hang_up("IsAuthorized")
    answer = talk.authorize(TOKEN)
    assert answer == Unavailable("the server closed the stream before it answered")


# -- models


def test_the_model_is_authorised_where_coderd_can(talk: Talk, alice: User) -> None:
    assert isinstance(talk.authorize(TOKEN, "anthropic-eu", "claude"), Caller)
    (request,) = talk.coderd.calls("IsAuthorized")
    assert request == pb.IsAuthorizedRequest(
        key=TOKEN, provider_name="anthropic-eu", model="claude"
    )
    talk.coderd.deployment.models_denied.add("claude")
    assert talk.authorize(TOKEN, "anthropic-eu", "claude") == Denied("unauthorized")


def test_the_model_is_not_sent_to_an_older_coderd() -> None:
    with FakeCoderd(version="1.3") as coderd, Talk(coderd) as talk:
        coderd.deployment.add_user("alice", TOKEN)
        assert isinstance(talk.authorize(TOKEN, "anthropic-eu", "claude"), Caller)
        assert coderd.calls("IsAuthorized") == [pb.IsAuthorizedRequest(key=TOKEN)]


# -- budgets


def test_an_exceeded_budget_is_denied_with_its_amount(talk: Talk, alice: User) -> None:
    talk.coderd.deployment.set_budget(alice, exceeded=True, limit_micros=12_345_678)
    assert talk.authorize(TOKEN) == Denied(
        "AI budget of US$12.35 exceeded. Please contact an administrator for more details.", 403
    )
    (request,) = talk.coderd.calls("IsBudgetExceeded")
    assert isinstance(request, pb.IsBudgetExceededRequest)
    assert request.user_id == alice.id
    start = request.period_start.ToDatetime(datetime.UTC)
    assert (start.day, start.hour, start.minute, start.second) == (1, 0, 0, 0)


def test_a_budget_that_is_kept_lets_in(talk: Talk, alice: User) -> None:
    talk.coderd.deployment.set_budget(alice, exceeded=False, limit_micros=5)
    assert isinstance(talk.authorize(TOKEN), Caller)


def test_a_budget_that_is_not_known_lets_nobody_in(talk: Talk, alice: User) -> None:
    talk.coderd.faults.fail("IsBudgetExceeded", "no database", times=1)
    assert talk.authorize(TOKEN) == Unavailable("the user's AI budget is not known: no database")
    talk.coderd.faults.garble("IsBudgetExceeded", b"\xff\xff\xff", times=1)
    answer = talk.authorize(TOKEN)
    assert isinstance(answer, Unavailable)
    assert answer.message.startswith("IsBudgetExceeded: ")


def test_the_budget_of_a_known_key_is_asked_for_without_waiting_for_its_user(
    talk: Talk, alice: User
) -> None:
    talk.authorize(TOKEN)
    gate = threading.Event()
    talk.coderd.faults.delay("IsAuthorized", gate, times=1)
    reply = talk.begin_authorize(TOKEN)
    budgets = talk.coderd.deployment.count_calls
    eventually(lambda: budgets("IsBudgetExceeded") == 2)
    gate.set()
    assert reply.get(timeout=10).user_id == alice.id
    assert budgets("IsBudgetExceeded") == 2


def test_the_budget_that_counts_is_that_of_the_user_whose_key_it_is_now(
    talk: Talk, alice: User
) -> None:
    assert talk.authorize(TOKEN).user_id == alice.id
    bob = talk.coderd.deployment.add_user("bob", TOKEN)
    talk.coderd.deployment.set_budget(bob, exceeded=True, limit_micros=1_000_000)
    answer = talk.authorize(TOKEN)
    assert isinstance(answer, Denied)
    assert answer.over_budget
    assert answer.caller is not None
    assert answer.caller.user_id == bob.id


@pytest.mark.parametrize("late", ["IsAuthorized", "IsBudgetExceeded"])
def test_a_known_key_whose_budget_is_exceeded_is_denied_whatever_is_answered_first(
    talk: Talk, alice: User, late: str
) -> None:
    talk.authorize(TOKEN)
    talk.coderd.deployment.set_budget(alice, exceeded=True, limit_micros=1_000_000)
    gate = threading.Event()
    talk.coderd.faults.delay(late, gate, times=1)
    reply = talk.begin_authorize(TOKEN)
    early = "IsAuthorized" if late == "IsBudgetExceeded" else "IsBudgetExceeded"
    eventually(lambda: talk.coderd.deployment.count_calls(early) == 2)
    gate.set()
    answer = reply.get(timeout=10)
    assert isinstance(answer, Denied)
    assert answer.over_budget


def test_the_budget_of_a_coderd_without_budgets_is_asked_for_once() -> None:
    with FakeCoderd(version="1.1") as coderd, Talk(coderd) as talk:
        coderd.deployment.add_user("alice", TOKEN)
        unknown = 'protocol error: unknown rpc: "/proto.Authorizer/IsBudgetExceeded"'
        coderd.faults.fail("IsBudgetExceeded", unknown)
        for _ in range(3):
            assert isinstance(talk.authorize(TOKEN), Caller)
        assert coderd.deployment.count_calls("IsBudgetExceeded") == 1


def test_no_budget_is_asked_for_before_1_1() -> None:
    with FakeCoderd(version="1.0") as coderd, Talk(coderd) as talk:
        coderd.deployment.add_user("alice", TOKEN)
        assert isinstance(talk.authorize(TOKEN), Caller)
        assert coderd.deployment.count_calls("IsBudgetExceeded") == 0


# -- silence


def test_a_call_that_is_not_answered_in_time_means_ask_later(coderd: FakeCoderd) -> None:
    with Talk(coderd, call_timeout=0.2) as talk:
        coderd.deployment.add_user("alice", TOKEN)
        coderd.faults.hang("IsAuthorized", times=1)
        assert talk.authorize(TOKEN) == Unavailable("no answer within 0.2 s")
        connection = coderd.open_connections()[-1]
        # The stream of the unanswered call is closed, which cancels it over there.
        eventually(lambda: connection.streams <= 1)
        assert isinstance(talk.authorize(TOKEN), Caller)
