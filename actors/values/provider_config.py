"""What a provider actor must know: no environment, no files, only values."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from aigateway.actors.values.models import ModelList

__all__ = [
    "ANTHROPIC_TYPES",
    "DEFAULT_BASE_URLS",
    "OPENAI_TYPES",
    "PROVIDER_TYPES",
    "BedrockConfig",
    "BreakerConfig",
    "KeyCommand",
    "ProviderConfig",
    "VertexConfig",
]

ANTHROPIC_TYPES = frozenset({"anthropic", "bedrock", "vertex"})
"""Types that speak Anthropic's API."""

OPENAI_TYPES = frozenset({"openai", "azure", "google", "openai-compat", "openrouter", "vercel"})
"""Types that speak OpenAI's API: one class, whose routes begin with ``/v1``."""

PROVIDER_TYPES = (
    "openai",
    "anthropic",
    "azure",
    "bedrock",
    "google",
    "openai-compat",
    "openrouter",
    "vercel",
    "copilot",
    "gemini",
    "vertex",
)

DEFAULT_BASE_URLS: Mapping[str, str] = {
    "openai": "https://api.openai.com/v1/",
    "anthropic": "https://api.anthropic.com/",
    "copilot": "https://api.individual.githubcopilot.com",
    "gemini": "https://generativelanguage.googleapis.com/",
}
"""Where a provider without a configured address is reached, by type.

The other types have no address of their own: a guess would send the key to a stranger.
"""


@frozen(kw_only=True)
class BedrockConfig:
    """How to reach Anthropic's models on AWS Bedrock."""

    region: str = ""
    access_key: str = field(default="", repr=False)
    access_key_secret: str = field(default="", repr=False)
    model: str = ""
    small_fast_model: str = ""
    role_arn: str = ""
    external_id: str = ""
    protocol: str = "invoke-model"
    bearer_token: str = field(default="", repr=False)
    """Bedrock's API key, sent instead of a signature; empty: requests are signed."""
    resolved: ModelList | None = None
    """What is behind profiles and ARNs: names that AWS is asked for, and the models that it
    computes with then."""

    @property
    def invokes(self) -> bool:
        """Whether Bedrock is called by its own protocol, InvokeModel.

        The other one, ``mantle``, is Anthropic's API with a signature.
        """
        return self.protocol in ("", "invoke-model")


@frozen(kw_only=True)
class VertexConfig:
    """How to reach Anthropic's models on Google's Vertex AI."""

    project: str
    region: str
    """A place such as ``europe-west1``, a group of them (``eu``, ``us``), or ``global``."""
    credentials_file: str = ""
    """Of a service account or a workload identity; empty: what the machine has."""


@frozen(kw_only=True)
class KeyCommand:
    """A command that says a provider's key, which does not last."""

    command: str = field(repr=False)
    variable: str
    """Which names it, for logs."""
    expires_at: float | None = field(default=None, eq=False)
    """When the key ends that it said first, in Unix seconds; None: nobody knows."""


@frozen(kw_only=True)
class BreakerConfig:
    """Circuit breaker thresholds; times in seconds."""

    failure_threshold: int = 5
    interval: float = 10.0
    timeout: float = 30.0
    max_requests: int = 3


@frozen(kw_only=True)
class ProviderConfig:
    """One provider as its actor needs it.  Times in seconds."""

    name: str
    type: str
    base_url: str
    """With scheme; for OpenAI types the path contains ``/v1``."""
    keys: tuple[str, ...] = field(default=(), repr=False)
    key_command: KeyCommand | None = None
    """What says the only key again when that ends, or Bedrock's bearer token."""
    enabled: bool = True
    error: str | None = None
    """Why this provider cannot serve; it is listed, and answers 503."""
    way_out: str = ""
    """What an operator has to do about ``error``."""
    bedrock: BedrockConfig | None = None
    vertex: VertexConfig | None = None
    breaker: BreakerConfig | None = None
    allow_byok: bool = True
    actor_headers: Mapping[str, str] = field(factory=dict)
    """Header name for each attribute to send upstream: keys ``id``, ``username``, ``email``."""
    dump_dir: str = ""
    quoted: bool = True
    """The log may quote its error texts, which may quote requests."""
    no_key: bool = False
    """It wants no key (a server of one's own); requests go out without credentials."""
    websocket: bool = True
    """Whether the Responses API may be asked for over a WebSocket."""
    stream_options: bool = True
    """Whether usage is asked for on behalf of clients of the Chat Completions API."""
    keepalive_ping: float | None = None
    """Silence after which a waiting stream gets a keepalive, 0: never; None: as usual for its
    API."""
    models: ModelList | None = None
    """What is served, under which names; None: whatever is asked for, as it is."""
    group: tuple[tuple[str, int], ...] = ()
    """Providers of the same API, with their weights, that share what this one is asked for;
    empty: it answers alone."""
    fallback: tuple[str, ...] = ()
    """Names of other providers of the same API, used in their order when this one cannot
    answer."""
    fallback_after: float = 60.0
    """Seconds without the first event after which another provider is asked for a stream; 0:
    never on time alone."""
    max_retries: int = 0
    key_rest_max: float = 300.0
    """Longest rest of a key, whatever a provider asks for."""
    max_connections: int = 4096
    """Upstream connections per gateway worker, at most."""
    connect_timeout: float = 10.0
    first_byte_timeout: float = 600.0
    idle_timeout: float = 300.0
    """Longest silence of an upstream inside an answer."""
    ca_file: str = ""
    proxy: str = field(default="", repr=False)
    """Address of a proxy for this provider, with its scheme; empty: none."""

    # PERF: each request asks for these.
    invokes_bedrock: bool = field(init=False, eq=False, repr=False)
    """Whether it is called by Bedrock's own API, whatever its type."""
    speaks_openai: bool = field(init=False, eq=False, repr=False)
    alone: bool = field(init=False, eq=False, repr=False)
    """It has one key at most, and nobody answers in its place."""

    @alone.default
    def _alone(self) -> bool:
        return len(self.keys) <= 1 and not self.group and not self.fallback

    @invokes_bedrock.default
    def _invokes_bedrock(self) -> bool:
        return self.bedrock is not None and self.bedrock.invokes

    @speaks_openai.default
    def _speaks_openai(self) -> bool:
        return self.type in OPENAI_TYPES

    @property
    def speaks(self) -> str:
        """Whose API it speaks: providers stand in for others of the same."""
        if self.speaks_openai:
            return "openai"
        return "anthropic" if self.type in ANTHROPIC_TYPES else self.type
