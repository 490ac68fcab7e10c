"""Definitions of tools as providers take them, and calls as their servers expect them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provider_validators import VALIDATORS, subschemas
from server_schemas import SERVERS

from aigateway.actors.interception.routes import CHAT_COMPLETIONS, MESSAGES, RESPONSES
from aigateway.actors.interception.tool_keys import wanted_names
from aigateway.actors.interception.tool_rules import (
    ANTHROPIC,
    GEMINI,
    OPENAI,
    ToolRules,
    rules_for,
)
from aigateway.actors.interception.tool_schemas import (
    CUT,
    FittedTool,
    UnusableSchema,
    fit_tool,
)

ALL = (ANTHROPIC, OPENAI, GEMINI)
each_provider = pytest.mark.parametrize("rules", ALL, ids=lambda rules: rules.name)


def fitted(schema: Any, rules: ToolRules = ANTHROPIC, description: str = "A tool.") -> FittedTool:
    return fit_tool(description, json.dumps(schema).encode(), rules)


def shown(schema: Any, rules: ToolRules = ANTHROPIC) -> Any:
    return json.loads(fitted(schema, rules).schema)


def refusals(tool: FittedTool, rules: ToolRules) -> list[str]:
    validate = VALIDATORS[rules.name]
    return list(validate("bmcp_s_t", tool.description, json.loads(tool.schema)))


def sent(tool: FittedTool, arguments: Any) -> Any:
    """What the server gets of a model's arguments."""
    written = json.dumps(arguments)
    return json.loads(tool.way_back.arguments(written) if tool.way_back else written)


def of_one(schema: Any, rules: ToolRules = ANTHROPIC) -> Any:
    """What becomes of the schema of one property."""
    return shown({"type": "object", "properties": {"p": schema}}, rules)["properties"]["p"]


# -- what providers refuse


@each_provider
@pytest.mark.parametrize("server", SERVERS)
def test_no_provider_refuses_a_tool_of_a_real_servers_kind(server: str, rules: ToolRules) -> None:
    tool = fitted(SERVERS[server], rules, "x" * 3000)
    assert refusals(tool, rules) == []


@pytest.mark.parametrize("name", VALIDATORS)
def test_the_providers_would_refuse_many_of_them_as_they_are(name: str) -> None:
    validate = VALIDATORS[name]
    refused = [server for server, schema in SERVERS.items() if any(validate("t", "", schema))]
    assert len(refused) > len(SERVERS) / 2


any_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
KEYS = st.text(max_size=6) | st.sampled_from(
    ["$top", "top", "a[b]", "a_b", "a b", "type", "x" * 80]
)
TYPES = st.sampled_from(
    ["string", "number", "integer", "boolean", "object", "array", "null", "any", "Str", ""]
)


def _of_words(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    many, named = st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES | st.lists(TYPES, max_size=3) | any_value,
            "properties": named | any_value,
            "required": st.lists(KEYS, max_size=3) | any_value,
            "items": inner | many | any_value,
            "prefixItems": many | any_value,
            "additionalProperties": inner | st.booleans() | any_value,
            "patternProperties": named,
            "anyOf": many | any_value,
            "oneOf": many | any_value,
            "allOf": many | any_value,
            "not": inner,
            "if": inner,
            "then": inner,
            "else": inner,
            "dependentSchemas": named,
            "$ref": st.sampled_from(["#", "#/properties/a", "#/$defs/a", "#/$defs/top", "b", "#c"]),
            "$defs": named,
            "$id": KEYS,
            "$anchor": KEYS,
            "enum": st.lists(any_value, max_size=3) | any_value,
            "const": any_value,
            "default": any_value,
            "examples": any_value,
            "title": any_value,
            "description": any_value,
            "format": st.sampled_from(["date-time", "int32", "uri"]) | any_value,
            "pattern": st.sampled_from(["^a", "(?!a)", "(", "[", r"\p{L}", r"(?<n>a)\k<n>"])
            | any_value,
            "minimum": any_value,
            "exclusiveMinimum": any_value,
            "multipleOf": any_value,
            "minLength": any_value,
            "maxItems": any_value,
            "uniqueItems": any_value,
            "nullable": st.booleans(),
            "x-mine": any_value,
        },
    )


any_schema = st.recursive(
    st.booleans() | any_value | st.fixed_dictionaries({"type": TYPES}), _of_words, max_leaves=12
)


