"""Requests in Bedrock's form: models, thinking, flags, fields; the rest keeps its bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.providers.bedrock.rewrite import (
    allowed_betas,
    invoke_path,
    model_behind,
    replacement_model,
    rewrite_body,
)
from aigateway.actors.values.models import parse_models
from aigateway.actors.values.provider_config import BedrockConfig

INTERLEAVED = "interleaved-thinking-2025-05-14"
EFFORT = "effort-2025-11-24"
CONTEXT = "context-management-2025-06-27"
SENT = f"{INTERLEAVED},{EFFORT},{CONTEXT},prompt-caching-scope-2026-01-05"

OPUS_45 = "global.anthropic.claude-opus-4-5-20251101-v1:0"
SONNET_45 = "global.anthropic.claude-sonnet-4-5-20250929-v1:0"
OPUS_46 = "us.anthropic.claude-opus-4-6-v1"
OLD = "anthropic.claude-sonnet-4-20250514-v1:0"
OPUS_47 = "us.anthropic.claude-opus-4-7"

THINKS = {"type": "enabled", "budget_tokens": 16000}

WHOLE: dict[str, Any] = {
    "model": "claude-sonnet-4-6",
    "max_tokens": 32000,
    "messages": [{"role": "user", "content": "Good morning."}],
    "thinking": {"type": "adaptive"},
    "metadata": {"user_id": "somebody"},
    "service_tier": "auto",
    "container": {"type": "ephemeral"},
    "inference_geo": "eu",
    "output_config": {"effort": "medium"},
    "context_management": {"edits": []},
    "stream": True,
}


def rewritten(model: str, betas: str = SENT, **changes: Any) -> dict[str, Any]:
    body = {name: value for name, value in {**WHOLE, **changes}.items() if value is not None}
    found = rewrite_body(
        json.dumps(body).encode(), model=model, betas=allowed_betas([betas], model)
    )
    document: dict[str, Any] = json.loads(found)
    return document


# -- models and paths


@pytest.mark.parametrize(
    ("requested", "used"),
    [
        ("claude-sonnet-4-6", "big"),
        ("claude-haiku-4-5", "small"),
        ("anthropic.claude-3-haiku", "small"),
        ("", "big"),
    ],
)
def test_a_haiku_is_replaced_by_the_small_model_and_anything_else_by_the_model(
    requested: str, used: str
) -> None:
    config = BedrockConfig(model="big", small_fast_model="small")
    assert replacement_model(requested, config) == used


def test_the_path_names_model_and_mode_percent_encoded() -> None:
    assert invoke_path("beddel", streaming=False) == "/model/beddel/invoke"
    assert invoke_path(SONNET_45, streaming=True) == (
        "/model/global.anthropic.claude-sonnet-4-5-20250929-v1%3A0/invoke-with-response-stream"
    )
    arn = "arn:aws:bedrock:eu-west-1:1:application-inference-profile/x"
    assert invoke_path(arn, streaming=False) == (
        "/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A1%3Aapplication-inference-profile%2Fx/invoke"
    )


# -- beta flags


def test_only_flags_that_bedrock_knows_are_kept_each_once() -> None:
    values = [f" {INTERLEAVED} ,nobody-knows", "", f"{INTERLEAVED},context-1m-2025-08-07,"]
    assert allowed_betas(values, "beddel") == (INTERLEAVED, "context-1m-2025-08-07")


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        ("beddel", (INTERLEAVED,)),
        (OPUS_45, (INTERLEAVED, EFFORT)),
        (SONNET_45, (INTERLEAVED, CONTEXT)),
        ("eu.anthropic.claude-haiku-4-5-20251001-v1:0", (INTERLEAVED, CONTEXT)),
        (OPUS_46, (INTERLEAVED,)),
    ],
)
def test_some_flags_are_for_some_models(model: str, kept: tuple[str, ...]) -> None:
    assert allowed_betas([SENT], model) == kept


# -- bodies


@pytest.mark.parametrize(
    ("model", "kept", "thinking"),
    [
        (OLD, set(), {"type": "enabled", "budget_tokens": 16000}),
        (OPUS_45, {"output_config"}, {"type": "enabled", "budget_tokens": 16000}),
        (SONNET_45, {"context_management"}, {"type": "enabled", "budget_tokens": 16000}),
        (OPUS_46, set(), {"type": "adaptive"}),
        ("anthropic.claude-sonnet-4-6", set(), {"type": "adaptive"}),
        (OPUS_47, {"output_config"}, {"type": "adaptive"}),
        ("beddel", {"output_config"}, {"type": "adaptive"}),
        ("eu.anthropic.claude-opus-4-10", {"output_config"}, {"type": "adaptive"}),
        ("eu.anthropic.claude-opus-4-1-20250805-v1:0", set(), THINKS),
        ("anthropic.claude-sonnet-4", set(), THINKS),
        ("us.anthropic.claude-3-7-sonnet-20250219-v1:0", set(), THINKS),
    ],
)
def test_what_a_model_does_not_take_is_removed(
    model: str, kept: set[str], thinking: dict[str, Any]
) -> None:
    found = rewritten(model)
    optional = {"output_config", "context_management"}
    assert found.keys() - optional == {
        "anthropic_version",
        "anthropic_beta",
        "max_tokens",
        "messages",
        "thinking",
    }
    assert found.keys() & optional == kept
    assert found["thinking"] == thinking
    assert found["anthropic_version"] == "bedrock-2023-05-31"
    assert found["anthropic_beta"] == list(allowed_betas([SENT], model))


def test_without_flags_there_is_no_list_of_flags() -> None:
    assert "anthropic_beta" not in rewritten("beddel", betas="unknown")


def test_a_version_of_the_clients_own_is_kept() -> None:
    assert rewritten("beddel", anthropic_version="mine")["anthropic_version"] == "mine"


@pytest.mark.parametrize(
    ("effort", "budget"),
    [("low", 6400), ("medium", 16000), ("high", 25600), ("max", 30400), ("odd", 25600)],
)
def test_the_thinking_budget_follows_the_effort(effort: str, budget: int) -> None:
    found = rewritten(OLD, output_config={"effort": effort})
    assert found["thinking"] == {"type": "enabled", "budget_tokens": budget}


def test_without_an_effort_it_is_high() -> None:
    assert rewritten(OLD, output_config=None)["thinking"]["budget_tokens"] == 25600


def test_a_budget_under_the_minimum_means_no_thinking() -> None:
    found = rewritten(OLD, max_tokens=2047)
    assert found["thinking"] == {"type": "disabled"}
    assert rewritten(OLD, max_tokens=2048)["thinking"]["budget_tokens"] == 1024


@pytest.mark.parametrize("max_tokens", [None, 0, -5, "many", True])
def test_without_max_tokens_thinking_is_left_for_bedrock_to_refuse(max_tokens: Any) -> None:
    found = rewritten(OLD, max_tokens=max_tokens)
    assert found["thinking"] == {"type": "adaptive"}
    assert "metadata" not in found


def test_a_budget_of_the_clients_own_is_kept() -> None:
    own = {"type": "enabled", "budget_tokens": 2000}
    assert rewritten(OLD, thinking=own)["thinking"] == own
    assert rewritten(OPUS_46, thinking=own)["thinking"] == own
    assert "thinking" not in rewritten(OLD, thinking=None)


def test_a_model_that_knows_no_budget_thinks_adaptively() -> None:
    own = {"type": "enabled", "budget_tokens": 2000}
    found = rewritten(OPUS_47, thinking=own, output_config={"effort": "low", "format": {"a": 1}})
    assert found["thinking"] == {"type": "adaptive"}
    assert found["output_config"] == {"effort": "low"}
    assert rewritten(OPUS_47, thinking={"type": "disabled"})["thinking"] == {"type": "disabled"}
    shown = {"type": "enabled", "budget_tokens": 2000, "display": "summarized"}
    assert rewritten(OPUS_47, thinking=shown)["thinking"] == {
        "type": "adaptive",
        "display": "summarized",
    }


def test_a_model_that_cannot_think_is_not_told_to() -> None:
    assert "thinking" not in rewritten("us.anthropic.claude-3-5-haiku-20241022-v1:0")


# -- what is behind a name

ARN = "arn:aws:bedrock:eu-west-1:1:application-inference-profile/x"


def test_behind_an_arn_is_what_the_setting_says_else_what_was_asked_for_else_a_new_model() -> None:
    told = BedrockConfig(resolved=parse_models(f"{ARN} = {OLD}"))
    assert model_behind(told, ARN, "claude-opus-5") == OLD
    assert model_behind(BedrockConfig(), ARN, "claude-sonnet-4-5") == "claude-sonnet-4-5"
    assert model_behind(BedrockConfig(), ARN) == ARN
    named = "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-sonnet-4-6"
    assert model_behind(BedrockConfig(), named, "fast") == named
    assert model_behind(BedrockConfig(), OLD, "fast") == OLD
    assert rewritten(ARN)["thinking"] == {"type": "adaptive"}


# -- flags and fields

TOOL = {"name": "t", "input_schema": {"type": "object"}}
SEARCH = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
ADVANCED = "advanced-tool-use-2025-11-20"
TOOL_SEARCH, EXAMPLES = "tool-search-tool-2025-10-19", "tool-examples-2025-10-29"
STREAMING = "fine-grained-tool-streaming-2025-05-14"
TOOLS = [
    SEARCH,
    {**TOOL, "defer_loading": True, "input_examples": [{}]},
    {**TOOL, "eager_input_streaming": True},
    {**TOOL, "eager_input_streaming": False},
]


@pytest.mark.parametrize("betas", ["", ADVANCED])
def test_a_new_model_searches_tools_with_bedrocks_flags(betas: str) -> None:
    found = rewritten(OPUS_47, betas, tools=TOOLS)
    assert set(found["anthropic_beta"]) == {TOOL_SEARCH, EXAMPLES, STREAMING}
    assert found["tools"] == [SEARCH, TOOLS[1], TOOL, TOOL]


@pytest.mark.parametrize("betas", ["", f"{ADVANCED},{TOOL_SEARCH}"])
def test_an_old_model_gets_neither_the_flags_nor_the_fields(betas: str) -> None:
    found = rewritten(OLD, betas, tools=TOOLS)
    assert found["anthropic_beta"] == [STREAMING]
    assert found["tools"] == [TOOL, TOOL, TOOL]
    older = rewritten("anthropic.claude-3-7-sonnet-20250219-v1:0", betas, tools=TOOLS[2:])
    assert "anthropic_beta" not in older
    assert older["tools"] == [TOOL, TOOL]


def test_flags_in_the_body_are_added_to_those_of_the_headers() -> None:
    own = [CONTEXT, INTERLEAVED, "unknown-2026-01-01", ADVANCED, 7]
    found = rewritten(SONNET_45, INTERLEAVED, anthropic_beta=own)
    assert found["anthropic_beta"] == [INTERLEAVED, CONTEXT, TOOL_SEARCH, EXAMPLES]
    assert "context_management" in found
    assert "anthropic_beta" not in rewritten(OLD, "", anthropic_beta=["unknown"])


def test_caches_lose_their_scope_wherever_they_are_and_nothing_else_changes() -> None:
    body = rb"""{"system":[ {"type":"text","text":"a","cache_control":
        {"type":"ephemeral","scope":"global", "ttl":"1h"}} , {"type":"text","text":"scope"}],
        "tools":[{"name":"t","input_schema":{"properties":{"scope":{}}},
        "cache_control": {"scope":"organization"} }],
        "messages":[{"role":"user","content":[{"type":"tool_result","content":
        [{"type":"text","text":"\u00e9","cache_control":{"type":"x","scope":1}}]},
        {"type":"text","text":"\"scope\""}]},{"role":"assistant","content":"\"scope\""}]}"""
    expected = (
        body.replace(b'"scope":"global", ', b"")
        .replace(b'"scope":"organization"', b"")
        .replace(b',"scope":1}', b"}")
        .replace(b"{", b'{"anthropic_version":"bedrock-2023-05-31",', 1)
    )
    found = rewrite_body(body, model=OPUS_47, betas=())
    assert found == expected
    assert json.loads(found)["tools"][0]["input_schema"] == {"properties": {"scope": {}}}


@pytest.mark.parametrize("field", ["speed", "diagnostics", "tags", "metadata", "service_tier"])
def test_fields_that_bedrock_refuses_go_with_their_flags(field: str) -> None:
    for model in (OLD, OPUS_47):
        found = rewritten(model, "fast-mode-2026-02-01", **{field: "x"})
        assert field not in found
        assert "anthropic_beta" not in found


# -- bytes


def test_what_is_not_edited_keeps_its_bytes() -> None:
    body = (
        b'\n {  "model" : "claude-x",\n  "messages": [ {"role":"user", "content":'
        b'"\\u00e9 \xc3\xa9"} ],\t"stream":true , "temperature":1.0, "metadata" :{ } }\n'
    )
    assert rewrite_body(body, model="m", betas=()) == (
        b'\n {"anthropic_version":"bedrock-2023-05-31",'
        b'  "messages": [ {"role":"user", "content":"\\u00e9 \xc3\xa9"} ]'
        b' , "temperature":1.0 }\n'
    )


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b"{}", b'{"anthropic_version":"bedrock-2023-05-31"}'),
        (b" { } ", b' {"anthropic_version":"bedrock-2023-05-31" } '),
        (b'{"model":"x","model":"y"}', b'{"anthropic_version":"bedrock-2023-05-31"}'),
        (b'{"mod\\u0065l":"x","a":1}', b'{"anthropic_version":"bedrock-2023-05-31","a":1}'),
        (b'{"anthropic_version":"v"}', b'{"anthropic_version":"v"}'),
        (b'{"anthropic_version":"v","stream":true}', b'{"anthropic_version":"v"}'),
        (b'{"a":"\\ud800","model":1}', b'{"anthropic_version":"bedrock-2023-05-31","a":"\\ud800"}'),
        (b'{"a":"\xff","model":1}', b'{"anthropic_version":"bedrock-2023-05-31","a":"\xff"}'),
        (b'{"a":1,"a":[2]}', b'{"anthropic_version":"bedrock-2023-05-31","a":1,"a":[2]}'),
        (b'{"a":1,"b":2,"a":3}', b'{"anthropic_version":"bedrock-2023-05-31","a":1,"b":2,"a":3}'),
        (
            b'{"a":"x","a":"y", "b":1}',
            b'{"anthropic_version":"bedrock-2023-05-31","a":"x","a":"y", "b":1}',
        ),
        (b"[1]", b"[1]"),
        (b'"{"', b'"{"'),
        (b"null", b"null"),
    ],
)
def test_odd_bodies(body: bytes, result: bytes) -> None:
    assert rewrite_body(body, model="m", betas=()) == result


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["1", "[]", '"}"', "{ }"]))))
def test_names_that_are_written_twice_change_nothing_else(pairs: list[tuple[str, str]]) -> None:
    inner = ", ".join(f'"{name}" :{value}' for name, value in pairs)
    version = '"anthropic_version":"bedrock-2023-05-31"' + ("," if pairs else "")
    found = rewrite_body(f"{{{inner}}}".encode(), model="m", betas=())
    assert found.decode() == f"{{{version}{inner}}}"


NAMES = st.sampled_from(
    ["model", "stream", "metadata", "thinking", "max_tokens", "output_config", "a", "é", "b c"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, VALUES), st.sampled_from([None, 1, 4]), st.booleans())
def test_any_object_comes_out_as_the_object_it_should_be(
    body: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    raw = json.dumps(body, indent=indent, ensure_ascii=ascii_only).encode()
    found = json.loads(rewrite_body(raw, model=OLD, betas=(INTERLEAVED,)))
    removed = {"model", "stream", "metadata", "output_config"}
    expected = {name: value for name, value in body.items() if name not in removed}
    thinking = found.get("thinking")
    if thinking != expected.get("thinking"):
        assert expected["thinking"]["type"] == "adaptive"
        expected["thinking"] = {"type": "disabled"}
    expected["anthropic_version"] = "bedrock-2023-05-31"
    expected["anthropic_beta"] = [INTERLEAVED]
    assert found == expected
