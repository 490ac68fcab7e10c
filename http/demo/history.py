"""Two weeks that never were: three people's sessions, so that no page of the console is empty."""

from __future__ import annotations

import contextlib
import json
import random
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from attrs import Factory, define, evolve, frozen

from aigateway.actors.control.local.api_keys import (
    WantedKey,
    create_keys,
    note_uses,
    revoke_key,
)
from aigateway.actors.control.local.cache_turns import compare_more
from aigateway.actors.control.local.people import add_members, create_group, user_id_for
from aigateway.actors.control.local.policies import apply
from aigateway.actors.control.local.price_files import load_pricing
from aigateway.actors.control.local.schema import open_database
from aigateway.actors.control.local.store import Store
from aigateway.actors.interception.conversation import Prompt
from aigateway.actors.interception.fingerprint import fingerprint
from aigateway.actors.values.attribution import Attribution
from aigateway.actors.values.records import (
    InterceptionBegun,
    InterceptionEnded,
    ModelThought,
    PromptUsage,
    TokenUsage,
    ToolUsage,
    UsageRecord,
)

__all__ = ["tell_history", "tell_people"]

DAYS: Final = 14
_DAY: Final = 86_400.0
_SEED: Final = 20
"""The same weeks each time."""
_WHO: Final = "command line: margaret"


@frozen
class _Habit:
    """With what somebody works, and how many sessions of it a working day has."""

    user: str
    client: str
    agent: str
    provider: str
    models: Sequence[str]
    sessions: float


_HABITS: Final = (
    _Habit("ada", "Claude Code", "claude-cli/2.1.14 (external, cli)", "anthropic",
           ("claude-opus-5-5", "claude-opus-5-5", "claude-haiku-5-5"), 9.0),
    _Habit("grace", "Codex", "codex_cli_rs/0.98.0", "openai",
           ("gpt-5.5", "gpt-5.5", "gpt-5-mini"), 7.0),
    _Habit("grace", "Claude Code", "claude-cli/2.1.14 (external, cli)", "anthropic",
           ("claude-sonnet-5",), 2.5),
    _Habit("edsger", "Gemini CLI", "GeminiCLI/0.34.0 (linux; x64)", "gemini",
           ("gemini-3-pro-preview", "gemini-2.5-flash"), 4.0),
)  # fmt: skip

_TASKS: Final = (
    ("Why does the nightly import take twice as long since Tuesday?",
     "Look at the query plan first, please.", "Add the index, and show me the plan again."),
    ("Write tests for the parser of invoices. Begin with the ones that broke in production.",
     "The one with two currencies is missing.", "Good. Now the same for credit notes."),
    ("Rename Customer to Account everywhere, database columns too.",
     "Leave the public API as it is.", "Run the tests."),
    ("Explain what this service does when the queue is full.",
     "Draw it as a sequence of messages.", "Where would back-pressure belong?"),
    ("The login page flickers in dark mode. Find out why.",
     "Do not touch the tokens, only the page.", "Does it still work without scripts?"),
    ("Make the release notes from the commits since v3.2.",
     "Shorter, and in the words of users.", "Translate them to German."),
)  # fmt: skip

_THOUGHTS: Final = (
    "The plan shows a sequential scan on orders. The predicate is on lower(email), and the index"
    " is on email: an expression index would do.",
    "Three places build this name by hand. I change the one that the others could call, then them.",
    "A full queue blocks the producer here, which holds the lock: that is the stall they see.",
)

_TOOLS: Final = (
    ("Read", {"file_path": "src/orders/query.py", "limit": 120}),
    ("Bash", {"command": "pytest -q tests/orders", "timeout": 120_000}),
    ("Edit", {"file_path": "src/orders/query.py", "old_string": "email", "new_string": "lower"}),
    ("Grep", {"pattern": "class Customer", "output_mode": "files_with_matches"}),
    ("mcp__tracker__create_issue", {"title": "Import is slow", "labels": ["performance"]}),
)

_PLACES: Final = (
    ("github.com/acme/shop", "main"),
    ("github.com/acme/shop", "faster-import"),
    ("github.com/acme/ledger", "credit-notes"),
    ("github.com/acme/docs", "v3.3"),
)

