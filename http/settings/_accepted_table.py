"""Options of the reference that mean nothing here: accepted, so that its command lines start."""

from __future__ import annotations

from functools import partial

from attrs import frozen

from aigateway.http.settings._accepted import WORDS
from aigateway.http.settings._kinds import BOOL, STRING
from aigateway.http.settings._option import option

__all__ = ["AcceptedSettings"]

_ONLY_CODERD = "only concerns coderd, it has no effect on this gateway"

_coderd = partial(
    option,
    group="Without effect",
    inherited=True,
    hidden=True,
    no_effect=_ONLY_CODERD,
    help="Only concerns coderd; accepted, with a warning.",
)


@frozen(kw_only=True)
class AcceptedSettings:
    """Nothing reads these."""

    enabled: bool = _coderd(BOOL, "false")
    inject_coder_mcp_tools: bool = _coderd(BOOL, "false")
    retention: str = _coderd(STRING)
    structured_logging: bool = _coderd(BOOL, "false")
    experiments: tuple[str, ...] = option(
        WORDS,
        group="Without effect",
        hidden=True,
        env="CODER_EXPERIMENTS",
        yaml="experiments",
        no_effect="this gateway has no experiments, these have no effect here",
        help="Experiments of the Coder deployment; accepted, with a warning that names them.",
    )
    trace_datadog: bool = option(
        BOOL,
        "false",
        group="Without effect",
        env="CODER_TRACE_DATADOG",
        yaml="introspection.tracing.dataDog",
        hidden=True,
        no_effect="has no effect",
        help="Accepted for compatibility; has no effect.",
    )