@given(schema=any_schema, written=any_value)
def test_whatever_a_server_writes_no_provider_refuses_what_comes_out(
    schema: Any, written: Any
) -> None:
    for rules in ALL:
        try:
            tool = fitted(schema, rules)
        except UnusableSchema:
            continue
        assert refusals(tool, rules) == []
        if tool.way_back is not None:
            # Whatever a model writes, it can be sent.
            json.loads(tool.way_back.arguments(json.dumps(written)))
            assert tool.way_back.arguments("{not JSON") == "{not JSON"


# -- the way back


_object_schemas = st.recursive(
    st.sampled_from([{"type": "string"}, {"type": "integer"}, {"type": ["string", "null"]}]),
    lambda inner: (
        st.builds(lambda i: {"type": "array", "items": i}, inner)
        | st.builds(
            lambda p: {"type": "object", "properties": p},
            st.dictionaries(KEYS, inner, min_size=1, max_size=4),
        )
    ),
    max_leaves=8,
)


@st.composite
def _called(draw: st.DrawFn) -> tuple[Any, Any]:
    """A schema, and arguments as its server expects them."""
    properties = draw(st.dictionaries(KEYS, _object_schemas, min_size=1, max_size=5))

    def value(schema: Any) -> Any:
        if "properties" in schema:
            return {key: value(inner) for key, inner in schema["properties"].items()}
        if "items" in schema:
            return [value(schema["items"]) for _ in range(2)]
        return draw(st.integers() | st.text(max_size=3))

    schema = {"type": "object", "properties": properties}
    return schema, value(schema)


def _as_the_model_writes(schema: Any, written: Any, value: Any) -> Any:
    """The same arguments with the keys of the written schema, whose order is the server's."""
    if "properties" in schema:
        pairs = zip(schema["properties"].items(), written["properties"].items(), strict=True)
        return {
            name: _as_the_model_writes(inner, below, value[key])
            for (key, inner), (name, below) in pairs
        }
    if "items" in schema:
        return [_as_the_model_writes(schema["items"], written["items"], one) for one in value]
    return value


@given(call=_called())
def test_calls_arrive_with_exactly_the_servers_keys(call: tuple[Any, Any]) -> None:
    schema, expected = call
    for rules in ALL:
        tool = fitted(schema, rules)
        arguments = _as_the_model_writes(schema, json.loads(tool.schema), expected)
        assert sent(tool, arguments) == expected


@given(st.sets(st.text(max_size=80), max_size=8))
def test_names_are_good_different_and_depend_on_no_order(keys: set[str]) -> None:
    names = wanted_names(sorted(keys), ANTHROPIC.key)
    assert names == wanted_names(sorted(keys, reverse=True), ANTHROPIC.key)
    fits = {key for key in keys if ANTHROPIC.key.fullmatch(key)}
    assert names.keys() == keys - fits
    assert len({*names.values(), *fits}) == len(keys)
    assert all(ANTHROPIC.key.fullmatch(name) for name in names.values())


def test_a_key_keeps_what_can_be_read_of_it_and_the_model_is_told_the_rest() -> None:
    schema = {"type": "object", "properties": {"$top": {"type": "integer", "description": "N."}}}
    assert shown(schema) == {
        "type": "object",
        "properties": {"top": {"type": "integer", "description": 'Stands for "$top". N.'}},
    }
    assert sent(fitted(schema), {"top": 5}) == {"$top": 5}


def test_a_key_never_takes_the_name_of_another() -> None:
    schema = {"type": "object", "properties": {"$top": {}, "top": {}, "@top": {}}}
    names = list(shown(schema)["properties"])
    assert names[1] == "top"
    assert len(set(names)) == 3
    assert sent(fitted(schema), dict(zip(names, [1, 2, 3], strict=True))) == {
        "$top": 1,
        "top": 2,
        "@top": 3,
    }


def test_values_keep_their_text() -> None:
    way_back = fitted({"type": "object", "properties": {"$a": {}, "b": {}}}).way_back
    assert way_back is not None
    written = '{"a":123456789012345678901234567890, "b": [1.50, 1e400, "\\u00e9"]}'
    assert way_back.arguments(written) == (
        '{"$a":123456789012345678901234567890,"b":[1.50, 1e400, "\\u00e9"]}'
    )


