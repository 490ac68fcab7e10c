"""Every user gets the tools of the servers that can be reached, from memory where possible."""

from __future__ import annotations

import threading
import time

import pykka
import pytest
from mcp_desk import Desk
from mcp_scripted_server import Exchange, ScriptedServer, eventually, tool

from aigateway.actors.actor.base import ActorDied, Crash
from aigateway.actors.control.messages import McpConfiguration, McpServer, Unavailable
from aigateway.actors.mcp import GetMcpState, McpState
from aigateway.actors.mcp.session import McpSession
from aigateway.actors.mcp.tools import LoadIsDue, McpTools
from aigateway.actors.values.tools import ServerProblem, ToolSet

ECHO = "bmcp_s_echo"


@pytest.fixture
def server():
    with ScriptedServer(sessions=True) as server:
        yield server


@pytest.fixture
def desk(server):
    with Desk(McpServer("s", server.url)) as desk:
        yield desk


def sessions() -> list[pykka.ActorRef[McpSession]]:
    return pykka.ActorRegistry.get_by_class(McpSession)


# -- what is in a set


def test_a_set_has_the_tools_of_all_servers_by_id():
    one = ScriptedServer(tool("b", description="B."), tool("a"))
    two = ScriptedServer(tool("c"))
    with one, two, Desk(McpServer("z", one.url), McpServer("y", two.url)) as desk:
        tools = desk.tools()
        assert [found.id for found in tools.tools] == ["bmcp_y_c", "bmcp_z_a", "bmcp_z_b"]
        found = tools.find("bmcp_z_b")
        assert found is not None
        assert (found.name, found.server_id, found.server_url) == ("b", "z", one.url)
        assert found.description == "B."
        assert found.input_schema == b'{"type": "object"}'
        assert tools.find("b") is None


def test_without_servers_there_are_no_tools_and_no_problems():
    with Desk() as desk:
        tools = desk.tools()
        assert (tools.tools, tools.problems) == ((), ())


def test_patterns_choose_the_tools():
    with ScriptedServer(*(tool(name) for name in ("get", "get_secret", "put"))) as server:
        config = McpServer("s", server.url, tool_allow_regex="^get", tool_deny_regex="secret")
        with Desk(config) as desk:
            assert desk.ids() == ["bmcp_s_get"]
            denied = desk.call("bmcp_s_get_secret")
            assert denied.transport_error == "tool bmcp_s_get_secret not found"
            assert server.got("tools/call") == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"tool_deny_regex": "("}, "compile tool regex (deny)"),
        ({"url": "ftp://example.com"}, "must start with http://"),
        ({"url": "http://"}, "name a host"),
        ({"url": "http://example.com:99999/"}, "ort"),
        ({"url": "http://example.com/ä"}, "percent-encoded"),
        ({"token": "line\nbreak"}, "no header can carry"),
    ],
)
def test_a_server_with_a_wrong_configuration_is_left_out(server, changes, text):
    wrong = {"id": "wrong", "url": server.url, "token": "", **changes}
    with Desk(McpServer("s", server.url), McpServer(**wrong)) as desk:
        tools = desk.tools()
        assert [found.id for found in tools.tools] == [ECHO]
        (problem,) = tools.problems
        assert problem.server_id == "wrong"
        assert text in problem.message
        assert "break" not in problem.message


def test_of_two_servers_with_one_id_the_first_counts(server):
    with Desk(McpServer("s", server.url), McpServer("s", "http://other/")) as desk:
        tools = desk.tools()
        assert [found.id for found in tools.tools] == [ECHO]
        assert tools.problems == (ServerProblem("s", "there are two servers with this id"),)


def test_a_server_that_is_not_there_costs_only_its_own_tools(desk, server):
    with ScriptedServer() as gone:
        pass
    desk.configure(McpServer("gone", gone.url), McpServer("s", server.url))
    tools = desk.tools()
    assert [found.id for found in tools.tools] == [ECHO]
    assert [problem.server_id for problem in tools.problems] == ["gone"]


# -- how long it takes


def test_a_hung_server_is_waited_for_only_so_long_and_its_tools_come_later(server):
    go = threading.Event()

    def slow(exchange: Exchange) -> None:
        go.wait(10)
        exchange.result(tools=[tool("late")])

    with ScriptedServer() as hung:
        hung.on["tools/list"] = slow
        servers = (McpServer("hung", hung.url), McpServer("s", server.url))
        with Desk(*servers, tools_wait=0.3) as desk:
            begun = time.monotonic()
            tools = desk.tools()
            assert 0.3 <= time.monotonic() - begun < 3
            assert [found.id for found in tools.tools] == [ECHO]
            assert tools.problems == (ServerProblem("hung", "no answer within 0.3 s"),)
            go.set()
            eventually(lambda: desk.ids() == ["bmcp_hung_late", ECHO])
            assert desk.tools().problems == ()