_FAILURES: Final = (
    ("rate_limited", "This request would exceed your organization's rate limit."),
    ("overloaded", "Overloaded"),
    ("unknown", "the provider's answer broke off"),
)


def tell_history(database: Path, now: float) -> None:
    """Write the two weeks before ``now`` (Unix seconds) into the database.

    Raises what a store raises.
    """
    dice = random.Random(_SEED)
    pricing = load_pricing()
    with contextlib.closing(Store(database, 5.0, pricing)) as store:
        for session in _sessions(dice, now, store.prompt_key):
            starts, records = session.told()
            store.write(starts, records)
    with contextlib.closing(open_database(database)) as opened:
        while compare_more(opened, pricing):
            pass


_POLICY: Final = """\
# Who the team is, and what it may.
contact: the platform team, platform@example.com
groups:
  research:
    models: ["claude-*", "gpt-*"]
    caps:
      - usd: 40
        every: day
users:
  edsger:
    requests_per_minute: 30
"""


def tell_people(database: Path, now: float) -> None:
    """The three people with keys, a group with a machine's key, and a policy for them.

    Raises what a database raises.
    """
    began = now - DAYS * _DAY
    with contextlib.closing(open_database(database)) as opened:
        create_group(opened, "research", who=_WHO, now=began)
        wanted = [
            WantedKey(username="ada", name="laptop", expires_in=90 * _DAY),
            WantedKey(username="grace", name="laptop", expires_in=90 * _DAY),
            WantedKey(username="grace", name="workstation", project="compiler"),
            WantedKey(username="edsger", name="tablet", expires_in=_DAY * DAYS / 2),
            WantedKey(group="research", name="nightly-evaluation", project="evaluation"),
        ]
        made = create_keys(opened, wanted, who=_WHO, now=began)
        add_members(opened, "research", ["ada", "grace"], who=_WHO, now=began)
        revoke_key(opened, made[1].key.id, who=_WHO, now=began + 3 * _DAY)
        create_keys(opened, [WantedKey(username="edsger", name="tablet")], who=_WHO, now=now - _DAY)
        apply(opened, _POLICY, over=0, who=_WHO, now=began + _DAY)
        note_uses(
            opened, {made[0].key.id: now, made[2].key.id: now, made[3].key.id: now - 8 * _DAY}
        )


def _sessions(dice: random.Random, now: float, key: bytes) -> Iterator[_Session]:
    for day in range(DAYS, -1, -1):
        # Every seventh day but one nobody works.
        share = 0.2 if day % 7 in (2, 3) else 1.0
        for habit in _HABITS:
            wanted = habit.sessions * share * dice.uniform(0.6, 1.4)
            for _ in range(int(wanted) + (dice.random() < wanted % 1)):
                began = now - day * _DAY - dice.uniform(300, 9 * 3600)
                # On the last day some are quite new.
                if day == 0:
                    began = now - dice.uniform(200, 3300)
                yield _Session(habit, dice, began, now, key)


@define
class _Sent:
    """What one agent of a session has sent so far."""

    messages: list[bytes] = Factory(list)
    tools: int = 12
    tokens: int = 0
    """Of its last prompt, which the provider's cache has."""

    def checksums(self, key: bytes) -> bytes:
        """Of the prompt of its next turn, for a record."""
        for role in ("user", "assistant") if self.messages else ("user",):
            text = f"message {len(self.messages)}"
            self.messages.append(json.dumps({"role": role, "content": text}).encode())
        tools = json.dumps([{"name": f"tool_{number}"} for number in range(self.tools)]).encode()
        return fingerprint(
            key, Prompt(self.messages, tools, b'"You help."', control=b'{"type":"ephemeral"}')
        )


