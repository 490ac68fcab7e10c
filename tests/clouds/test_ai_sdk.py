"""Vercel's AI SDK through a real gateway, set up by the very lines of the pages of providers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure_stub import KEY, AzureStub
from bedrock_stub import ACCESS_KEY, SECRET, BedrockStub
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider, imitate
from node_clients import run_node

PAGES = Path(__file__).parents[2] / "docs" / "providers"
CLAUDE = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
PROMPT = "tell me about angels on pins"

_BLOCK = re.compile(r"^```js\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_ASK = """
import { generateText, jsonSchema, streamText, tool } from "ai";

const model = %s;
const ask = { model, prompt: "tell me about angels on pins", maxRetries: 0 };
const whole = await generateText(ask);
let error = null;
const stream = streamText({ ...ask, onError: (told) => { error = String(told.error); } });
let streamed = "";
for await (const text of stream.textStream) streamed += text;
const numbers = { type: "number" };
const add = tool({
    inputSchema: jsonSchema({ type: "object", properties: { a: numbers, b: numbers } }),
    execute: async () => 8,
});
const called = await generateText({
    model, maxRetries: 0, tools: { add }, prompt: "use the tool add with 3 and 5",
    stopWhen: ({ steps }) => steps.length >= 2,
});
const named = (response) => response.headers["x-ai-gateway-interception-id"];
console.log(JSON.stringify({
    whole: whole.text,
    streamed,
    error,
    interceptions: [named(whole.response), named(await stream.response)],
    output: whole.usage.outputTokens,
    steps: called.steps.map((step) => step.toolCalls.map((call) => call.toolName)),
}));
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Providers by the names that the pages have for them."""
    with (
        ScriptedProvider(otherwise=imitate()) as provider,
        ScriptedProvider(otherwise=AzureStub()) as azure,
        ScriptedProvider(otherwise=BedrockStub()) as aws,
    ):
        signing = {
            "BEDROCK_BASE_URL": aws.url,
            "BEDROCK_REGION": "us-west-2",
            "BEDROCK_ACCESS_KEY": ACCESS_KEY,
            "BEDROCK_ACCESS_KEY_SECRET": SECRET,
        }
        resource = {"KEY": KEY, "BASE_URL": azure.url}
        upstreams = [
            Upstream("anthropic", provider.url),
            Upstream("openai", provider.url),
            Upstream("gemini", provider.url),
            Upstream("openai-compat", provider.url, name="vllm"),
            Upstream("azure", azure.url, key="", extra=resource),
            Upstream("bedrock", aws.url, name="aws", key="", extra=signing),
        ]
        with GatewayProcess(tmp_path_factory.mktemp("gw"), upstreams) as gateway:
            yield gateway


@pytest.mark.parametrize(
    ("page", "block", "model", "asked", "provider"),
    [
        ("anthropic", 0, "anthropic('claude-sonnet-4-5')", "claude-sonnet-4-5", "anthropic"),
        ("openai", 0, "openai('gpt-5')", "gpt-5", "openai"),
        ("openai", 0, "openai.chat('gpt-4.1')", "gpt-4.1", "openai"),
        ("azure", 0, "azure('prod-chat')", "prod-chat", "azure"),
        ("azure", 0, "azure.chat('prod-chat')", "prod-chat", "azure"),
        ("azure", 1, "azure.chat('prod-chat')", "prod-chat", "azure"),
        ("bedrock", 0, f"bedrock('{CLAUDE}')", CLAUDE, "aws"),
        ("bedrock", 1, f"anthropic('{CLAUDE}')", CLAUDE, "aws"),
        ("gemini", 0, "google('gemini-2.5-flash')", "gemini-2.5-flash", "gemini"),
        ("openai-compatible", 0, "vllm('qwen')", "qwen", "vllm"),
    ],
    ids=lambda value: str(value),
)
def test_the_lines_of_a_providers_page_set_it_up(
    gateway: GatewayProcess, page: str, block: int, model: str, asked: str, provider: str
) -> None:
    lines = _BLOCK.findall((PAGES / f"{page}.md").read_text())[block]
    assert "http://127.0.0.1:4001/" in lines
    script = lines.replace("http://127.0.0.1:4001", gateway.url) + _ASK % model
    told = run_node(script, {"KEY": gateway.key()})
    assert told["error"] is None
    assert told["whole"] == told["streamed"] != ""
    if (page, block) != ("bedrock", 0):
        # The imitation of Converse calls no tools.
        assert told["steps"] == [["add"], []]
    for interception in told["interceptions"]:
        found = gateway.records(interception)
        assert (found["provider_name"], found["model"]) == (provider, asked)
        assert found["error_type"] is None
        assert found["user_prompts"][0]["prompt"] == PROMPT
        (used,) = found["token_usages"]
        assert used["output_tokens"] == told["output"]
