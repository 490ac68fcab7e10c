"""What operators ask of the metrics: the one list behind the dashboard, the alerts and the docs."""

from __future__ import annotations

from typing import Final

from attrs import field, frozen

from aigateway.http.metrics.series import PREFIX

__all__ = ["QUESTIONS", "Alert", "Panel"]


@frozen(kw_only=True)
class Alert:
    """When somebody is to be told."""

    name: str
    query: str
    """Has a result while something is wrong."""
    minutes: int
    """How long that must last."""
    severity: str
    """``critical``: requests or records are lost or refused now; ``warning``: soon, or some."""
    text: str
    """What is wrong, and what to do."""


@frozen
class Panel:
    """A panel of the dashboard; its title is the question."""

    title: str
    query: str
    legend: str = field(default="", kw_only=True)
    """How a line is named, with labels in braces."""
    unit: str = field(default="short", kw_only=True)
    """Grafana's name of it."""
    alert: Alert | None = field(default=None, kw_only=True)


def _p99(series: str, *labels: str) -> str:
    by = ", ".join(("le", *labels))
    return f"histogram_quantile(0.99, sum by ({by}) (rate({PREFIX}_{series}_bucket[5m])))"


_ENDED = f"{PREFIX}_interceptions_total"
_FAILED = f'sum by (provider) (rate({_ENDED}{{status="failed"}}[5m]))'
_OWN_TROUBLE = "capacity|control_plane|fault|not_recorded|provider_misconfigured"

