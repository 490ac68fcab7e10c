"""The table of all options: flags, environment, YAML, defaults and docs are made from it.

Each annotated attribute of :class:`Settings` that calls ``option`` is one row.  To add an option
is to add a row, and to write the docs again:
``python -m aigateway.http.settings > docs/configuration.md``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from attrs import field, frozen

from aigateway.actors.values.provider_config import DEFAULT_BASE_URLS, KeyCommand
from aigateway.http.settings._kinds import (
    ADDRESS,
    BOOL,
    DATABASE,
    DURATION,
    HEADER,
    HEADERS,
    NETWORKS,
    ORIGINS,
    PATH,
    REGEXES,
    SIZE,
    STORAGE,
    STRING,
    TIMEOUT,
    URL,
    WORDS,
    choice,
    whole_number,
)
from aigateway.http.settings._option import Option, OptionWarning, Source, option, options_of
from aigateway.http.settings.console_options import ConsoleOptions
from aigateway.http.settings.mcp_servers import McpServerSettings

if TYPE_CHECKING:
    from aigateway.actors.control.local.prices.table import PriceTable

__all__ = ["GROUPS", "OPTIONS", "Settings"]

GROUPS = (
    "Gateway",
    "TLS",
    "Coder deployment",
    "Embedded control plane",
    "Limits",
    "Requests",
    "Providers",
    "Circuit breaker",
    "Single provider",
    "Records",
    "Console",
    "Process",
    "Logging",
    "Tracing",
    "Prometheus",
    "Without effect",
)
"""The order in which help and docs show the options."""

_gateway = partial(option, group="Gateway")
_tls = partial(option, group="TLS")
_coderd = partial(option, group="Coder deployment")
_local = partial(option, group="Embedded control plane")
_limit = partial(option, group="Limits", reloadable=True)
_request = partial(option, group="Requests", reloadable=True)
_provider = partial(option, group="Providers", inherited=True, reloadable=True)
_breaker = partial(option, group="Circuit breaker", inherited=True, reloadable=True)
_single = partial(option, group="Single provider", inherited=True, reloadable=True)
_records = partial(option, group="Records")
_process = partial(option, group="Process")
_logging = partial(option, group="Logging", reloadable=True)
_tracing = partial(option, group="Tracing")
_prometheus = partial(option, group="Prometheus")
_ONLY_CODERD = "only concerns coderd, it has no effect on this gateway"

_only_coderd = partial(
    option,
    group="Without effect",
    inherited=True,
    hidden=True,
    no_effect=_ONLY_CODERD,
    help="Only concerns coderd; accepted, with a warning.",
)


def _state_dir(environ: Mapping[str, str]) -> str:
    base = environ.get("XDG_STATE_HOME") or os.path.join(environ.get("HOME") or "~", ".local/state")
    return os.path.join(base, "aigateway")


def _runtime_dir(environ: Mapping[str, str]) -> str:
    if environ.get("XDG_RUNTIME_DIR"):
        return os.path.join(environ["XDG_RUNTIME_DIR"], "aigateway")
    return os.path.join(environ.get("TMPDIR") or _temporary(), f"aigateway-{os.getuid()}")


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        # No folder for temporary files can be written to; what needs this one says so.
        return "/tmp"  # noqa: S108


@frozen(kw_only=True)
class Settings(ConsoleOptions):
    """The effective settings.  Durations are seconds, sizes are bytes.

    Made by ``load`` or ``load_from_argv``, or directly in tests: every attribute has its
    default, and nothing is checked then.
    """

    # -- Without effect: options of the reference, so that its command lines start
    enabled: bool = _only_coderd(BOOL, "false")
    inject_coder_mcp_tools: bool = _only_coderd(BOOL, "false")
    retention: str = _only_coderd(STRING)
    structured_logging: bool = _only_coderd(BOOL, "false")
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

    # -- Gateway
    key: str = _gateway(
        STRING,
        secret=True,
        yaml="",
        help="Gateway key that coderd issued. Prefer --key-file: a flag shows in process lists.",
    )
    key_file: str = _gateway(
        PATH, help="File that holds the gateway key; space around the key is dropped."
    )
    http_address: str = _gateway(
        ADDRESS, "127.0.0.1:4001", help="Address to serve on. Port 0 takes a free port."
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = _gateway(
        NETWORKS,
        reloadable=True,
        help="Networks of the proxies before the gateway: what they say in X-Forwarded-For is the"
        " client's address.",
    )
    cors_origins: tuple[str, ...] = _gateway(
        ORIGINS,
        reloadable=True,
        help="Origins of web pages whose scripts may call the gateway (CORS), or * for any. None:"
        " browsers let no page call it.",
    )
    config: str = _gateway(
        PATH, short="-c", env="CODER_CONFIG_PATH", yaml="", help="YAML file with settings."
    )
    shutdown_timeout: float = _gateway(
        DURATION, "5m", help="How long running requests may take to finish when the gateway stops."
    )

    # -- TLS
    tls_cert_file: str = _tls(
        PATH, reloadable=True, help="PEM file with the certificate (chain) to serve TLS with."
    )
    tls_key_file: str = _tls(
        PATH, reloadable=True, help="PEM file with the private key of --tls-cert-file."
    )

    # -- Coder deployment
    url: str = _coderd(URL, env="CODER_URL", help="Address of the Coder deployment.")
    client_tls_ca_file: str = _coderd(
        PATH,
        env="CODER_CLIENT_TLS_CA_FILE",
        help="PEM file with the authorities that may sign the Coder deployment's certificate.",
    )
    client_tls_cert_file: str = _coderd(
        PATH,
        env="CODER_CLIENT_TLS_CERT_FILE",
        help="PEM file with the client certificate shown to the Coder deployment.",
    )
    client_tls_key_file: str = _coderd(
        PATH,
        env="CODER_CLIENT_TLS_KEY_FILE",
        help="PEM file with the private key of --client-tls-cert-file.",
    )
    header: tuple[str, ...] = _coderd(
        HEADERS,
        env="CODER_HEADER",
        yaml="",
        secret=True,
        help="Headers name=value to add when the Coder deployment is dialled. May be repeated.",
    )
    header_command: str = _coderd(
        STRING,
        env="CODER_HEADER_COMMAND",
        yaml="",
        secret=True,
        help="Command that writes such headers, one a line; run in a shell at each dial, with the"
        " deployment's address in CODER_URL.",
    )
    coderd_stream_reuse: bool = _coderd(
        BOOL, "true", help="Use one stream for many calls to coderd, one after the other."
    )

    # -- Embedded control plane
    local: bool = _local(
        BOOL, "false", help="Run without a Coder deployment: keys and records in a local database."
    )
    local_db: str = _local(
        DATABASE,
        "aigateway.db",
        help="Database of the embedded control plane: a SQLite file, or an address"
        " postgresql://user@host/database that several gateways share.",
    )
    prices: str = _local(
        PATH,
        "",
        reloadable=True,
        help="Prices of your own, YAML or JSON, that come before the list prices in the package.",
    )

    retain_content_days: int = _local(
        whole_number(0),
        "0",
        reloadable=True,
        help="Days after which prompts, thoughts, answers, what was sent, tools' inputs and texts"
        " of errors are deleted from the database. 0: never.",
    )
    retain_records_days: int = _local(
        whole_number(0),
        "0",
        reloadable=True,
        help="Days after which all records of a request are deleted from it. 0: never.",
    )

    # -- Records
    state_dir: str = _records(
        PATH,
        default_from=_state_dir,
        default_note="$XDG_STATE_HOME/aigateway, or ~/.local/state/aigateway",
        help="Folder for records that are not delivered yet. Must survive restarts.",
    )
    spool_max_size: int = _records(
        SIZE,
        "1GiB",
        help="Size per worker of undelivered records at which new requests are answered 503.",
    )

    content: str = _records(
        choice("none", "prompts", "full"),
        "prompts",
        reloadable=True,
        help="What is recorded of what users and models say: prompts, with tools' inputs and "
        "thoughts; full, with --local also answers and all that is sent to models, each part "
        "once; or none, only tokens and the rest. With none there are no dumps either.",
    )
    structured_logging_source: str = _records(
        choice("coderd", "gateway", "both"),
        "coderd",
        inherited=True,
        reloadable=True,
        help="Who writes records to its log: the Coder deployment as it is set up there, this "
        "gateway too, each record as one line, or both.",
    )

    # -- Process
    workers: int = _process(whole_number(1), "2", help="Worker processes.")
    worker_class: str = _process(
        choice("gevent", "gthread"), "gevent", help="What runs requests: greenlets or threads."
    )
    worker_connections: int = _process(
        whole_number(1), "10000", help="Connections at once per gevent worker."
    )
    threads: int = _process(whole_number(1), "64", help="Threads per gthread worker.")
    keepalive: float = _process(
        DURATION, "75s", help="How long an idle client connection is kept open."
    )
    runtime_dir: str = _process(
        PATH,
        default_from=_runtime_dir,
        default_note="$XDG_RUNTIME_DIR/aigateway, or /tmp/aigateway-UID",
        help="Folder for the sockets of `aigateway actors`.",
    )

    # -- Logging
    verbose: bool = _logging(
        BOOL,
        "false",
        short="-v",
        env=("CODER_AI_GATEWAY_VERBOSE", "CODER_VERBOSE"),
        yaml="introspection.logging.verbose",
        help="Log debug messages too.",
    )
    log_filter: tuple[str, ...] = _logging(
        REGEXES,
        short="-l",
        env="CODER_LOG_FILTER",
        yaml="introspection.logging.filter",
        help="Log those debug messages that match; .* for all. May be repeated.",
    )
    log_human: str = _logging(
        PATH,
        "/dev/stderr",
        env="CODER_LOGGING_HUMAN",
        yaml="introspection.logging.humanPath",
        help="File for logs that people read; empty: none.",
    )
    log_json: str = _logging(
        PATH,
        env="CODER_LOGGING_JSON",
        yaml="introspection.logging.jsonPath",
        help="File for logs in JSON, one object per line.",
    )
    log_stackdriver: str = _logging(
        PATH,
        env="CODER_LOGGING_STACKDRIVER",
        yaml="introspection.logging.stackdriverPath",
        help="File for logs in the JSON of Google Cloud Logging.",
    )

    # -- Tracing
    trace: bool = _tracing(
        BOOL,
        "false",
        env="CODER_TRACE_ENABLE",
        yaml="introspection.tracing.enable",
        help="Send OpenTelemetry traces (OTLP over HTTP, or over gRPC where "
        "OTEL_EXPORTER_OTLP_PROTOCOL says grpc); needs the extra `tracing`.",
    )
    trace_endpoint: str = _tracing(
        URL,
        yaml="introspection.tracing.endpoint",
        help="Address of the collector, without /v1/traces. Empty: OTEL_EXPORTER_OTLP_ENDPOINT,"
        " or http://localhost:4318.",
    )
    trace_honeycomb_api_key: str = _tracing(
        STRING,
        env="CODER_TRACE_HONEYCOMB_API_KEY",
        yaml="",
        secret=True,
        help="Send traces to Honeycomb with this key.",
    )
    trace_logs: bool = _tracing(
        BOOL,
        "false",
        env="CODER_TRACE_LOGS",
        yaml="introspection.tracing.captureLogs",
        help="Add log lines to traces as events.",
    )
    trace_gen_ai: bool = _tracing(
        BOOL,
        "false",
        yaml="introspection.tracing.genAi",
        help="Send an event of OpenTelemetry's conventions for generative AI with each request to"
        " a model: what was asked and answered, as far as --content lets it be recorded.",
    )

    # -- Prometheus
    prometheus_enable: bool = _prometheus(
        BOOL,
        "false",
        env="CODER_PROMETHEUS_ENABLE",
        yaml="introspection.prometheus.enable",
        help="Serve metrics on --prometheus-address.",
    )
    prometheus_address: str = _prometheus(
        ADDRESS,
        "127.0.0.1:2112",
        env="CODER_PROMETHEUS_ADDRESS",
        yaml="introspection.prometheus.address",
        help="Address to serve metrics on.",
    )
    metrics_initiator_label: bool = _prometheus(
        BOOL, "true", help="Label metrics with the user's id; false keeps their number small."
    )

    # -- Limits
    max_concurrency: int = _limit(
        whole_number(),
        "0",
        inherited=True,
        help="Requests at once per worker process; 0: no cap.",
    )
    queue_depth: int = _limit(
        whole_number(),
        "100",
        help="Requests per worker that may wait for a place under --ai-gateway-max-concurrency.",
    )
    queue_wait: float = _limit(DURATION, "1s", help="How long a request may wait for such a place.")
    rate_limit: int = _limit(
        whole_number(),
        "0",
        inherited=True,
        help="Requests per second and token (or client address); 0: no limit.",
    )
    rate_limit_storage: str = _limit(
        STORAGE,
        "memory://",
        reloadable=False,
        help="Where requests are counted for the rate limit: memory:// counts per worker "
        "process, redis://host:port/db for all gateways together. A policy's limits per minute are "
        "counted there too; with memory:// for all workers of a gateway.",
    )
    max_body_size: int = _limit(
        SIZE, "32MiB", help="Largest request body; larger ones are answered 413."
    )
    max_bodies_size: int = _limit(
        SIZE,
        "256MiB",
        help="Bytes per worker of all request bodies that are being read; over that: 503. 0: no "
        "limit.",
    )
    body_timeout: float = _limit(
        TIMEOUT, "5m", help="How long a request's body may take to arrive; longer: 408."
    )
    body_least_rate: int = _limit(
        SIZE,
        "1KiB",
        help="Bytes per second that a request's body must bring, over 10 seconds; less: 408. 0: "
        "any.",
    )
    max_waiting: int = _limit(
        whole_number(),
        "1000",
        help="Requests per worker that may wait while the control plane is away.",
    )
    max_wait: float = _limit(
        DURATION,
        "60s",
        help="How long a request may wait for the control plane before it is answered 503.",
    )

    websocket_max: int = _limit(
        whole_number(),
        "512",
        help="WebSockets open at once, shared out among worker processes; over that: 426, use "
        "HTTP. 0: no cap.",
    )
    websocket_user_max: int = _limit(
        whole_number(),
        "16",
        help="WebSockets that a user may have open at once, per worker process; over that: 426. 0: "
        "no cap.",
    )
    websocket_max_age: float = _limit(
        TIMEOUT, "60m", help="Age of a WebSocket from which on no response begins on it."
    )

    # -- Requests
    connect_timeout: float = _request(TIMEOUT, "10s", help="Limit on connecting to a provider.")
    first_byte_timeout: float = _request(
        TIMEOUT, "10m", help="Limit on waiting for a provider's answer to begin."
    )
    idle_timeout: float = _request(
        TIMEOUT, "5m", help="Longest silence of a provider inside an answer."
    )
    keepalive_ping: float = _request(
        DURATION,
        "10s",
        help="Silence after which a waiting Anthropic stream gets a ping event; 0: never. Other "
        "streams get none unless a provider's KEEPALIVE_PING says so.",
    )
    max_retries: int = _request(
        whole_number(),
        "0",
        help="How often a request that failed before its first byte is sent to a provider again.",
    )
    fallback_after: float = _request(
        DURATION,
        "60s",
        help="How long a stream may take to begin before a provider's FALLBACK is asked instead; "
        "0: never for that alone. The first attempt may be billed all the same.",
    )
    responses_websocket: bool = _request(
        BOOL,
        "true",
        help="Let clients use the Responses API over a WebSocket, where the provider has it; "
        "false: 426, use HTTP.",
    )
    key_rest_max: float = _request(
        TIMEOUT,
        "5m",
        help="Longest rest of a provider's key after a 429 or 401, whatever the provider asks for.",
    )
    mcp_max_iterations: int = _request(
        whole_number(1),
        "25",
        help="How many rounds of injected tool calls one request may take.",
    )
    mcp_tool_timeout: float = _request(
        TIMEOUT, "60s", help="Limit on one call of an injected tool."
    )
    mcp_max_result_size: int = _request(
        SIZE,
        "256KiB",
        help="How much of an injected tool's result the model is shown; the rest is cut.",
    )
    drain_max: int = _request(
        whole_number(),
        "64",
        help="Streams per worker that are read to their end for the usage after the client left.",
    )
    drain_timeout: float = _request(DURATION, "60s", help="Limit on each such read.")

    # -- Providers
    allow_byok: bool = _provider(BOOL, "true", help="Let users bring their own provider keys.")
    send_actor_headers: bool = _provider(
        BOOL, "false", help="Tell providers in headers which user is calling."
    )
    actor_header_id: str = _provider(
        HEADER,
        "X-AI-Bridge-Actor-ID",
        help="Header for the user's id; empty (flag or YAML): not sent.",
    )
    actor_header_username: str = _provider(
        HEADER,
        "X-AI-Bridge-Actor-Metadata-Username",
        help="Header for the user's name; empty (flag or YAML): not sent.",
    )
    actor_header_email: str = _provider(
        HEADER,
        help="Header for the user's e-mail address, where it is known; such as"
        " X-AI-Bridge-Actor-Metadata-Email. Without a name it is not sent.",
    )
    send_forwarded_headers: bool = option(
        BOOL,
        "false",
        group="Providers",
        reloadable=True,
        help="Tell providers in X-Forwarded-* headers of passed requests who asked, and where.",
    )
    dump_dir: str = _provider(
        PATH,
        yaml="ai_gateway.api_dump_dir",
        help="Folder to write requests and answers to, for debugging. Holds prompts.",
    )
    upstream_ca_file: str = option(
        PATH,
        group="Providers",
        reloadable=True,
        help="PEM file with the authorities that may sign providers' certificates.",
    )

    # -- Circuit breaker
    circuit_breaker_enabled: bool = _breaker(
        BOOL, "false", help="Stop calling a provider for a while after failures."
    )
    circuit_breaker_failure_threshold: int = _breaker(
        whole_number(1),
        "5",
        hidden=True,
        help="Consecutive failures that open the breaker.",
    )
    circuit_breaker_interval: float = _breaker(
        DURATION,
        "10s",
        hidden=True,
        help="How long failures count while the breaker is closed.",
    )
    circuit_breaker_timeout: float = _breaker(
        TIMEOUT,
        "30s",
        hidden=True,
        help="How long the breaker stays open before it tries again.",
    )
    circuit_breaker_max_requests: int = _breaker(
        whole_number(1),
        "3",
        hidden=True,
        help="Trial requests after that time, all of which must succeed.",
    )

    # -- Single provider: the names from before indexed providers
    openai_base_url: str = _single(
        STRING,
        DEFAULT_BASE_URLS["openai"],
        help="Base URL of the provider named openai.",
    )
    openai_key: str = _single(
        STRING, yaml="", secret=True, help="Key of the provider named openai."
    )
    openai_models: str = _single(
        STRING,
        help="Models of the provider named openai and its names for them, as in "
        "`gpt-*, fast = gpt-5-mini`. Others are refused. Default: any.",
    )
    anthropic_base_url: str = _single(
        STRING,
        DEFAULT_BASE_URLS["anthropic"],
        help="Base URL of the provider named anthropic.",
    )
    anthropic_key: str = _single(
        STRING, yaml="", secret=True, help="Key of the provider named anthropic."
    )
    anthropic_models: str = _single(
        STRING,
        help="Models of the provider named anthropic and its names for them, as in "
        "`claude-*, fast = claude-haiku-4-5`. Others are refused. Default: any.",
    )
    bedrock_base_url: str = _single(
        STRING, help="Base URL of AWS Bedrock; beats the region's own address."
    )
    bedrock_region: str = _single(STRING, help="AWS region of Bedrock.")
    bedrock_access_key: str = _single(
        STRING, yaml="", secret=True, help="AWS access key for Bedrock."
    )
    bedrock_access_key_secret: str = _single(
        STRING, yaml="", secret=True, help="Secret of the AWS access key."
    )
    bedrock_model: str = _single(
        STRING,
        "global.anthropic.claude-sonnet-4-5-20250929-v1:0",
        help="Model that Bedrock is asked for.",
    )
    bedrock_small_fast_model: str = _single(
        STRING,
        "global.anthropic.claude-haiku-4-5-20251001-v1:0",
        flag="--ai-gateway-bedrock-small-fastmodel",
        help="Model that Bedrock is asked for when the client asks for a haiku model.",
    )

    bedrock_models: str = _single(
        STRING,
        help="Models of Bedrock as clients call them and as AWS does, as in "
        "`claude-sonnet-4-5 = eu.anthropic.claude-sonnet-4-5-20250929-v1:0`. Others are refused. "
        "Default: BEDROCK_MODEL and BEDROCK_SMALL_FAST_MODEL in the place of all.",
    )

    # -- what follows from the options
    mcp_servers: tuple[McpServerSettings, ...] = ()
    """From the YAML file alone."""
    own_prices: PriceTable | None = field(default=None, repr=False)
    """What the file of --prices holds."""
    gateway_key: str = field(default="", repr=False)
    """The gateway key, from --key or from the file."""
    provider_environ: Mapping[str, str] = field(factory=dict, repr=False)
    """Everything that configures providers, under the names of environment variables."""
    provider_commands: Mapping[str, KeyCommand] = field(factory=dict, repr=False)
    """What says a provider's key again, by the key's variable."""
    watched_files: tuple[str, ...] = ()
    """Files with secrets and certificates: one that changes is a reason to reload."""
    sources: Mapping[str, Source] = field(factory=dict, repr=False)
    """Where the value of each option came from, by option name."""
    warnings: tuple[OptionWarning, ...] = field(default=(), repr=False)

    def needing_restart(self, newer: Settings) -> list[str]:
        """Name the options that differ in ``newer`` and only take effect after a restart."""
        return [
            row.shown
            for row in OPTIONS
            if not row.reloadable and getattr(self, row.name) != getattr(newer, row.name)
        ]

    @property
    def uses_tls(self) -> bool:
        return bool(self.tls_cert_file)

    @property
    def traces(self) -> bool:
        return self.trace or bool(self.trace_honeycomb_api_key)


OPTIONS: tuple[Option, ...] = options_of(Settings)
"""The table itself."""
