"""Names of OpenTelemetry's semantic conventions, as far as our spans carry them, and what stands in
them.

Those for HTTP, URLs and errors are stable.  Those for generative AI are not, and the package that
has them marks them as such; so each is written down here, once, and a test compares.  They know no
name for money yet: that one is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from aigateway.actors.interception.routes import GEMINI_EMBEDDING, MODEL_CALL, MODERATION
from aigateway.actors.values.records import TokenUsage

__all__ = [
    "CONVERSATION",
    "COST",
    "DETAILS",
    "ERROR_TYPE",
    "FINISH_REASONS",
    "HTTP_METHOD",
    "HTTP_STATUS",
    "INPUT_MESSAGES",
    "OPERATION",
    "OUTPUT_MESSAGES",
    "PROVIDER",
    "REQUEST_MODEL",
    "REQUEST_STREAM",
    "RESPONSE_ID",
    "RESPONSE_MODEL",
    "TOOL_NAME",
    "URL_PATH",
    "URL_SCHEME",
    "USER_AGENT",
    "operation_of",
    "provider_of",
    "usage_of",
]

ERROR_TYPE: Final = "error.type"
HTTP_METHOD: Final = "http.request.method"
HTTP_STATUS: Final = "http.response.status_code"
URL_PATH: Final = "url.path"
URL_SCHEME: Final = "url.scheme"
USER_AGENT: Final = "user_agent.original"

FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
CONVERSATION: Final = "gen_ai.conversation.id"
OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
TOOL_NAME: Final = "gen_ai.tool.name"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"

DETAILS: Final = "gen_ai.client.inference.operation.details"
"""The event that tells what was asked and answered."""
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"

COST: Final = "aigateway.usage.cost_usd"

_PROVIDERS: Final[Mapping[str, str]] = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "vertex": "gcp.vertex_ai",
    "gemini": "gcp.gemini",
    "google": "gcp.gen_ai",
}
"""Types of providers that the conventions know by another name; a type that they do not know stands
for itself, as they allow."""


_CALLS: Final[Mapping[str, str]] = {
    "audio": "audio",
    "embeddings": "embeddings",
    "images": "image_generation",
    "moderations": "moderation",
    "rerank": "rerank",
}
"""Operations by the first word of a route of OpenAI's API."""


def provider_of(kind: str) -> str:
    """The conventions' name for a provider's type."""
    return _PROVIDERS.get(kind, kind)


def operation_of(kind: str, api: str, route: str) -> str:
    """What a recorded request to a provider of this type does.

    The conventions allow other words than theirs where none of theirs fits.
    """
    if api == GEMINI_EMBEDDING:
        return "embeddings"
    if api in (MODEL_CALL, MODERATION):
        return _CALLS.get(route.removeprefix("/v1").split("/")[1], "chat")
    return "generate_content" if kind == "gemini" else "chat"


def usage_of(records: Iterable[TokenUsage]) -> dict[str, Any]:
    """What was used, and who answered.

    The conventions count what was read from a cache, or written into it, as input; records do not.
    """
    found: dict[str, Any] = {}
    for record in records:
        cached, written = record.cache_read_input_tokens, record.cache_write_input_tokens
        for name, tokens in (
            (INPUT_TOKENS, record.input_tokens + cached + written),
            (OUTPUT_TOKENS, record.output_tokens),
            (CACHE_READ_TOKENS, cached),
            (CACHE_WRITE_TOKENS, written),
        ):
            found[name] = int(found.get(name, 0)) + tokens
        if record.msg_id:
            found[RESPONSE_ID] = record.msg_id
        model = record.metadata.get("provider_model")
        if isinstance(model, str) and model:
            found[RESPONSE_MODEL] = model
    return found