@define
class _Session:
    habit: _Habit
    dice: random.Random
    at: float
    until: float
    key: bytes
    """What checksums of prompts are keyed with."""
    sent: dict[str | None, _Sent] = Factory(lambda: defaultdict(_Sent))
    """By agent."""

    def told(self) -> tuple[list[InterceptionBegun], list[UsageRecord | InterceptionEnded]]:
        """Its interceptions and their records, up to the moment at which it is told."""
        dice, habit = self.dice, self.habit
        starts: list[InterceptionBegun] = []
        records: list[UsageRecord | InterceptionEnded] = []
        session = str(_uuid(dice))
        repository, branch = dice.choice(_PLACES)
        work = Attribution(session_id=session, repository=repository, branch=branch)
        model = dice.choice(habit.models)
        context = dice.randrange(14_000, 26_000)
        for prompt in dice.choice(_TASKS)[: dice.randrange(1, 4)]:
            tools = dice.choices(_TOOLS, k=dice.randrange(1, 6))
            # Now and then a subagent does what is between the prompt and the answer.
            helper = f"agent-{_uuid(dice).hex[:8]}" if dice.random() < 0.2 else None
            for turn in range(len(tools) + 1):
                took = dice.uniform(2.5, 24)
                if self.at + took >= self.until:
                    return starts, records
                inner = 0 < turn < len(tools)
                agent = helper if inner else None
                start = self._start(evolve(work, agent_id=agent), model)
                starts.append(start)
                records += self._records(
                    start, took, context,
                    prompt if turn == 0 else "",
                    tools[turn] if turn < len(tools) else None,
                )  # fmt: skip
                context += dice.randrange(600, 5200)
                self.at += took + dice.uniform(0.2, 4)
            self.at += dice.uniform(20, 240)
        return starts, records

    def _start(self, work: Attribution, model: str) -> InterceptionBegun:
        habit = self.habit
        return InterceptionBegun(
            id=str(_uuid(self.dice)),
            initiator_id=user_id_for(habit.user),
            username=habit.user,
            api_key_id=f"demo-{habit.user}",
            provider=habit.provider,
            provider_name=habit.provider,
            model=model,
            client=habit.client,
            user_agent=habit.agent,
            started_at=self.at,
            client_session_id=work.session_id,
            attribution=work,
            credential_hint="prov...ider",
        )

    def _records(
        self,
        start: InterceptionBegun,
        took: float,
        context: int,
        prompt: str,
        call: tuple[str, object] | None,
    ) -> Iterator[UsageRecord | InterceptionEnded]:
        dice = self.dice
        message = f"msg_{_uuid(dice).hex[:20]}"
        if prompt:
            yield PromptUsage(
                interception_id=start.id,
                msg_id=message,
                prompt=prompt,
                created_at=start.started_at + 0.05,
                metadata={"prompt_kind": "user"},
                record_id=_uuid(dice).hex,
            )
        if dice.random() < 0.03:
            kind, text = dice.choice(_FAILURES)
            end = start.started_at + took / 4
            yield InterceptionEnded(id=start.id, ended_at=end, error_type=kind, error_message=text)
            return
        if dice.random() < 0.4:
            yield ModelThought(
                interception_id=start.id,
                content=dice.choice(_THOUGHTS),
                created_at=start.started_at + took * 0.4,
                metadata={"source": "thinking"},
                record_id=_uuid(dice).hex,
            )
        if call is not None:
            yield ToolUsage(
                interception_id=start.id,
                msg_id=message,
                tool=call[0],
                input=json.dumps(call[1]),
                created_at=start.started_at + took * 0.9,
                tool_call_id=f"call_{_uuid(dice).hex[:16]}",
                record_id=_uuid(dice).hex,
            )
        sent = self.sent[start.attribution.agent_id]
        # Now and then a tool is added, and all of the context is read again.
        missed = bool(prompt and sent.messages) and dice.random() < 0.4
        sent.tools += missed
        cached = 0 if missed else sent.tokens
        sent.tokens = context
        writes = self.habit.provider == "anthropic"
        fresh = context - cached
        yield TokenUsage(
            interception_id=start.id,
            msg_id=message,
            input_tokens=dice.randrange(4, 40) if writes else fresh,
            output_tokens=dice.randrange(90, 1900),
            created_at=start.started_at + took,
            cache_read_input_tokens=cached,
            cache_write_input_tokens=fresh if writes else 0,
            record_id=_uuid(dice).hex,
        )
        yield InterceptionEnded(
            id=start.id,
            ended_at=start.started_at + took,
            prompt_parts=sent.checksums(self.key),
        )


def _uuid(dice: random.Random) -> uuid.UUID:
    return uuid.UUID(int=dice.getrandbits(128), version=4)