def test_a_server_that_kept_one_user_waiting_keeps_no_other_waiting(server):
    go = threading.Event()

    def slow(exchange: Exchange) -> None:
        go.wait(10)
        exchange.server.do(exchange)

    with ScriptedServer(tool("late")) as hung:
        hung.on["tools/list"] = slow
        servers = (McpServer("hung", hung.url), McpServer("s", server.url))
        with Desk(*servers, tools_wait=2.0) as desk:
            assert desk.ids("ann") == [ECHO]
            begun = time.monotonic()
            tools = desk.tools("bob")
            assert time.monotonic() - begun < 1
            assert [found.id for found in tools.tools] == [ECHO]
            assert tools.problems == (ServerProblem("hung", "no answer within 2 s"),)
            # It is asked nevertheless, and once it answers it is waited for again.
            go.set()
            eventually(lambda: desk.ids("bob") == ["bmcp_hung_late", ECHO])
            assert desk.ids("eve") == ["bmcp_hung_late", ECHO]


def test_a_server_that_hangs_takes_no_time_of_a_user_whose_tools_are_known(desk, server):
    go = threading.Event()

    def slow(exchange: Exchange) -> None:
        go.wait(10)
        exchange.result(tools=[tool("later")])

    first = desk.tools()
    server.on["tools/list"] = slow
    desk.now += 800
    begun = time.monotonic()
    assert desk.tools() is first
    eventually(lambda: len(server.got("tools/list")) == 2)
    assert desk.tools() is first
    assert time.monotonic() - begun < 3
    go.set()
    eventually(lambda: desk.ids() == ["bmcp_s_later"])


def test_servers_are_asked_side_by_side():
    both = threading.Barrier(2)

    def meet(exchange: Exchange) -> None:
        both.wait(10)
        exchange.server.do(exchange)

    one, two = ScriptedServer(), ScriptedServer()
    with one, two, Desk(McpServer("a", one.url), McpServer("b", two.url)) as desk:
        one.on["tools/list"] = two.on["tools/list"] = meet
        assert desk.ids() == ["bmcp_a_echo", "bmcp_b_echo"]


def test_everybody_who_asks_at_once_is_answered_by_one_look(desk, server):
    replies = [desk.ask_tools() for _ in range(20)]
    sets = [reply.get(timeout=10) for reply in replies]
    assert all(one is sets[0] for one in sets)
    assert len(desk.asked) == 1
    assert len(server.got("tools/list")) == 1


def test_a_control_plane_that_keeps_silent_is_waited_for_only_so_long():
    with Desk(tools_wait=0.2) as desk:
        desk.configuration = None
        tools = desk.tools()
        assert tools.problems == (ServerProblem("", "control plane: no answer within 0.2 s"),)


def test_whoever_waits_in_vain_is_told_so_though_others_were_answered_before():
    with Desk(tools_wait=0.2) as desk:
        assert desk.tools("ann").problems == ()
        desk.configuration = None
        waiting = [desk.ask_tools(user) for user in ("bob", "cat")]
        for reply in waiting:
            (problem,) = reply.get(timeout=10).problems
            assert problem.message == "control plane: no answer within 0.2 s"
        # And so is one who comes when nobody else waits any more.
        assert len(desk.tools("eve").problems) == 1


def test_when_the_time_of_one_who_was_answered_is_over_the_next_one_still_has_a_limit(monkeypatch):
    waits = []

    def later(_self, delay, _message):
        waits.append(delay)
        return threading.Timer(delay, str)

    monkeypatch.setattr(McpTools, "later", later)
    with Desk(tools_wait=30.0) as desk:
        desk.tools("ann")
        desk.configuration = None
        bob = desk.ask_tools("bob")
        desk.mcp.ask(GetMcpState(), timeout=5)
        waits.clear()
        desk.mcp.tell(LoadIsDue())
        desk.mcp.ask(GetMcpState(), timeout=5)
        assert not bob.known
        (left,) = waits
        assert 0 < left <= 30.0


