from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.codec.reading import Object, members, text
from aigateway.actors.interception.conversation import (
    Conversation,
    Said,
    is_wrapper,
    kind_of,
    last_said,
)

REMINDER = "<system-reminder>\nBe brief.\n</system-reminder>"
PLACE = "<environment_context>\n  <cwd>/src</cwd>\n</environment_context>"


@pytest.mark.parametrize(
    "wrapped",
    [
        REMINDER,
        f"\n{REMINDER}\n\n{PLACE}\n",
        '<system-reminder kind="x">a</system-reminder>',
        "<SYSTEM-REMINDER></SYSTEM-REMINDER>",
        "<turn_aborted>\nThe user interrupted.\n</turn_aborted>",
    ],
)
def test_a_text_that_only_a_client_writes_is_a_wrapper(wrapped: str) -> None:
    assert is_wrapper(wrapped)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "fix it",
        f"{REMINDER} fix it",
        f"fix it {REMINDER}",
        f"{REMINDER} and {REMINDER}",
        "<html><body>what is wrong here?</body></html>",
        "<system-reminder>never closed",
        "<system-reminders>another name</system-reminders>",
    ],
)
def test_a_text_that_may_be_a_persons_is_no_wrapper(said: str) -> None:
    assert not is_wrapper(said)


def test_many_openings_without_an_end_take_no_longer_than_their_text() -> None:
    assert not is_wrapper("<system-reminder>" * 100_000)


def _messages(*said: tuple[str, object]) -> list[bytes]:
    return [msgspec.json.encode({"role": role, "text": what}) for role, what in said]


def _read(message: Object) -> Said:
    said = text(message.get("text"))
    return Said(text(message.get("role")) or "", [said] if said is not None else [])


def test_instructions_and_wrappers_behind_the_prompt_are_passed_over() -> None:
    messages = _messages(
        ("user", "fix it"), ("developer", "be kind"), ("user", REMINDER), ("system", "be brief")
    )
    assert last_said(Conversation(messages), _read) == (members(messages[0]), ["fix it"])


def test_an_answer_of_the_model_at_the_end_means_that_nobody_typed() -> None:
    messages = _messages(("user", "fix it"), ("assistant", "I did"), ("system", "be brief"))
    assert last_said(Conversation(messages), _read) == (members(messages[1]), [])


def test_a_message_of_results_is_not_passed_over_for_an_older_prompt() -> None:
    messages = _messages(("user", "fix it"), ("user", REMINDER))

    def read(message: Object) -> Said:
        said = _read(message)
        return Said(said.role, said.texts, is_result=said.texts == [REMINDER])

    found = last_said(Conversation(messages), read)
    assert found == (members(messages[1]), [])


def test_a_blank_message_is_not_passed_over_for_an_older_prompt() -> None:
    messages = _messages(("user", "fix it"), ("user", " \n"), ("system", "be brief"))
    assert last_said(Conversation(messages), _read) == (members(messages[1]), [])


def test_a_conversation_of_instructions_alone_has_no_prompt() -> None:
    assert last_said(Conversation(_messages(("system", "a"), ("developer", "b"))), _read) == (
        {},
        [],
    )
    assert last_said(Conversation([]), _read) == ({}, [])


@given(st.text())
def test_any_text_between_the_tags_of_a_wrapper_belongs_to_it(inside: str) -> None:
    assert is_wrapper(f"<system-reminder>{inside.replace('<', '')}</system-reminder>")


CLAUDE_CODE = ("User-Agent", "claude-cli/2.1.197 (external, cli)")
BILLING = "x-anthropic-billing-header: cc_version=2.1.197.000; cc_entrypoint=cli;"


