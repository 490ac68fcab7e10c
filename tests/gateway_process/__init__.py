"""A real gateway in a process of its own, for tests.

::

    with GatewayProcess(folder, [Upstream("anthropic", provider.url)]) as gateway:
        answer = requests.post(f"{gateway.url}/anthropic/v1/messages", …)
        gateway.records()

The process runs with warnings as errors; :meth:`stop` fails the test when it logged a
traceback or ended with an unexpected status.
"""

from __future__ import annotations

from ._process import (
    GatewayProcess,
    Upstream,
    all_stopped,
    free_port,
    message_of,
    wait_until,
)

__all__ = ["GatewayProcess", "Upstream", "all_stopped", "free_port", "message_of", "wait_until"]