def test_keys_of_data_stay_as_the_model_writes_them() -> None:
    schema = {
        "type": "object",
        "properties": {"$top": {}, "data": {"type": "object", "properties": {"x": {}}}},
    }
    arguments = {"data": {"top": 1, "x": {"top": 2}}, "other": {"top": 3}}
    assert sent(fitted(schema), arguments) == arguments


def test_keys_are_mapped_back_in_branches_lists_and_maps() -> None:
    renamed = {"type": "object", "properties": {"@id": {"type": "string"}}}
    schema = {
        "type": "object",
        "properties": {
            "either": {"anyOf": [{"type": "string"}, renamed]},
            "list": {"type": "array", "items": renamed},
            "map": {"type": "object", "additionalProperties": renamed},
            "pair": {"type": "array", "items": [renamed, {"type": "string"}]},
        },
    }
    written = {"either": {"id": "1"}, "list": [{"id": "2"}], "map": {"k": {"id": "3"}}}
    assert sent(fitted(schema), {**written, "pair": [{"id": "4"}, "x"]}) == {
        "either": {"@id": "1"},
        "list": [{"@id": "2"}],
        "map": {"k": {"@id": "3"}},
        "pair": [{"@id": "4"}, "x"],
    }


@each_provider
def test_keys_are_mapped_back_however_deep_a_schema_contains_itself(rules: ToolRules) -> None:
    schema = {
        "type": "object",
        "properties": {"node": {"$ref": "#/$defs/N"}},
        "$defs": {
            "N": {
                "type": "object",
                "properties": {"@v": {"type": "integer"}, "kids": {"$ref": "#/$defs/L"}},
            },
            "L": {"type": "array", "items": {"$ref": "#/$defs/N"}},
        },
    }
    written: Any = {"v": 0}
    expected: Any = {"@v": 0}
    for depth in range(1, 9):
        written = {"v": depth, "kids": [written]}
        expected = {"@v": depth, "kids": [expected]}
    assert sent(fitted(schema, rules), {"node": written}) == {"node": expected}


def test_what_gemini_writes_as_text_arrives_as_the_object_that_was_meant() -> None:
    tool = fitted({"type": "object", "properties": {"metadata": {"type": "object"}}}, GEMINI)
    assert json.loads(tool.schema)["properties"]["metadata"]["type"] == "string"
    assert sent(tool, {"metadata": '{"a": 1}'}) == {"metadata": {"a": 1}}
    assert sent(tool, {"metadata": "no object"}) == {"metadata": "no object"}


# -- what becomes of what is odd


@pytest.mark.parametrize(
    ("given_schema", "made"),
    [
        ({"type": "array"}, {"type": "array", "items": {}}),
        ({"type": "any"}, {}),
        ({"type": ["string", "whatever"]}, {}),
        ({"type": "Dict"}, {"type": "object"}),
        ({"type": "datetime"}, {"type": "string"}),
        ({"type": None, "minimum": 1}, {"minimum": 1}),
        ({"type": "string", "enum": []}, {"type": "string"}),
        ({"type": "string", "enum": [1, 2]}, {"type": "integer", "enum": [1, 2]}),
        ({"const": "a"}, {"type": "string", "enum": ["a"]}),
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
        ({"type": "object", "required": ["gone"]}, {"type": "object"}),
        ({"minimum": 3, "exclusiveMinimum": True}, {"exclusiveMinimum": 3}),
        ({"type": "string", "pattern": "^(?!a)"}, {"type": "string"}),
        ({"type": "string", "pattern": r"^\d{3}-x$"}, {"type": "string", "pattern": r"^\d{3}-x$"}),
        ({"minLength": -1, "maxLength": "5", "maximum": True}, {}),
        (True, {}),
        (None, {}),
        ("object", {}),
        ({"allOf": [{"type": "string"}, {"maxLength": 3}]}, {"type": "string", "maxLength": 3}),
        ({"oneOf": [{"type": "string"}]}, {"type": "string"}),
        ({"anyOf": [{"type": "string"}, {}]}, {}),
        ({"$ref": "https://elsewhere.example/s.json"}, {}),
        ({"x-internal": 1, "$comment": "c", "type": "string"}, {"type": "string"}),
    ],
    ids=lambda value: json.dumps(value)[:40] if not isinstance(value, str) else value,
)
def test_an_odd_keyword_is_mended_or_dropped(given_schema: Any, made: Any) -> None:
    assert of_one(given_schema) == made


