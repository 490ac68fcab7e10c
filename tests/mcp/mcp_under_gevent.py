"""Run as a script: tools are found, called and cut in a process patched by gevent."""

from gevent import monkey

monkey.patch_all()

import time  # noqa: E402

from mcp_desk import Desk  # noqa: E402
from mcp_scripted_server import Exchange, ScriptedServer, eventually  # noqa: E402

from aigateway.actors.control.messages import McpServer  # noqa: E402

ECHO = "bmcp_s_echo"


def stream(exchange: Exchange) -> None:
    exchange.open_stream()
    exchange.event(None)
    exchange.hang()


def main() -> None:
    server = ScriptedServer(sessions=True, changes=True)
    server.on["GET"] = stream
    with server, Desk(McpServer("s", server.url)) as desk:
        assert desk.ids() == [ECHO]
        replies = [desk.ask_call(ECHO) for _ in range(20)]
        assert not any(reply.get(timeout=10).is_error for reply in replies)
        server.on["tools/call"] = Exchange.hang
        begun = time.monotonic()
        hung = [desk.ask_call(ECHO, seconds=5.2 + i / 100) for i in range(3)]
        # Longer than the watch over silent answers needs to come into play.
        late = [reply.get(timeout=15).transport_error for reply in hung]
        assert late == ["the server did not answer in time"] * 3
        assert 5.2 <= time.monotonic() - begun < 6.5
        del server.on["tools/call"]
        eventually(lambda: server.got("notifications/cancelled"))
        assert not desk.ask_call(ECHO).get(timeout=10).is_error
    assert server.live_sessions == set()


if __name__ == "__main__":
    main()
