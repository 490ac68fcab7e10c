"""The first half of the table of options: what concerns the process and its surroundings."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from functools import partial

from attrs import frozen

from aigateway.http.settings._accepted import HEADERS
from aigateway.http.settings._accepted_table import AcceptedSettings
from aigateway.http.settings._kinds import (
    ADDRESS,
    BOOL,
    DURATION,
    PATH,
    REGEXES,
    SIZE,
    STRING,
    URL,
    choice,
    whole_number,
)
from aigateway.http.settings._option import option

__all__ = ["ProcessSettings"]


def _state_dir(environ: Mapping[str, str]) -> str:
    base = environ.get("XDG_STATE_HOME") or os.path.join(environ.get("HOME") or "~", ".local/state")
    return os.path.join(base, "aigateway")


def _runtime_dir(environ: Mapping[str, str]) -> str:
    if environ.get("XDG_RUNTIME_DIR"):
        return os.path.join(environ["XDG_RUNTIME_DIR"], "aigateway")
    return os.path.join(environ.get("TMPDIR") or tempfile.gettempdir(), f"aigateway-{os.getuid()}")


_gateway = partial(option, group="Gateway")
_tls = partial(option, group="TLS")
_coderd = partial(option, group="Coder deployment")
_local = partial(option, group="Embedded control plane")
_records = partial(option, group="Records")
_process = partial(option, group="Process")
_logging = partial(option, group="Logging", reloadable=True)
_tracing = partial(option, group="Tracing")
_prometheus = partial(option, group="Prometheus")


@frozen(kw_only=True)
class ProcessSettings(AcceptedSettings):
    """Where to listen, whom to ask, where to write.  Durations are seconds, sizes are bytes."""

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
        PATH, "aigateway.db", help="SQLite database of the embedded control plane."
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
        choice("none", "prompts"),
        "prompts",
        reloadable=True,
        help="What is recorded of what users and models say: prompts, with tools' inputs and "
        "thoughts, or none, only tokens and the rest. With none there are no dumps either.",
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
        help="Send OpenTelemetry traces (OTLP over HTTP); needs the extra `tracing`.",
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