QUESTIONS: Final = (
    Panel(
        "Is it there, and in which version?",
        f"count by (version) ({PREFIX}_build_info)",
        legend="{{version}}",
        alert=Alert(
            name="AIGatewayAbsent",
            query=f"absent({PREFIX}_build_info)",
            minutes=5,
            severity="critical",
            text="No gateway is scraped: it does not run, or Prometheus does not find it.",
        ),
    ),
    Panel(
        "How much is asked of which provider?",
        f"sum by (provider) (rate({_ENDED}[5m]))",
        legend="{{provider}}",
        unit="reqps",
    ),
    Panel(
        "Does it fail?",
        _FAILED,
        legend="{{provider}}",
        unit="reqps",
        alert=Alert(
            name="AIGatewayRequestsFail",
            query=f"{_FAILED} / sum by (provider) (rate({_ENDED}[5m])) > 0.25",
            minutes=5,
            severity="critical",
            text="More than a quarter of the requests for {{ $labels.provider }} fail: look at the "
            "log, and at the provider's status.",
        ),
    ),
    Panel(
        "What does the gateway refuse, and why?",
        f"sum by (reason) (increase({PREFIX}_requests_refused_total[5m])) > 0",
        legend="{{reason}}",
        alert=Alert(
            name="AIGatewayRefuses",
            query=f"sum by (reason) (increase({PREFIX}_requests_refused_total"
            f'{{reason=~"{_OWN_TROUBLE}"}}[5m])) > 0',
            minutes=5,
            severity="warning",
            text="Requests are refused for a reason that is not their own: {{ $labels.reason }}.",
        ),
    ),
    Panel(
        "Is a provider misconfigured?",
        f'{PREFIX}_provider_info{{status="error"}} > 0',
        legend="{{provider_name}}",
        alert=Alert(
            name="AIGatewayProviderMisconfigured",
            query=f'{PREFIX}_provider_info{{status="error"}} > 0',
            minutes=1,
            severity="warning",
            text="{{ $labels.provider_name }} is not in use; `aigateway actors` says why.",
        ),
    ),
    Panel(
        "Which circuits are open?",
        f"{PREFIX}_circuit_breaker_state > 0",
        legend="{{provider}} {{endpoint}} {{model}}",
        alert=Alert(
            name="AIGatewayCircuitOpen",
            query=f"{PREFIX}_circuit_breaker_state == 1",
            minutes=5,
            severity="warning",
            text="{{ $labels.provider }} has not recovered for {{ $labels.model }}.",
        ),
    ),
    Panel(
        "Which keys rest, and for how long still?",
        f"{PREFIX}_key_pool_rest_until_timestamp_seconds - time() > 0",
        legend="{{provider}} {{key}} {{subject}}",
        unit="s",
    ),
    Panel(
        "Does the provider refuse a key?",
        f"sum by (provider) (increase({PREFIX}_key_pool_exhaustions_total"
        '{outcome="auth_failed"}[5m])) > 0',
        legend="{{provider}}",
        alert=Alert(
            name="AIGatewayKeysRefused",
            query=f"sum by (provider) (increase({PREFIX}_key_pool_exhaustions_total"
            '{outcome="auth_failed"}[5m])) > 0',
            minutes=1,
            severity="critical",
            text="{{ $labels.provider }} accepts none of its keys: put a good one in their place.",
        ),
    ),
    Panel(
        "Which providers do others stand in for, and why?",
        f"sum by (provider, reason) (increase({PREFIX}_provider_fallbacks_total[5m])) > 0",
        legend="{{provider}} {{reason}}",
    ),
    Panel(
        "Are records stuck?",
        f"{PREFIX}_spool_oldest_seconds",
        unit="s",
        alert=Alert(
            name="AIGatewayRecordsStuck",
            query=f"{PREFIX}_spool_oldest_seconds > 300",
            minutes=5,
            severity="critical",
            text="Records are not delivered: is the control plane there, and is the disk full?",
        ),
    ),
    Panel(
        "Were records given up?",
        f"{PREFIX}_dead_letters",
        alert=Alert(
            name="AIGatewayDeadLetters",
            query=f"{PREFIX}_dead_letters > 0",
            minutes=1,
            severity="warning",
            text="Records were refused and set aside; `aigateway actors` sends them again.",
        ),
    ),
    Panel(
        "Can records be kept?",
        f'sum by (state) ({PREFIX}_state_disk{{state!="ok"}}) > 0',
        legend="{{state}}",
        alert=Alert(
            name="AIGatewayDisk",
            query=f'sum by (state) ({PREFIX}_state_disk{{state!="ok"}}) > 0',
            minutes=1,
            severity="critical",
            text="The disk with the state folder is {{ $labels.state }}.",
        ),
    ),
    Panel(
        "Is the control plane away?",
        f"{PREFIX}_coderd_connected == 0",
        alert=Alert(
            name="AIGatewayControlPlaneAway",
            query=f"{PREFIX}_coderd_connected == 0",
            minutes=2,
            severity="critical",
            text="Nobody new is let in: the Coder deployment, or the database, is away.",
        ),
    ),
    Panel(
        "Does it take long to answer?",
        _p99("coderd_rpc_seconds", "rpc"),
        legend="{{rpc}}",
        unit="s",
    ),
    Panel("Do requests wait for it?", f"{PREFIX}_coderd_waiting > 0"),
    Panel(
        "Is it at its limit?",
        f"sum by (for) ({PREFIX}_requests_waiting) > 0",
        legend="{{for}}",
        alert=Alert(
            name="AIGatewayAtItsLimit",
            query=f'{PREFIX}_requests_waiting{{for="place"}} > 0',
            minutes=5,
            severity="warning",
            text="Requests wait for a place: raise --ai-gateway-max-concurrency, or add replicas.",
        ),
    ),
    Panel("What does the gateway itself cost?", _p99("overhead_seconds"), unit="s"),
    Panel("Where does the time go?", _p99("stage_seconds", "stage"), legend="{{stage}}", unit="s"),
    Panel(
        "Is an actor the bottleneck?",
        _p99("actor_wait_seconds", "role"),
        legend="{{role}}",
        unit="s",
    ),
    Panel(
        "Do actors die?",
        f"sum by (role) (increase({PREFIX}_actor_restarts_total[1h])) > 0",
        legend="{{role}}",
        alert=Alert(
            name="AIGatewayActorsDie",
            query=f"sum by (role) (increase({PREFIX}_actor_restarts_total[1h])) > 3",
            minutes=1,
            severity="warning",
            text="{{ $labels.role }} dies again and again: report the traceback in the log.",
        ),
    ),
    Panel(
        "Did the last reload of the providers fail?",
        f"{PREFIX}_providers_last_reload_timestamp_seconds"
        f" - {PREFIX}_providers_last_reload_success_timestamp_seconds > 0",
        unit="s",
        alert=Alert(
            name="AIGatewayProvidersNotReloaded",
            query=f"{PREFIX}_providers_last_reload_timestamp_seconds"
            f" > {PREFIX}_providers_last_reload_success_timestamp_seconds",
            minutes=10,
            severity="warning",
            text="Providers are those of before: the log says why they could not be loaded.",
        ),
    ),
    Panel(
        "Which tools of MCP servers are left out?",
        f"sum by (server, reason) ({PREFIX}_mcp_tools_left_out_total) > 0",
        legend="{{server}} {{reason}}",
    ),
    Panel(
        "Which tokens are spent?",
        f"sum by (provider, type) (rate({PREFIX}_tokens_total[5m]))",
        legend="{{provider}} {{type}}",
    ),
    Panel(
        "What does it cost, in dollars an hour?",
        f"sum by (price) (rate({PREFIX}_cost_dollars_total[1h])) * 3600",
        legend="{{price}}",
        unit="currencyUSD",
    ),
    Panel(
        "Is something spent that has no price?",
        f"sum by (reason) (increase({PREFIX}_unpriced_token_records_total[1h])) > 0",
        legend="{{reason}}",
        alert=Alert(
            name="AIGatewayUnpriced",
            query=f"sum by (reason) (increase({PREFIX}_unpriced_token_records_total"
            '{reason!="usage"}[1h])) > 0',
            minutes=15,
            severity="warning",
            text="Tokens are used that count in no sum and for no cap ({{ $labels.reason }}): "
            "`aigateway prices check` names the models, --prices gives them a price.",
        ),
    ),
    Panel(
        "Which caps are nearly spent?",
        f"max by (per, subject, every) ({PREFIX}_cap_spent_ratio) > 0.75",
        legend="{{per}} {{subject}} {{every}}",
        unit="percentunit",
        alert=Alert(
            name="AIGatewayCapNearlySpent",
            query=f"max by (per, subject, every) ({PREFIX}_cap_spent_ratio) > 0.95",
            minutes=1,
            severity="warning",
            text="The cap of {{ $labels.per }} {{ $labels.subject }} for the {{ $labels.every }} "
            "is nearly spent: what would pass it is refused until the next one begins.",
        ),
    ),
    Panel(
        "What do caps stop?",
        f"sum by (per, reason) (increase({PREFIX}_cap_refusals_total[5m])) > 0",
        legend="{{per}} {{reason}}",
    ),
    Panel("Do calls wait for their caps?", f"{PREFIX}_cap_waiting_calls > 0"),
    Panel("How many WebSockets are open?", f"{PREFIX}_websocket_sessions"),
    Panel(
        "Which WebSockets are refused, and why?",
        f"sum by (reason) (increase({PREFIX}_websocket_handshakes_refused_total[5m])) > 0",
        legend="{{reason}}",
    ),
    Panel(
        "Is the local database kept in order?",
        f"sum by (kind) (increase({PREFIX}_old_requests_deleted_total[1h]))",
        legend="{{kind}} deleted",
        alert=Alert(
            name="AIGatewayHousekeepingFails",
            query=f"max({PREFIX}_housekeeping_failing) > 0",
            minutes=30,
            severity="warning",
            text="Nothing that is old enough is deleted, and the database grows: the log says why.",
        ),
    ),
    Panel(
        "Do its processes run out of files?",
        "process_open_fds / process_max_fds",
        legend="{{process}} {{pid}}",
        unit="percentunit",
        alert=Alert(
            name="AIGatewayOpenFiles",
            query=f"process_open_fds / process_max_fds > 0.8 and on (instance) {PREFIX}_build_info",
            minutes=5,
            severity="warning",
            text="Process {{ $labels.pid }} is near its limit of open files: raise it.",
        ),
    ),
    Panel(
        "How much memory does it take?",
        'sum by (process) (process_resident_memory_bytes{process!=""})',
        legend="{{process}}",
        unit="bytes",
    ),
)