def test_the_tools_of_many_users_are_looked_up_under_one_timer(monkeypatch):
    started = []

    class Timer(threading.Timer):
        def start(self):
            started.append(self)
            super().start()

    with Desk() as desk:
        monkeypatch.setattr(threading, "Timer", Timer)
        for number in range(20):
            desk.tools(f"user-{number}")
    assert len(started) == 1


# -- memory


def test_a_set_is_kept(desk, server):
    first = desk.tools()
    desk.now += 700
    assert desk.tools() is first
    assert len(desk.asked) == 1
    assert len(server.got("tools/list")) == 1


def test_a_fresh_set_lies_where_it_is_found_without_a_question(desk):
    assert desk.shelved() is None
    first = desk.tools()
    assert desk.shelved() is first
    assert desk.shelved(token="another") is None
    desk.now += 719
    assert desk.shelved() is first
    # From now on somebody has to ask, so that it is looked up again.
    desk.now += 1
    assert desk.shelved() is None
    assert desk.tools() is first
    eventually(lambda: desk.shelved() is first)
    assert len(desk.asked) == 2


def test_where_no_user_has_servers_one_look_will_do_for_all_for_a_while(server):
    with Desk() as desk:
        desk.configuration = McpConfiguration(for_all=True)
        assert desk.shelved("bob") is None
        assert desk.ids("ann") == []
        assert desk.shelved("bob") == desk.shelved("ann") == ToolSet()
        desk.configure(McpServer("s", server.url))
        desk.now += 9.9
        assert desk.shelved("bob") == ToolSet()
        desk.now += 0.1
        assert desk.shelved("bob") is None
        assert desk.ids("bob") == [ECHO]
        assert desk.shelved("carol") is None


def test_once_a_user_has_servers_nobody_is_taken_to_have_none(server):
    with Desk() as desk:
        desk.configuration = McpConfiguration(for_all=True)
        desk.tools("ann")
        desk.configure(McpServer("s", server.url))
        assert desk.shelved("bob") == ToolSet()
        assert desk.ids("bob") == [ECHO]
        assert desk.shelved("bob") == desk.tools("bob")
        assert desk.shelved("carol") is None


def test_that_a_user_has_no_servers_says_nothing_of_others():
    with Desk() as desk:
        assert desk.ids("ann") == []
        assert desk.shelved("ann") == ToolSet()
        assert desk.shelved("bob") is None


def test_a_set_without_a_server_that_failed_lies_there_for_a_short_time(desk, server):
    server.on["tools/list"] = lambda exchange: exchange.send(503)
    empty = desk.tools()
    assert desk.shelved() is empty
    desk.now += 30
    assert desk.shelved() is None


def test_the_actors_end_takes_its_sets_from_the_shelf(desk):
    desk.tools()
    desk.mcp.tell(Crash())
    desk.mcp.actor_stopped.wait(5)
    desk.start()
    desk.mcp.ask(GetMcpState())
    assert desk.shelved() is None


def test_towards_the_end_of_its_time_a_set_is_looked_up_again_in_the_background(desk, server):
    first = desk.tools()
    server.tools.append(tool("new"))
    desk.now += 800
    assert desk.tools() is first
    eventually(lambda: desk.ids() == [ECHO, "bmcp_s_new"])
    assert len(desk.asked) == 2
    # The session is still the same.
    assert len(server.got("initialize")) == 1


def test_after_its_time_a_set_is_looked_up_before_it_is_given_out(desk, server):
    first = desk.tools()
    server.tools.append(tool("new"))
    desk.now += 1000
    assert desk.ids() == [ECHO, "bmcp_s_new"]
    assert desk.tools() is not first


def test_a_look_that_finds_nothing_new_gives_out_the_same_object(desk):
    first = desk.tools()
    desk.now += 1000
    assert desk.tools() is first


def test_users_with_the_same_tools_share_one_set(desk):
    assert desk.tools("ann") is desk.tools("bob")


def test_a_server_that_failed_is_tried_again_soon(desk, server):
    server.on["tools/list"] = lambda exchange: exchange.send(503)
    assert desk.ids() == []
    del server.on["tools/list"]
    assert desk.ids() == []
    desk.now += 31
    desk.tools()
    eventually(lambda: desk.ids() == [ECHO])
    assert desk.tools().problems == ()


def test_a_server_that_goes_down_loses_its_tools_and_gets_them_back(desk, server):
    assert desk.ids() == [ECHO]
    server.on["tools/list"] = lambda exchange: exchange.send(503)
    desk.now += 1000
    assert desk.ids() == []
    del server.on["tools/list"]
    desk.now += 31
    desk.tools()
    eventually(lambda: desk.ids() == [ECHO])