def test_a_property_that_may_not_be_given_is_not_shown() -> None:
    schema = {"type": "object", "properties": {"a": False, "b": {}}, "required": ["a", "b"]}
    assert shown(schema) == {"type": "object", "properties": {"b": {}}, "required": ["b"]}


def test_a_tuple_becomes_a_list_of_either_where_tuples_are_not_known() -> None:
    pair = {"type": "array", "items": [{"type": "string"}, {"type": "integer"}]}
    assert of_one(pair)["prefixItems"] == [{"type": "string"}, {"type": "integer"}]
    assert of_one(pair, OPENAI) == {
        "type": "array",
        "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
    }


def test_branches_at_the_root_become_one_object() -> None:
    def branch(kind: str, *keys: str) -> dict[str, Any]:
        properties = {"kind": {"const": kind}, **{key: {"type": "string"} for key in keys}}
        return {"type": "object", "properties": properties, "required": ["kind", *keys]}

    for word in ("anyOf", "oneOf"):
        assert shown({word: [branch("a", "x", "y"), branch("b", "y", "z"), {"type": "null"}]}) == {
            "type": "object",
            "properties": {
                "kind": {"type": "string", "enum": ["a", "b"]},
                "x": {"type": "string"},
                "y": {"type": "string"},
                "z": {"type": "string"},
            },
            "required": ["kind", "y"],
        }
    merged = shown({"allOf": [branch("a", "x"), {"properties": {"u": {}}, "required": ["u"]}]})
    assert list(merged["properties"]) == ["kind", "x", "u"]
    assert merged["required"] == ["kind", "x", "u"]


def test_a_reference_at_the_root_is_resolved() -> None:
    for place in ("$defs", "definitions"):
        inner = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
        assert shown({"$ref": f"#/{place}/In~1ner", place: {"In/ner": inner}}) == inner


def test_a_property_keeps_what_it_says_beside_a_reference() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/A", "description": "Mine."}},
        "$defs": {"A": {"type": "string", "description": "Its own.", "maxLength": 9}},
    }
    assert shown(schema)["properties"]["a"] == {
        "type": "string",
        "description": "Mine.",
        "maxLength": 9,
    }


@each_provider
def test_a_schema_that_grows_without_bound_is_cut(rules: ToolRules) -> None:
    names = [f"n{number}" for number in range(12)]
    everything = {name: {"$ref": f"#/$defs/{name}"} for name in names}
    schema = {
        "type": "object",
        "properties": everything,
        "$defs": {name: {"type": "object", "properties": everything} for name in names},
    }
    tool = fitted(schema, rules)
    assert refusals(tool, rules) == []
    assert len(list(subschemas(json.loads(tool.schema)))) < 3000


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "array"}, "not object"),
        ({"type": ["string", "null"]}, "not object"),
        ({"anyOf": [{"type": "string"}, {"type": "array"}]}, "no branch"),
        ([], "not an object"),
        (False, "not an object"),
        ({"properties": {str(n): {} for n in range(5000)}}, "too large"),
        ({"properties": {"a": {"description": "x" * 200_000}}}, "over"),
    ],
    ids=["array", "text", "branches", "list", "false", "wide", "long"],
)
def test_a_tool_of_which_nothing_can_be_made_is_left_out_with_a_reason(
    schema: Any, reason: str
) -> None:
    with pytest.raises(UnusableSchema, match=reason):
        fitted(schema)


def test_a_long_description_is_cut_only_where_that_is_asked_for() -> None:
    assert fitted({}, ANTHROPIC, "é" * 3000).description == "é" * 3000
    for rules in (OPENAI, GEMINI):
        tool = fitted({}, rules, "é" * 1025)
        assert len(tool.description) == 1024
        assert tool.description.endswith(CUT)
        assert "from 1025 to 1024" in " ".join(tool.notes)
        assert fitted({}, rules, "é" * 1024).notes == ()


def test_the_rules_are_those_of_who_answers() -> None:
    assert rules_for(MESSAGES, "claude-x") is ANTHROPIC
    assert rules_for(CHAT_COMPLETIONS, "gpt-x") is OPENAI
    assert rules_for(RESPONSES, "gpt-x") is OPENAI
    assert rules_for(CHAT_COMPLETIONS, "google/Gemini-3-pro") is GEMINI
