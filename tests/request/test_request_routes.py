"""Every row of every provider type's route table, and every way round it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.interception.gemini_paths import model_path
from aigateway.actors.interception.routes import (
    Intercept,
    InvalidBaseURL,
    Passthrough,
    resolve,
    upstream_url,
)
from aigateway.actors.values.provider_config import (
    ANTHROPIC_TYPES,
    DEFAULT_BASE_URLS,
    OPENAI_TYPES,
)

ANTHROPIC_ROWS = [
    ("/v1/messages", Intercept("messages", "/v1/messages")),
    ("/v1/messages/", None),
    ("/v1/messages/count_tokens", Passthrough("/v1/messages/count_tokens")),
    ("/v1/messages/count_tokens/", None),
    ("/v1/messages/batches", Passthrough("/v1/messages/batches")),
    ("/v1/messages/batches/msgbatch_1/results", Passthrough("/v1/messages/batches/")),
    ("/v1/files", Passthrough("/v1/files")),
    ("/v1/files/file_1/content", Passthrough("/v1/files/")),
    ("/v1/filesx", None),
    ("/v1/models", Passthrough("/v1/models")),
    ("/v1/models/", Passthrough("/v1/models/")),
    ("/v1/models/claude-sonnet-4-5", Passthrough("/v1/models/")),
    ("/v1/modelsx", None),
    ("/api/event_logging", Passthrough("/api/event_logging/")),
    ("/api/event_logging/", Passthrough("/api/event_logging/")),
    ("/api/event_logging/batch/v2", Passthrough("/api/event_logging/")),
    ("/api/event_loggingx", None),
    ("/v1/chat/completions", None),
    ("/v1/organizations/api_keys", None),
    ("/messages", None),
    ("/v1", None),
    ("/", None),
    ("", None),
    ("v1/messages", None),
]
OPENAI_ROWS = [
    ("/v1/chat/completions", Intercept("chat-completions", "/v1/chat/completions")),
    ("/v1/chat/completions/", None),
    ("/v1/chat/completions/chatcmpl-1", None),
    ("/v1/responses", Intercept("responses", "/v1/responses")),
    ("/v1/responses/", None),
    ("/v1/responses/compact", Intercept("compaction", "/v1/responses/compact")),
    ("/v1/responses/compact/", None),
    ("/v1/responses/%63ompact", None),
    ("/v1/responses/compact;a=b", None),
    ("/v1/responses/Compact", None),
    ("/v1/responses/compact/x", Passthrough("/responses/")),
    ("/v1/responses/input_tokens", Passthrough("/responses/")),
    ("/v1/responses/resp_1", Passthrough("/responses/")),
    ("/v1/responses/resp_1/input_items", Passthrough("/responses/")),
    ("/v1/conversations", Passthrough("/conversations")),
    ("/v1/conversations/", Passthrough("/conversations/")),
    ("/v1/conversations/conv_1", Passthrough("/conversations/")),
    ("/v1/models", Passthrough("/models")),
    ("/v1/models/", Passthrough("/models/")),
    ("/v1/models/ft:gpt-4.1:acme::7p4lURel", Passthrough("/models/")),
    ("/v1/files", Passthrough("/files")),
    ("/v1/files/file-1/content", Passthrough("/files/")),
    ("/v1/batches", Passthrough("/batches")),
    ("/v1/batches/batch_1/cancel", Passthrough("/batches/")),
    ("/v1/uploads", None),
    ("/v1/completions", None),
    ("/v1/embeddings", Intercept("model-call", "/v1/embeddings")),
    ("/v1/embeddings/", None),
    ("/v1/Embeddings", None),
    ("/v1/images/generations", Intercept("model-call", "/v1/images/generations")),
    ("/v1/images/edits", Intercept("model-call", "/v1/images/edits")),
    ("/v1/images/variations", Intercept("model-call", "/v1/images/variations")),
    ("/v1/images", None),
    ("/v1/audio/speech", Intercept("model-call", "/v1/audio/speech")),
    ("/v1/audio/transcriptions", Intercept("model-call", "/v1/audio/transcriptions")),
    ("/v1/audio/translations", Intercept("model-call", "/v1/audio/translations")),
    ("/v1/audio/voices", None),
    ("/v1/moderations", Intercept("moderation", "/v1/moderations")),
    ("/v1/rerank", Intercept("model-call", "/v1/rerank")),
    ("/v1/admin/api_keys", None),
    ("/v1/messages", None),
    ("/chat/completions", None),
    ("/v1/v1/models", None),
    ("/v1models", None),
    ("/v1", None),
    ("/v1/", None),
]
COPILOT_ROWS = [
    ("/chat/completions", Intercept("chat-completions", "/chat/completions")),
    ("/responses", Intercept("responses", "/responses")),
    ("/responses/compact", Intercept("compaction", "/responses/compact")),
    ("/responses/compact/", None),
    ("/embeddings", Intercept("model-call", "/embeddings")),
    ("/audio/speech", Passthrough("/")),
    ("/v1/messages", Intercept("messages", "/v1/messages")),
    ("/responses/", None),
    ("/responses/resp_1", Passthrough("/")),
    ("/models", Passthrough("/models")),
    ("/models/gpt-5", Passthrough("/models/")),
    ("/agents", Passthrough("/agents/")),
    ("/agents/a/b", Passthrough("/agents/")),
    ("/mcp/", Passthrough("/mcp/")),
    ("/mcp/x", Passthrough("/mcp/")),
    ("/.well-known/", Passthrough("/.well-known/")),
    ("/.well-known/oauth-authorization-server", Passthrough("/.well-known/")),
    ("/_ping", Passthrough("/_ping")),
    ("/_ping/", Passthrough("/")),
    ("/auto", Passthrough("/auto")),
    ("/v1/chat/completions", Passthrough("/")),
    ("/", Passthrough("/")),
    ("/some/new/route", Passthrough("/")),
    ("/chat/completions/", None),
    ("/Chat/Completions", None),
    ("/v1/messages;a=b", None),
    ("/x/../responses", None),
    ("/v1/models", Passthrough("/")),
]


def every_row() -> list[tuple[str, str, object]]:
    rows = [(kind, rest, to) for kind in sorted(ANTHROPIC_TYPES) for rest, to in ANTHROPIC_ROWS]
    rows += [(kind, rest, to) for kind in sorted(OPENAI_TYPES) for rest, to in OPENAI_ROWS]
    return rows + [("copilot", rest, to) for rest, to in COPILOT_ROWS]


@pytest.mark.parametrize(("provider_type", "rest", "expected"), every_row())
def test_each_path_goes_where_its_providers_table_says(
    provider_type: str, rest: str, expected: object
) -> None:
    assert resolve(provider_type, "POST", rest) == expected


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_a_route_takes_any_ordinary_method(method: str) -> None:
    assert resolve("anthropic", method, "/v1/messages") == Intercept("messages", "/v1/messages")
    assert resolve("openai", method, "/v1/models") == Passthrough("/models")


@pytest.mark.parametrize("method", ["TRACE", "trace", "TRACK", "CONNECT"])
@pytest.mark.parametrize("rest", ["/v1/messages", "/v1/models"])
def test_a_method_that_could_echo_the_key_is_not_served(method: str, rest: str) -> None:
    assert resolve("anthropic", method, rest) is None


def test_an_unknown_provider_type_has_no_routes() -> None:
    assert resolve("unknown", "POST", "/v1/messages") is None


MODEL = "/v1beta/models/gemini-2.5-pro"
GENERATE = Intercept("gemini", "/v1beta/models/*:generateContent", "gemini-2.5-pro", False)
STREAM = Intercept("gemini", "/v1beta/models/*:streamGenerateContent", "gemini-2.5-pro", True)
GEMINI_ROWS = [
    ("POST", f"{MODEL}:generateContent", GENERATE),
    ("POST", f"{MODEL}:streamGenerateContent", STREAM),
    ("post", f"{MODEL}:generateContent", GENERATE),
    ("POST", f"{MODEL}:countTokens", Passthrough("/models/*:countTokens")),
    (
        "POST",
        "/v1/models/tuned~1@x:generateContent",
        Intercept("gemini", "/v1/models/*:generateContent", "tuned~1@x", False),
    ),
    ("GET", MODEL, Passthrough("/models/")),
    ("GET", "/v1/models", Passthrough("/models")),
    ("GET", "/v1alpha/models", Passthrough("/models")),
    ("POST", "/v1beta/cachedContents", Passthrough("/cachedContents")),
    ("GET", "/v1beta/cachedContents/c1", Passthrough("/cachedContents/")),
    ("PATCH", "/v1beta/cachedContents/c1", Passthrough("/cachedContents/")),
    ("DELETE", "/v1beta/cachedContents/c1", Passthrough("/cachedContents/")),
    # A list of what everybody has cached.
    ("GET", "/v1beta/cachedContents", None),
    ("POST", "/v1beta/cachedContents/c1", None),
    ("GET", "/v1beta/cachedContents/c1/x", None),
    # Ways round the records.
    ("GET", f"{MODEL}:generateContent", None),
    ("GET", f"{MODEL}:streamGenerateContent", None),
    ("POST", f"{MODEL}%3AgenerateContent", None),
    ("POST", f"{MODEL}%3agenerateContent:countTokens", None),
    ("POST", f"{MODEL}:generatecontent", None),
    ("POST", f"{MODEL}:generateContent/", None),
    ("POST", f"{MODEL};x:generateContent", None),
    ("POST", f"{MODEL}:generateContent;x", None),
    ("POST", f"{MODEL}:generateContent:countTokens", None),
    ("POST", "/v1beta//models/x:generateContent", None),
    ("POST", "/v1beta/models/../models/x:generateContent", None),
    # What is not recorded is not passed on.
    (
        "POST",
        f"{MODEL}:embedContent",
        Intercept("gemini-embedding", "/v1beta/models/*:embedContent", "gemini-2.5-pro"),
    ),
    ("GET", f"{MODEL}:embedContent", None),
    ("POST", f"{MODEL}:batchGenerateContent", None),
    ("POST", f"{MODEL}:predict", None),
    ("POST", "/v1beta/tunedModels/x:generateContent", None),
    ("POST", "/v1beta/interactions", None),
    ("POST", "/v1beta/files", None),
    ("POST", "/upload/v1beta/files", None),
    ("DELETE", MODEL, None),
    ("PATCH", MODEL, None),
    ("POST", "/v1beta/models", None),
    ("POST", "/models/x:generateContent", None),
    ("TRACE", MODEL, None),
    ("GET", "/", None),
    ("GET", "", None),
]


@pytest.mark.parametrize(("method", "rest", "expected"), GEMINI_ROWS)
def test_geminis_methods_stand_behind_the_model(method: str, rest: str, expected: object) -> None:
    assert resolve("gemini", method, rest) == expected


@pytest.mark.parametrize(
    ("rest", "name", "expected"),
    [
        (f"{MODEL}:generateContent", "fast", "/v1beta/models/fast:generateContent"),
        (MODEL, "fast", "/v1beta/models/fast"),
        (MODEL, "tunedModels/my one", "/v1beta/tunedModels/my%20one"),
        (f"{MODEL}:countTokens", "a:b?c", "/v1beta/models/a%3Ab%3Fc:countTokens"),
    ],
)
def test_a_path_can_name_another_model(rest: str, name: str, expected: str) -> None:
    path = model_path(rest)
    assert path is not None
    assert path.for_model(name) == expected


@pytest.mark.parametrize(
    "tail",
    [
        "..",
        "../messages",
        "x/../../messages",
        ".",
        "./x",
        "x/.",
        "..;/x",
        ".;a=b/x",
        "/x",
        "x//y",
        "x//",
        "%2e%2e/x",
        "%2E%2E/x",
        "x%2fy",
        "x%2Fy",
        "x%5cy",
        "x%5Cy",
        "x\\y",
        "%252e%252e/x",
        "x%00y",
        "x%0d%0ay",
        "x%7f",
        "x y",
        "x\ty",
        "x\r\ny",
        "x\x00",
        "x?y",
        "x#y",
        "x%",
        "x%2",
        "x%zz",
        "ü",
        "x\n",
    ],
)
@pytest.mark.parametrize(
    ("provider_type", "root"), [("anthropic", "/v1/models/"), ("openai", "/v1/responses/")]
)
def test_a_path_that_hops_may_read_differently_is_unknown(
    provider_type: str, root: str, tail: str
) -> None:
    assert resolve(provider_type, "GET", root + tail) is None


@pytest.mark.parametrize("tail", ["a..b", "...", "a.b", "a%20b", "a%3Ab", "a;b=c", "~a", "a@b"])
def test_an_odd_but_unambiguous_name_is_passed_on(tail: str) -> None:
    assert resolve("anthropic", "GET", "/v1/models/" + tail) == Passthrough("/v1/models/")


@given(st.text(alphabet="/.%;25eEfF\\cav1 modelsrp", max_size=30))
def test_nothing_that_resolves_can_leave_its_subtree(tail: str) -> None:
    rest = "/v1/models/" + tail
    if resolve("openai", "GET", rest) is not None:
        assert not {".", "..", ""} & set(rest[1:].split("/")[:-1])
        assert rest.rsplit("/", 1)[1] not in (".", "..")
        assert not any(code in rest.lower() for code in ("%2e", "%2f", "%25", "%5c", "\\"))


URL_ROWS = [
    ("anthropic", "http://x/api", "/v1/messages", "", "http://x/api/v1/messages"),
    ("anthropic", "http://x/api/", "/v1/messages", "", "http://x/api/v1/messages"),
    ("anthropic", "http://x", "/v1/messages", "beta=true", "http://x/v1/messages?beta=true"),
    ("bedrock", "https://x/", "/v1/models", "", "https://x/v1/models"),
    ("openai", "http://x/api", "/v1/chat/completions", "", "http://x/api/chat/completions"),
    ("openai", "http://x/api", "/v1/models", "", "http://x/api/models"),
    ("openai", "http://x", "/v1/models", "", "http://x/models"),
    ("openai", "https://x/v1/", "/v1/models/m", "a=%2F&b", "https://x/v1/models/m?a=%2F&b"),
    ("openai", "https://x/v1", "/other", "", "https://x/v1/other"),
    ("azure", "https://x/openai/v1?v=1", "/v1/responses", "", "https://x/openai/v1/responses?v=1"),
    ("azure", "https://x/v1/?v=1", "/v1/models", "limit=2", "https://x/v1/models?v=1&limit=2"),
    *(
        ("azure", f"https://x{base}?api-version=1", rest, query, f"https://x{expected}")
        for base in ("", "/openai", "/openai/v1", "/openai/deployments/one")
        for rest, query, expected in (
            (
                "/openai/deployments/d/embeddings",
                "api-version=2",
                "/openai/deployments/d/embeddings?api-version=2",
            ),
            ("/openai/responses", "", "/openai/responses?api-version=1"),
        )
    ),
    ("azure", "https://x", "/v1/responses", "", "https://x/openai/v1/responses"),
    ("azure", "https://x/openai/", "/openai/v1/files", "", "https://x/openai/v1/files"),
    ("azure", "https://x/proxy", "/openai/v1/models", "", "https://x/proxy/models"),
    (
        "azure",
        "https://x/openai/deployments/d?api-version=1",
        "/v1/chat/completions",
        "",
        "https://x/openai/deployments/d/chat/completions?api-version=1",
    ),
    ("copilot", "https://x", "/v1/messages", "", "https://x/v1/messages"),
    ("copilot", "https://x:8443/a//", "/models", "", "https://x:8443/a/models"),
    ("copilot", "https://[::1]:8443", "/models", "", "https://[::1]:8443/models"),
    ("gemini", "https://x/", "/v1beta/models", "pageSize=2", "https://x/v1beta/models?pageSize=2"),
    (
        "gemini",
        "https://x/google",
        f"{MODEL}:countTokens",
        "",
        f"https://x/google{MODEL}:countTokens",
    ),
]


@pytest.mark.parametrize(("provider_type", "base", "rest", "query", "expected"), URL_ROWS)
def test_the_upstream_address_is_base_and_rest_without_the_route_prefix(
    provider_type: str, base: str, rest: str, query: str, expected: str
) -> None:
    assert upstream_url(provider_type, base, rest, query) == expected


@pytest.mark.parametrize(
    "base",
    [
        "not_url",
        "",
        "ftp://x",
        "//x/v1",
        "https://",
        "https://:443/",
        "https://x:0/",
        "https://x:port/",
        "https://x:99999/",
        "https://[::1/",
        "https://x y/",
        "https://x/a\r\nb",
        " https://x/",
    ],
)
def test_a_base_url_that_is_none_is_refused_without_being_shown(base: str) -> None:
    with pytest.raises(InvalidBaseURL, match=r"^invalid provider base URL$"):
        upstream_url("openai", base, "/v1/models")


@pytest.mark.parametrize(
    ("rest", "query"), [("/a b", ""), ("/a\r\n", ""), ("/a?b", ""), ("/a", "b c"), ("/a", "b\r\nc")]
)
def test_what_would_break_the_request_line_is_refused(rest: str, query: str) -> None:
    with pytest.raises(ValueError, match="characters that no URL may have"):
        upstream_url("anthropic", "http://x", rest, query)


def test_a_default_address_is_one_that_paths_can_follow() -> None:
    assert DEFAULT_BASE_URLS["openai"] == "https://api.openai.com/v1/"
    assert DEFAULT_BASE_URLS["anthropic"] == "https://api.anthropic.com/"
    assert DEFAULT_BASE_URLS["copilot"] == "https://api.individual.githubcopilot.com"
    for provider_type, base in DEFAULT_BASE_URLS.items():
        assert upstream_url(provider_type, base, "/v1/models").startswith(base.rstrip("/"))