def test_while_the_control_plane_is_away_the_tools_stay(desk):
    assert desk.ids() == [ECHO]
    desk.configuration = Unavailable("coderd is away")
    desk.now += 1000
    tools = desk.tools()
    assert [found.id for found in tools.tools] == [ECHO]
    assert tools.problems == (ServerProblem("", "control plane: coderd is away"),)
    assert not desk.call(ECHO).is_error


def test_without_a_control_plane_there_are_no_tools_for_a_while(desk):
    ref = desk.tree.find("control-plane")
    desk.tree.remove("control-plane")
    assert desk.tools().problems[0].message == "control plane: there is no control plane"
    desk.tree.put("control-plane", ref)
    desk.now += 100
    assert desk.ids() == [ECHO]


def test_a_control_plane_that_dies_while_it_is_asked_is_one_that_is_away(desk):
    ref = desk.tree.find("control-plane")
    assert ref is not None
    desk.configuration = RuntimeError("it fell over")
    assert "it fell over" in desk.tools().problems[0].message
    desk.now += 1000
    assert not ref.is_alive()
    assert "control plane" in desk.tools().problems[0].message


# -- tokens


def test_a_new_token_gets_a_new_session_and_the_old_one_is_ended(desk, server):
    desk.configure(McpServer("s", server.url, token="old"))
    desk.tools()
    desk.configure(McpServer("s", server.url, token="new"))
    desk.now += 1000
    desk.tools()
    assert not desk.call(ECHO).is_error
    assert server.got("tools/call")[0].headers["authorization"] == "Bearer new"
    (ended,) = eventually(lambda: server.got("DELETE"))
    assert ended.headers["authorization"] == "Bearer old"
    assert ended.headers["mcp-session-id"] == "session-1"


def test_an_old_session_finishes_its_calls_before_it_ends(desk, server):
    go = threading.Event()

    def wait(exchange: Exchange) -> None:
        go.wait(10)
        exchange.text("done")

    desk.tools()
    server.on["tools/call"] = wait
    reply = desk.ask_call(ECHO, seconds=10)
    eventually(lambda: server.got("tools/call"))
    desk.configure()
    desk.now += 1000
    assert desk.ids() == []
    assert server.got("DELETE") == []
    go.set()
    assert not reply.get(timeout=10).is_error
    eventually(lambda: server.got("DELETE"))


def test_a_refused_token_makes_the_configuration_be_asked_again(desk, server):
    desk.configure(McpServer("s", server.url, token="old"))
    desk.tools()
    assert len(desk.asked) == 1
    server.on["tools/call"] = lambda exchange: exchange.send(401)
    assert "token was not accepted" in desk.call(ECHO).transport_error
    # Before the caller was told; there was no newer token.
    assert len(desk.asked) == 2


def test_users_and_their_tokens_are_kept_apart(desk):
    desk.tools("ann", "t1")
    desk.tools("ann", "t2")
    desk.tools("bob", "t1")
    desk.tools("ann", "t1")
    assert [(one.user_id, one.session_token) for one in desk.asked] == [
        ("ann", "t1"),
        ("ann", "t2"),
        ("bob", "t1"),
    ]


def test_without_a_token_a_call_uses_the_set_that_the_user_got_last(desk, server):
    unknown = desk.ask_call(ECHO, token="").get(timeout=5)
    assert unknown.transport_error == f"tool {ECHO} not found"
    desk.tools("ann", "t1")
    assert not desk.ask_call(ECHO, token="").get(timeout=5).is_error
    assert desk.ask_call(ECHO, user="bob", token="").get(timeout=5).is_error


# -- changes that servers announce


def test_a_change_that_a_server_announces_is_looked_up():
    push = threading.Event()

    def stream(exchange: Exchange) -> None:
        exchange.open_stream()
        push.wait(10)
        exchange.event({"method": "notifications/tools/list_changed"})
        exchange.hang()

    for sessions, name in ((True, "GET"), (False, "subscriptions/listen")):
        push.clear()
        with ScriptedServer(sessions=sessions, changes=True) as server:
            server.on[name] = stream
            with Desk(McpServer("s", server.url)) as desk:
                assert desk.ids() == [ECHO]
                eventually(lambda server=server, name=name: server.got(name))
                assert desk.mcp.ask(GetMcpState()) == McpState(1, 1, 1)
                server.tools.append(tool("new"))
                push.set()
                eventually(lambda desk=desk: desk.ids() == [ECHO, "bmcp_s_new"])
                assert desk.shelved() is desk.tools()
                assert len(desk.asked) == 1
            eventually(lambda server=server: server.hung_up)