@pytest.mark.parametrize(
    ("more", "system", "prompt", "kind"),
    [
        ([], BILLING, "Fix the build.", "user"),
        ([], BILLING, "quota", "user"),
        ([("X-Claude-Code-Agent-Id", "a1")], BILLING, "Count the files.", "agent"),
        ([("X-Claude-Code-Parent-Agent-Id", "a0")], BILLING, "Count the files.", "agent"),
        ([], f"{BILLING} cc_is_subagent=true;", "Count the files.", "agent"),
        (
            [],
            "Generate a concise, sentence-case title (3-7 words) that captures the topic.",
            "<session>\nFix the build.\n</session>",
            "title",
        ),
        ([], BILLING, "The user stepped away and is coming back. Recap in 9 words.", "summary"),
        (
            [],
            "Write a short summary label describing what these tool calls did.",
            "Tool: Bash",
            "summary",
        ),
        (
            [("X-Claude-Code-Agent-Id", "a1")],
            BILLING,
            "CRITICAL: Respond with TEXT ONLY. Do NOT call any tools.\nSummarize.",
            "compaction",
        ),
        (
            [],
            "You are a helpful AI assistant tasked with summarizing conversations.",
            "Go on.",
            "compaction",
        ),
        ([("X-App", "cli")], "", "quota", "client"),
        ([], BILLING, "[SUGGESTION MODE: Suggest what may be typed next.]", "client"),
    ],
)
def test_who_speaks_through_claude_code_is_told(
    more: list[tuple[str, str]], system: str, prompt: str, kind: str
) -> None:
    assert kind_of([CLAUDE_CODE, *more], system, prompt) == kind


def test_of_an_unknown_program_nobody_can_tell() -> None:
    assert kind_of([("User-Agent", "curl/8")], "", "Fix the build.") is None


GEMINI_CLI = [("User-Agent", "GeminiCLI/0.61.0/gemini-2.5-pro (linux; x64; terminal)")]
SNAPSHOTS = "You are a specialized system component responsible for distilling chat history."
ROUTER = "You are a specialized Task Routing AI. Your sole task is to analyze."


@pytest.mark.parametrize(
    ("system", "prompt", "kind"),
    [
        ("You are a non-interactive CLI agent.", "count to ten", "user"),
        (SNAPSHOTS, "First, reason in your scratchpad.", "compaction"),
        (ROUTER, "### Current Request", "client"),
        ("", "Summarize the user's primary intent or goal in this conversation in ONE", "title"),
        ("x", "Analyze *only* the content and structure of your immediately preceding", "client"),
    ],
)
def test_gemini_cli_speaks_for_itself_at_times(system: str, prompt: str, kind: str) -> None:
    assert kind_of(GEMINI_CLI, system, prompt) == kind


def test_what_gemini_cli_says_of_the_machine_is_a_wrapper() -> None:
    assert is_wrapper("<session_context>\nThis is the Gemini CLI.\n</session_context>")


OPENCODE = ("User-Agent", "opencode/1.18.33 ai-sdk/provider-utils/4.0.46 runtime/bun/1.3.14")
TITLES = "You are a title generator. You output ONLY a thread title. Nothing else."
SUMMARIES = "Summarize what was done in this conversation. Write like a pull request description."
CODER = "You are OpenCode, the best coding agent on the planet."
PARENT = ("X-Parent-Session-Id", "ses_1")


@pytest.mark.parametrize(
    ("more", "system", "prompt", "kind"),
    [
        ([], CODER, "count to ten", "user"),
        ([], TITLES, "Generate a title for this conversation:\n\ncount to ten", "title"),
        ([], SUMMARIES, "count to ten", "summary"),
        ([], CODER, "Here is the conversation so far:\n<conversation>\n[User]: a", "compaction"),
        ([PARENT], CODER, "count the files", "agent"),
        ([PARENT], CODER, "Here is the conversation so far:\n<conversation>\n", "compaction"),
    ],
)
def test_who_speaks_through_opencode_is_told(
    more: list[tuple[str, str]], system: str, prompt: str, kind: str
) -> None:
    assert kind_of([OPENCODE, *more], system, prompt) == kind


def test_what_opencode_keeps_of_a_conversation_is_a_wrapper() -> None:
    kept = "<conversation-checkpoint>\n<summary>\na\n</summary>\n</conversation-checkpoint>"
    assert is_wrapper(kept)
