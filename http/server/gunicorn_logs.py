"""gunicorn's own messages, in the gateway's stream."""

from __future__ import annotations

from gunicorn.glogging import Logger

from aigateway.http.logs import reopen_logs
from aigateway.http.server.quiet_errors import without_content

__all__ = ["GunicornLogger"]


class GunicornLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Passes what gunicorn logs on to the root logger; set it as ``logger_class``.

    There is no access log: the gateway writes its own line for each request.
    """

    def setup(self, cfg: object) -> None:
        self.cfg = cfg
        self._access_log_enabled = False
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        # Level and filter are the root logger's business.
        self.error_log.setLevel("NOTSET")

    def debug(self, msg: str, *args: object, **kwargs: object) -> None:
        """Without the bytes of a request that broke off: they may hold a token."""
        quiet = (without_content(a) if isinstance(a, BaseException) else a for a in args)
        super().debug(msg, *quiet, **kwargs)

    def access(self, *_args: object, **_kwargs: object) -> None:
        """Nothing."""

    def reopen_files(self) -> None:
        """What SIGUSR1 asks for: open the gateway's files again."""
        reopen_logs()

    def close_on_exec(self) -> None:
        """Nothing: the gateway's files are opened that way."""