def test_a_change_announced_inside_a_call_is_looked_up(desk, server):
    def grow(exchange: Exchange) -> None:
        server.tools.append(tool("new"))
        exchange.open_stream()
        exchange.event({"method": "notifications/tools/list_changed"})
        exchange.answer_event("grown")

    server.on["tools/call"] = grow
    desk.tools()
    desk.call(ECHO)
    eventually(lambda: desk.ids() == [ECHO, "bmcp_s_new"])


def test_a_server_that_does_not_keep_its_word_is_not_listened_to_again():
    server = ScriptedServer(sessions=True, changes=True)
    with server, Desk(McpServer("s", server.url)) as desk:
        desk.tools()
        eventually(lambda: server.got("GET"))
        eventually(lambda: desk.mcp.ask(GetMcpState()).listeners == 0)


def test_a_stream_of_changes_that_breaks_is_opened_again_and_the_list_read():
    with ScriptedServer(sessions=True, changes=True) as server:
        server.on["GET"] = Exchange.cut
        with Desk(McpServer("s", server.url)) as desk:
            assert desk.ids() == [ECHO]
            server.tools.append(tool("new"))
            eventually(lambda: len(server.got("GET")) >= 2)
            eventually(lambda: desk.ids() == [ECHO, "bmcp_s_new"])


def test_a_session_that_the_stream_of_changes_finds_lost_is_opened_again():
    def stream(exchange: Exchange) -> None:
        if exchange.seen.headers["mcp-session-id"] not in server.live_sessions:
            server.do(exchange)
        elif len(server.got("GET")) == 1:
            server.live_sessions.clear()
            exchange.send(404)
        else:
            exchange.open_stream()
            exchange.event(None)
            exchange.hang()

    server = ScriptedServer(sessions=True, changes=True)
    server.on["GET"] = stream
    with server, Desk(McpServer("s", server.url)) as desk:
        desk.tools()
        eventually(lambda: len(server.got("initialize")) == 2)
        eventually(lambda: len(server.got("GET")) == 2)
        assert server.got("GET")[1].headers["mcp-session-id"] == "session-2"


def test_a_server_that_restarts_keeps_its_tools_for_a_while():
    server = ScriptedServer(sessions=True, changes=True)
    server.on["GET"] = Exchange.cut
    with server, Desk(McpServer("s", server.url)) as desk:
        assert desk.ids() == [ECHO]
        server.on["tools/list"] = lambda exchange: exchange.send(503)
        # The stream broke, so the session looks by itself whether something has changed.
        eventually(lambda: len(server.got("tools/list")) == 2)
        assert desk.ids() == [ECHO]

        def has_none_later() -> bool:
            desk.now += 31
            return desk.ids() == []

        eventually(has_none_later)
        assert desk.tools().problems == (ServerProblem("s", "the server answered 503"),)


def test_only_so_many_streams_are_kept_open():
    def stream(exchange: Exchange) -> None:
        exchange.open_stream()
        exchange.event(None)
        exchange.hang()

    with ScriptedServer(sessions=True, changes=True) as server:
        server.on["GET"] = stream
        with Desk(McpServer("s", server.url), listeners=1) as desk:
            desk.tools("ann")
            desk.tools("bob")
            assert desk.mcp.ask(GetMcpState()) == McpState(2, 2, 1)
            eventually(lambda: len(server.got("GET")) == 1)


# -- bounds, and the end


def test_only_so_many_users_are_kept_and_the_one_not_used_for_longest_goes(server):
    with Desk(McpServer("s", server.url), users=2) as desk:
        desk.tools("ann")
        desk.tools("bob")
        desk.tools("ann")
        desk.tools("eve")
        assert desk.mcp.ask(GetMcpState()).users == 2
        assert desk.shelved("bob") is None
        (gone,) = eventually(lambda: server.got("DELETE"))
        assert gone.headers["mcp-session-id"] == "session-2"
        asked = len(desk.asked)
        desk.tools("ann")
        assert len(desk.asked) == asked


def test_a_user_who_is_pushed_out_while_waiting_is_answered():
    with ScriptedServer() as server, Desk(McpServer("s", server.url), users=1) as desk:
        server.on["tools/list"] = Exchange.hang
        waiting = desk.ask_tools("ann")
        call = desk.ask_call(ECHO, user="ann")
        desk.ask_tools("bob")
        assert waiting.get(timeout=5).tools == ()
        assert call.get(timeout=5).is_error


