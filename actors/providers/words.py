"""What a client is told where no answer of the provider can be relayed."""

from __future__ import annotations

import math

from aigateway.actors.interception import error_bodies
from aigateway.actors.providers.beginning import BadStart
from aigateway.actors.providers.jobs import Job
from aigateway.actors.providers.refusals import ProviderAnswer
from aigateway.actors.providers.request import Refused
from aigateway.actors.values.provider_config import ProviderConfig

__all__ = ["Words"]

_STATUS_OF_KIND = {"overloaded": 503, "rate_limited": 429, "timeout": 504}


class Words:
    """Those of one provider."""

    def __init__(self, config: ProviderConfig) -> None:
        self._config = config

    def credential_refused(self, job: Job, answer: ProviderAnswer) -> Refused:
        """What a client is told of a 401 that is about the gateway's credential.

        APPSEC: as it came it would read as one about the client's own, and a client may ask
        its user to sign in again, or throw its key away.
        """
        said = ": ".join(part for part in (answer.error_type, answer.message) if part)
        where = f" (request id {answer.request_id})" if answer.request_id else ""
        message = f"the provider does not accept the gateway's credential: {said}{where}"
        return Refused(
            502,
            message,
            "unauthorized",
            None,
            error_bodies.keys_rejected(self._dialect(job), message),
            job.hint,
            job.sent,
            self._config.name,
            headers=(("x-should-retry", "false"),),
            quotes=True,
        )

    def quoted(self, job: Job, kept: ProviderAnswer | None) -> Refused | None:
        """A provider's own answer, if all of it is there."""
        if kept is None or not kept.whole:
            return None
        return Refused(
            kept.status,
            kept.message,
            kept.kind,
            None,
            kept.body,
            job.hint,
            job.sent,
            self._config.name,
            headers=kept.headers,
            quotes=True,
        )

    def error_told(self, job: Job, bad: BadStart) -> Refused:
        """An error inside a 200, as an answer that says so by its status."""
        dialect = self._dialect(job)
        status = _STATUS_OF_KIND.get(bad.kind, 500)
        if bad.kind == "overloaded" and error_bodies.is_anthropic(dialect):
            status = 529
        return Refused(
            status,
            bad.message,
            bad.kind,
            None,
            error_bodies.error_body(dialect, status, bad.message),
            job.hint,
            job.sent,
            self._config.name,
            quotes=True,
        )

    def circuit_open(self, job: Job, retry_after: int) -> Refused:
        """The circuit breaker lets nothing through, for so many seconds."""
        return Refused(
            503,
            "circuit breaker is open",
            "overloaded",
            retry_after,
            error_bodies.breaker_open(self._dialect(job)),
            sent=job.sent,
            provider_name=self._config.name,
        )

    def keys_rest(self, job: Job, back_in: float) -> Refused:
        """Every key rests, the first one for ``back_in`` seconds more."""
        seconds = math.ceil(back_in)
        message = f"all configured keys are rate-limited (retry after {_duration(seconds)})"
        return Refused(
            429,
            message,
            "rate_limited",
            seconds,
            error_bodies.keys_rate_limited(self._dialect(job), message),
            job.hint,
            job.sent,
            self._config.name,
        )

    def _dialect(self, job: Job) -> str:
        # Bedrock's circuit has a body of its own; it speaks one API only.
        name = self._config.type
        return name if name == "bedrock" else job.request.api or name


def _duration(seconds: int) -> str:
    """Whole seconds as the reference writes them: ``5s``, ``1m0s``, ``2h0m1s``."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
