"""Checksums of prompts: equal for what a cache takes as equal, and for nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.interception.fingerprint import MOST_MESSAGES, fingerprint
from aigateway.actors.interception.opening import open_interception
from aigateway.actors.interception.routes import (
    CHAT_COMPLETIONS,
    COMPACTION,
    MESSAGES,
    RESPONSES,
)
from aigateway.actors.values.prompt_parts import CHECKSUM_SIZE, decoded

KEY = b"k" * 32
MARK = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}


def compact(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


class Read:
    """A fingerprint, part by part."""

    def __init__(self, data: bytes) -> None:
        found = decoded(data)
        assert found is not None
        joined = found.joined
        self.all = tuple(
            joined[at : at + CHECKSUM_SIZE] for at in range(0, len(joined), CHECKSUM_SIZE)
        )
        self.tools, self.system, *messages = self.all
        self.messages = tuple(messages)
        self.marks, self.explicit = found.marks, found.explicit
        self.ttl, self.aside = found.ttl, found.aside


def read(document: dict[str, Any] | bytes, api: str = MESSAGES, key: bytes = KEY) -> Read:
    body = document if isinstance(document, bytes) else compact(document)
    written = open_interception(api, id="i", body=body).written
    assert written is not None
    return Read(fingerprint(key, written))


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text, **more}]}


def request(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": list(messages), **more}


def test_long_parts_that_differ_in_one_letter_anywhere_have_other_checksums() -> None:
    """Also where one of them was read before, and again after the other one."""
    text = "a long text of which much is the same " * 50
    one = read(request(user(text))).messages
    for place in range(0, len(text), 37):
        other = f"{text[:place]}~{text[place + 1 :]}"
        assert read(request(user(other))).messages != one
        assert read(request(user(text))).messages == one


def test_parts_are_the_same_however_many_others_were_read_meanwhile() -> None:
    texts = [f"{at} {'x' * 3_000_000}" for at in range(8)]
    first = [read(request(user(text))).messages for text in texts]
    assert len({*first}) == 8
    assert [read(request(user(text))).messages for text in texts] == first


def test_equal_parts_have_equal_checksums_and_others_have_others() -> None:
    tools = [{"name": "Bash", "input_schema": {"type": "object"}}]
    first = read(request(user("one"), system="be brief", tools=tools))
    later = read(request(user("one"), user("two"), system="be brief", tools=tools))
    assert later.messages[:1] == first.messages
    assert (later.tools, later.system) == (first.tools, first.system)
    assert len({*later.all}) == 4
    changed = read(request(user("One"), system="be brief.", tools=[*tools, tools[0]]))
    assert not {*changed.all} & {*first.all}


def test_another_key_gives_other_checksums() -> None:
    document = request(user("one"), system="be brief")
    assert not {*read(document).all} & {*read(document, key=b"l" * 32).all}


def test_marks_move_and_change_nothing() -> None:
    system = [{"type": "text", "text": "be brief"}]
    marked = [{**system[0], "cache_control": MARK}]
    plain = read(request(user("one"), user("two"), system=system))
    found = read(request(user("one", cache_control=MARK), user("two"), system=marked))
    assert found.all == plain.all
    assert (plain.marks, found.marks) == ((), (1, 2))
    assert found.explicit
    # A tool's mark stands at the tools.
    tools = [{"name": "Bash", "cache_control": MARK}]
    with_tools = read(request(user("one"), user("two", cache_control=MARK), tools=tools))
    assert with_tools.marks == (0, 3)
    assert with_tools.tools == read(request(user("one"), tools=[{"name": "Bash"}])).tools


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("space", ["", " "])
def test_a_mark_may_stand_before_or_behind_other_members(before: bool, space: str) -> None:
    mark = f'"cache_control":{space}{{"type":{space}"ephemeral"}}'
    text = '"type":"text","text":"one"'
    block = f"{mark},{space}{text}" if before else f"{text},{space}{mark}"
    bare = f"{space}{text}" if before else text
    body = '{{"model":"m","messages":[{{"role":"user","content":[{{{}}}]}}]}}'
    found = read(body.format(block).encode())
    assert found.marks == (2,)
    if not (before and space):
        assert found.messages == read(body.format(bare).encode()).messages


def test_a_mark_of_null_is_none() -> None:
    found = read(request(user("one", cache_control=None)))
    assert found.marks == ()
    assert found.messages == read(request(user("one"))).messages


def test_words_about_marks_are_words() -> None:
    told = 'set "cache_control": {"type": "ephemeral"}, please'
    assert read(request(user(told))).marks == ()
    assert read(request(user(told))).messages != read(request(user("set , please"))).messages


def test_one_text_by_itself_is_the_same_as_in_a_list() -> None:
    alone = read(request({"role": "user", "content": 'said "é"'}))
    assert alone.messages == read(request(user('said "é"'))).messages
    assert alone.messages == read(request(user('said "é"', cache_control=MARK))).messages
    answer = read(request({"role": "assistant", "content": "said"}))
    assert answer.messages != read(request({"role": "user", "content": "said"})).messages


def test_a_mark_for_the_whole_prompt_stands_at_its_end() -> None:
    found = read(request(user("one"), user("two"), cache_control=HOUR))
    assert (found.marks, found.ttl) == ((3,), 3600)


def test_what_is_kept_the_shortest_says_how_long_a_prompt_is() -> None:
    system = [{"type": "text", "text": "be brief", "cache_control": HOUR}]
    assert read(request(user("one", cache_control=HOUR), system=system)).ttl == 3600
    assert read(request(user("one", cache_control=MARK), system=system)).ttl == 300
    assert read(request(user("one"))).ttl == 300


def test_the_head_that_claude_code_puts_on_its_system_prompt_is_left_out() -> None:
    def system(checksum: str) -> list[dict[str, Any]]:
        head = f"x-anthropic-billing-header: cc_version=2.1.9; cch={checksum};"
        return [{"type": "text", "text": head}, {"type": "text", "text": "be brief"}]

    one = read(request(user("one"), system=system("01234")))
    assert one.system == read(request(user("one"), system=system("abcde"))).system


def test_a_completions_first_instructions_are_its_system_prompt() -> None:
    system = {"role": "system", "content": "be brief"}
    more = {"role": "developer", "content": "very"}
    one = read(request(system, more, user("one")), CHAT_COMPLETIONS)
    assert len(one.messages) == 1
    assert not one.explicit
    assert one.ttl == 0
    assert read(request(system, user("one")), CHAT_COMPLETIONS).system != one.system
    assert read(request(user("one"), system), CHAT_COMPLETIONS).messages[0] == one.messages[0]
    # Some vendors take Anthropic's marks here.
    marked = {"role": "system", "content": [{"type": "text", "text": "x", "cache_control": MARK}]}
    assert read(request(marked, user("one")), CHAT_COMPLETIONS).marks == (1,)
    assert read(request(system), CHAT_COMPLETIONS).messages == ()


def test_a_response_is_compared_by_tools_instructions_and_items() -> None:
    items = [user("one"), {"type": "function_call_output", "call_id": "c", "output": "x"}]
    document = {
        "model": "m",
        "instructions": "be brief",
        "input": items,
        "tools": [{"type": "function", "name": "f"}],
        "prompt_cache_retention": "24h",
    }
    found = read(document, RESPONSES)
    assert (len(found.messages), found.ttl, found.explicit) == (2, 86_400, False)
    again = read({**document, "input": items[:1], "tools": []}, RESPONSES)
    assert (again.system, again.messages) == (found.system, found.messages[:1])
    assert again.tools != found.tools


def item(kind: str, id: str, **more: Any) -> dict[str, Any]:
    """An item as Codex 0.171 writes it."""
    return {"type": kind, "id": id, **more}


def said(role: str, text: str, id: str) -> dict[str, Any]:
    return item("message", id, role=role, content=[{"type": "input_text", "text": text}])


def codex(*items: dict[str, Any]) -> Read:
    return read({"model": "m", "input": list(items)}, RESPONSES)


def test_codex_has_its_tools_and_its_instructions_in_items() -> None:
    function = {"type": "custom", "name": "exec", "description": '"role":"user"'}
    space = {"type": "namespace", "name": "functions", "tools": [function]}
    tools = item("additional_tools", "at_1", role="developer", tools=[space])
    base = said("developer", "You are Codex", "msg_1")
    skills = said("developer", "<skills_instructions>", "msg_2")
    one = said("user", "one", "msg_3")
    whole = codex(tools, base, skills, one)
    assert len(whole.messages) == 2
    fewer = codex({**tools, "tools": []}, base, skills, one)
    assert fewer.tools != whole.tools
    assert fewer.all[1:] == whole.all[1:]
    other = codex(tools, said("developer", "You are terse", "msg_1"), skills, one)
    assert other.system != whole.system
    assert (other.tools, other.messages) == (whole.tools, whole.messages)
    assert codex(base, one).messages == whole.messages[1:]
    # What stands in fields counts as before.
    document = {"model": "m", "instructions": "be brief", "input": [base, one], "tools": [function]}
    assert len(read(document, RESPONSES).messages) == 2
    assert len(read({**document, "input": [tools, one]}, RESPONSES).messages) == 2
    # An item that tools are added with later is one of the conversation.
    assert len(codex(base, one, tools).messages) == 2
    # Nothing to compare is no mistake.
    assert codex(tools, base).messages == ()


def test_an_item_is_the_same_under_another_id() -> None:
    noted = {"turn_id": "01a2", "content_item_kinds": ["user.text"]}
    again = {**said("user", "one", "msg_2"), "internal_chat_message_metadata_passthrough": noted}
    assert codex(said("user", "one", "msg_1")).all == codex(said("user", "one", "msg_2")).all
    assert codex(said("user", "one", "msg_1")).all == codex(again).all
    assert codex(said("user", "one", "msg_1")).all != codex(said("user", "two", "msg_1")).all


@pytest.mark.parametrize(
    ("told", "sent"),
    [
        (
            {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "gAAA",
             "status": "completed"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": None,
             "encrypted_content": "gAAA"},
        ),
        (
            {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
             "content": [{"type": "output_text", "annotations": [], "text": "yes",
                          "logprobs": []}]},
            {"type": "message", "role": "assistant",
             "content": [{"type": "output_text", "text": "yes"}]},
        ),
        (
            {"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "c",
             "name": "look", "namespace": "mcp__files", "arguments": "{}"},
            {"type": "function_call", "id": "fc_1", "name": "look", "namespace": "mcp__files",
             "arguments": "{}", "call_id": "c"},
        ),
    ],
    ids=["reasoning", "message", "call"],
)  # fmt: skip
def test_an_item_of_an_answer_is_the_same_when_the_client_sends_it(
    told: dict[str, Any], sent: dict[str, Any]
) -> None:
    assert codex(told).all == codex(sent).all
    for name in sent.keys() - {"id", "content"}:
        assert codex({**sent, name: "other"}).all != codex(sent).all


def test_a_long_item_is_compared_as_it_is_written() -> None:
    one, two = (codex(said("user", "word " * 60_000, id)) for id in ("msg_1", "msg_2"))
    assert one.all != two.all
    assert one.all == codex(said("user", "word " * 60_000, "msg_1")).all


def test_ids_in_other_apis_are_words_of_the_prompt() -> None:
    def call(id: str) -> dict[str, Any]:
        block = {"type": "tool_use", "id": id, "name": "Bash", "input": {}}
        return {"role": "assistant", "content": [block]}

    assert read(request(call("toolu_1"))).messages != read(request(call("toolu_2"))).messages


@pytest.mark.parametrize(
    "more", [{"previous_response_id": "resp_1"}, {"conversation": "conv_1"}, {"input": "hello"}]
)
def test_a_response_whose_conversation_is_elsewhere_is_not_compared(more: dict[str, Any]) -> None:
    document = {"model": "m", "input": [user("one")], **more}
    written = open_interception(RESPONSES, id="i", body=compact(document)).written
    assert written is not None
    assert fingerprint(KEY, written) == b""


def test_a_compaction_is_not_compared() -> None:
    document = {"model": "m", "input": [user("one")]}
    written = open_interception(COMPACTION, id="i", body=compact(document)).written
    assert written is not None
    assert fingerprint(KEY, written) == b""


def test_a_prompt_without_messages_or_with_too_many_has_no_fingerprint() -> None:
    for messages in ([], [user("x")] * (MOST_MESSAGES + 1)):
        written = open_interception(MESSAGES, id="i", body=compact(request(*messages))).written
        assert written is not None
        assert fingerprint(KEY, written) == b""


def test_what_a_client_asks_for_itself_is_told_apart() -> None:
    title = "Please write a 5-10 word title for the following conversation: hi"
    assert read(request(user(title))).aside
    assert not read(request(user("one"))).aside
    assert codex(user("one"), {"type": "compaction_trigger"}).aside
    assert not codex(user("one"), {"type": "agent_message", "content": []}).aside


def test_the_prompt_is_let_go_of_when_the_answer_begins() -> None:
    opened = open_interception(MESSAGES, id="i", body=compact(request(user("one"))))
    opened.begin_answer(200, ())
    assert opened.written is None


@given(
    st.lists(st.text(max_size=30), min_size=1, max_size=5),
    st.lists(st.text(max_size=30), max_size=3),
    st.sampled_from([MESSAGES, CHAT_COMPLETIONS]),
)
def test_a_conversation_that_goes_on_begins_with_the_same_parts(
    said: list[str], more: list[str], api: str
) -> None:
    before = read(request(*map(user, said)), api)
    marked = [*map(user, said + more)]
    marked[-1]["content"][0]["cache_control"] = MARK
    after = read(request(*marked), api)
    assert after.messages[: len(said)] == before.messages
    assert len(after.messages) == len(said) + len(more)