def test_connections_are_kept_for_a_burst_and_not_longer(desk, server, monkeypatch):
    monkeypatch.setattr("aigateway.actors.mcp.session.KEEP_IDLE", 0.1)
    desk.tools()
    opened = server.connections
    assert 1 <= opened <= 2
    desk.call(ECHO)
    eventually(lambda: server.connections == 0)
    assert not desk.call(ECHO).is_error


def test_users_who_have_gone_are_forgotten(server, monkeypatch):
    monkeypatch.setattr("aigateway.actors.mcp.tools.SWEEP_EVERY", 0.05)
    with Desk(McpServer("s", server.url)) as desk:
        desk.tools("ann")
        desk.now += 600
        desk.tools("bob")
        desk.now += 600
        eventually(lambda: desk.mcp.ask(GetMcpState()).users == 1)
        eventually(lambda: server.got("DELETE"))
        assert [seen.headers["mcp-session-id"] for seen in server.got("DELETE")] == ["session-1"]


def test_at_the_end_every_session_is_ended(server):
    with Desk(McpServer("s", server.url)) as desk:
        desk.tools("ann")
        desk.tools("bob")
        assert len(server.live_sessions) == 2
    assert server.live_sessions == set()
    assert sessions() == []


def test_a_session_that_dies_fails_its_call_and_is_replaced_by_the_next(desk, server):
    desk.tools()
    server.on["tools/call"] = Exchange.hang
    reply = desk.ask_call(ECHO, seconds=10)
    eventually(lambda: server.got("tools/call"))
    (session,) = sessions()
    session.tell(Crash())
    result = reply.get(timeout=5)
    assert result.transport_error == "the session with the server ended"
    server.on.clear()
    assert not desk.call(ECHO).is_error
    assert desk.ids() == [ECHO]
    assert len(server.got("initialize")) == 2


def test_a_call_that_reaches_a_dying_session_has_a_result(desk):
    desk.tools()
    (session,) = sessions()
    session.tell(Crash())
    result = desk.call(ECHO)
    assert result.transport_error in (None, "the session with the server ended")


def test_a_session_that_dies_while_it_looks_is_a_problem(desk, server):
    server.on["tools/list"] = Exchange.hang
    reply = desk.ask_tools()
    eventually(lambda: server.got("tools/list"))
    (session,) = sessions()
    session.tell(Crash())
    problems = reply.get(timeout=5).problems
    assert problems == (ServerProblem("s", "the session with the server ended"),)


def test_after_a_restart_a_call_finds_its_tool_again(desk):
    desk.tools()
    desk.mcp.tell(Crash())
    desk.mcp.actor_stopped.wait(5)
    desk.start()
    assert not desk.call(ECHO).is_error
    assert desk.call("bmcp_s_other").transport_error == "tool bmcp_s_other not found"


def test_finding_a_tool_again_takes_no_longer_than_the_call_may(server):
    server.on["tools/list"] = Exchange.hang
    with Desk(McpServer("s", server.url), tools_wait=1.0) as desk:
        begun = time.monotonic()
        result = desk.call(ECHO, seconds=0.2)
        assert result.transport_error == "the tools were not found in time"
        assert time.monotonic() - begun < 0.9


def test_a_tool_that_is_found_too_late_is_not_called(server):
    go = threading.Event()

    def slow(exchange: Exchange) -> None:
        go.wait(10)
        server.do(exchange)

    server.on["tools/list"] = slow
    with Desk(McpServer("s", server.url)) as desk:
        assert desk.call(ECHO, seconds=0.05).is_error
        waiting = desk.ask_tools()
        go.set()
        assert len(waiting.get(timeout=5).tools) == 1
        assert server.got("tools/call") == []


def test_a_question_that_dies_with_the_actor_is_answered(desk):
    desk.mcp.tell(Crash())
    reply = desk.ask_tools()
    with pytest.raises(ActorDied):
        reply.get(timeout=5)


def test_tokens_are_never_shown(desk, server, capfd):
    desk.configure(McpServer("s", server.url, token="very-secret"))
    server.on["tools/list"] = lambda exchange: exchange.send(401)
    tools = desk.tools(token="coder-secret")
    shown = f"{tools!r} {desk.asked!r} {capfd.readouterr()}"
    assert "the token was not accepted" in shown
    assert "secret" not in shown
