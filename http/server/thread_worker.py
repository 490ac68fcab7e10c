"""The gateway's gunicorn worker with plain threads."""

from __future__ import annotations

from gunicorn.workers.gthread import ThreadWorker

from aigateway.http.server.parts import use_own_parts
from aigateway.http.server.quiet_errors import QuietErrors

__all__ = ["GatewayThreadWorker"]


class GatewayThreadWorker(QuietErrors, ThreadWorker):  # type: ignore[misc]
    """gunicorn's own, but for what it reads, writes, and says of broken requests."""

    def init_process(self) -> None:
        use_own_parts()
        super().init_process()
