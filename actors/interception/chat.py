"""OpenAI's Chat Completions API (``/v1/chat/completions``)."""

from __future__ import annotations

from typing import ClassVar, Self

import msgspec
from attrs import define, field
from msgspec import Raw, Struct

from aigateway.actors.codec.decoding import encode
from aigateway.actors.codec.headers import Headers
from aigateway.actors.codec.reading import (
    Buffer,
    Object,
    as_count,
    boolean,
    count,
    is_json,
    items,
    json_text,
    members,
    read_once,
    source,
    text,
)
from aigateway.actors.codec.splice import add_member, set_member
from aigateway.actors.interception._chat_chunk import (
    CallPart,
    Choice,
    Chunk,
    Delta,
    OpenCall,
    answer_in,
    read_chunk,
    thought_in,
)
from aigateway.actors.interception._chat_usage import ChatTokens, ChatUsage
from aigateway.actors.interception._pattern import Pattern
from aigateway.actors.interception._record_maker import NOTHING, TRUNCATED, ClientRequest, Text
from aigateway.actors.interception.conversation import (
    ASIDE,
    INSTRUCTING_ROLES,
    Conversation,
    Prompt,
    Said,
    kind_of,
    last_said,
    opening_of_completion,
)
from aigateway.actors.interception.relay import End, Mode, Relay
from aigateway.actors.interception.routes import CHAT_COMPLETIONS, Api
from aigateway.actors.values.records import INVALID_ARGUMENTS

__all__ = ["ChatInterception", "read_chat_request"]

_NOT_GIVEN = Raw(b"")
_USAGE_WANTED = b'{"include_usage":true}'


class _Body(Struct):
    """What is wanted of a request's body."""

    model: str = ""
    messages: list[Raw] = []
    stream: bool | None = None
    stream_options: Raw = _NOT_GIVEN
    n: int | None = None
    tools: Raw = _NOT_GIVEN
    prompt_cache_retention: Raw = _NOT_GIVEN


_body = msgspec.json.Decoder(_Body)


def _by_members(readable: bytes) -> _Body:
    fields = members(readable)
    return _Body(
        model=text(fields.get("model")) or "",
        messages=items(fields.get("messages")),
        stream=boolean(fields.get("stream"), loose=True),
        stream_options=fields.get("stream_options", _NOT_GIVEN),
        n=count(fields.get("n")),
        tools=fields.get("tools", _NOT_GIVEN),
        prompt_cache_retention=fields.get("prompt_cache_retention", _NOT_GIVEN),
    )


def read_chat_request(
    id: str,
    readable: bytes,
    body: bytes,
    content_encoding: str,
    headers: Headers = (),
    *,
    ask_usage: bool = True,
) -> tuple[ClientRequest, bool, int]:
    """Read a request; ``readable`` is ``body`` without its content coding.

    A stream is made to tell its usage, unless ``ask_usage`` is false: some providers refuse
    requests that ask for it.  Also tells whether usage had to be asked for on behalf of the
    client, and how many choices were ordered.  Raises NotJson.
    """
    fields = read_once(readable, _body.decode, _by_members)
    messages = Conversation(fields.messages)
    last, texts = last_said(messages, _said)
    prompt = texts[-1] if texts else None
    leading = _leading(messages)
    kind = None if prompt is None else kind_of(headers, _system(messages, leading), prompt)
    streaming = fields.stream is True
    asked = None
    if streaming and ask_usage:
        asked = _with_usage(readable, fields.stream_options)
    request = ClientRequest(
        id=id,
        body=body if asked is None else encode(asked, content_encoding),
        model=fields.model,
        streaming=streaming,
        prompt=prompt,
        prompt_kind=kind,
        correlating_tool_call_id=_answered_call(last),
        opening=opening_of_completion(messages),
        written=Prompt(
            messages.raw,
            fields.tools,
            leading=leading,
            retention=fields.prompt_cache_retention,
            aside=kind in ASIDE,
        ),
    )
    return request, asked is not None, max(as_count(fields.n), 1)


def _with_usage(body: bytes, given: Raw) -> bytes | None:
    """Make the body ask for usage; ``None`` when it does, or cannot be made to.

    Options of a wrong type are left for the provider to complain about.
    """
    options = bytes(given)
    if not options:
        return add_member(body, _USAGE_WANTED, "stream_options")
    if options == b"null":
        return set_member(body, _USAGE_WANTED, "stream_options")
    if not options.startswith(b"{"):
        return None
    wanted = members(options).get("include_usage")
    if source(wanted) not in {"false", "null"}:
        return None
    return set_member(body, b"true", "stream_options", "include_usage")


def _said(message: Object) -> Said:
    role = text(message.get("role")) or ""
    if role != "user":
        return Said(role)
    return Said(role, _texts(message.get("content")))


def _texts(content: Buffer | None) -> list[str]:
    """The texts of a message's content: one, or those of its parts."""
    whole = text(content)
    if whole is not None:
        return [whole]
    parts = [members(item) for item in items(content)]
    return [
        said
        for part in parts
        if text(part.get("type")) == "text" and (said := text(part.get("text"))) is not None
    ]


def _leading(messages: Conversation) -> int:
    """How many messages the conversation begins with before anybody speaks."""
    for place in range(len(messages)):
        if text(messages[place].get("role")) not in INSTRUCTING_ROLES:
            return place
    return len(messages)


def _system(messages: Conversation, leading: int) -> str:
    """What the conversation begins with, before anybody speaks."""
    said: list[str] = []
    for place in range(leading):
        said += _texts(messages[place].get("content"))
    return "\n".join(said)


def _answered_call(message: Object) -> str | None:
    """The call whose result the message brings; functions of old had calls without an id."""
    if text(message.get("role")) not in ("tool", "function"):
        return None
    return text(message.get("tool_call_id")) or ""


@define
class _Thought:
    """What a choice has thought aloud so far."""

    source: str
    content: Text = field(factory=Text)


class ChatInterception(Relay):
    """One request to the Chat Completions API and its answer.

    ``withholds`` says that the client did not ask for the usage chunk of a stream.
    """

    api: ClassVar[Api] = CHAT_COMPLETIONS

    __slots__ = (
        "_calls",
        "_cited",
        "_latest",
        "_model",
        "_msg_id",
        "_open",
        "_pattern",
        "_ran",
        "_reasons",
        "_texts",
        "_thoughts",
        "_tier",
        "_usage",
        "_usage_final",
        "_usage_recorded",
        "_withholds",
    )

    def __init__(self, request: ClientRequest, withholds: bool = False, choices: int = 1) -> None:
        super().__init__(request)
        self._withholds = withholds
        self._msg_id = ""
        self._model = ""
        self._tier = ""
        self._usage = ChatUsage(choices)
        self._usage_final = False
        self._usage_recorded = False
        # By the numbers of the choice and of the call in it.
        self._calls: dict[tuple[int, int], OpenCall] = {}
        self._latest: dict[int, tuple[int, int]] = {}
        self._thoughts: dict[int, _Thought] = {}
        # Of the answer, where that is recorded.
        self._texts: dict[int, Text] = {}
        self._ran: dict[tuple[int, int], Object] = {}
        self._cited: set[int] = set()
        self._open: set[int] = set()
        self._reasons: dict[int, str] = {}
        self._pattern = Pattern()

    def another(self) -> Self:
        another = super().another()
        another._withholds = self._withholds
        return another

    # -- streams

    def _read_event(self, piece: bytes, now: float) -> None:
        if self._pattern.fits(piece):
            return
        # PERF: one line of data, and nothing else.
        one_line = piece.find(b"\n") == len(piece) - 2 and piece.endswith(b"\n")
        if one_line and piece.startswith(b"data: {"):
            name, data = b"", piece[6:-2]
        else:
            name, data = self._parsed(piece)
        if not data:
            return
        self._pattern.forget()
        if data.startswith(b"[DONE]"):
            self._complete = True
            return
        chunk = read_chunk(data)
        if chunk is None:
            self._note_odd_event(data)
            return
        if chunk.error or chunk.object == "error" or name == b"error":
            self._fail_with(members(data).get("error") if chunk.error else data)
        elif chunk.choices is None:
            self._stray.note(data)
        self._read_chunk(chunk, piece, now)

    def _read_chunk(self, chunk: Chunk, piece: bytes, now: float) -> None:
        self._read_head(chunk)
        if self._msg_id:
            self._record_prompt(self._msg_id, now)
        choices = chunk.choices or []
        told = self._usage.take(chunk)
        if told:
            self._usage_unread = False
            # Some send running totals with every chunk: those at the end of all are final.
            self._usage_final = all(choice.reason for choice in choices)
            if self._withholds and not choices and chunk.usage:
                self._withhold(piece)
        for choice in choices:
            self._read_choice(choice, now)
            if not (told or choice.reason):
                self._usage_final = False
        plain = len(choices) == 1 and not (told or choices[0].reason)
        if plain and self._msg_id and self._pattern.learns:
            self._learn(piece, choices[0])

    def _read_head(self, chunk: Chunk) -> None:
        if not self._msg_id:
            self._msg_id = chunk.id or ""
        if chunk.model and chunk.model != self._model:
            self._model = chunk.model
            self._note_answer(model=chunk.model)
        if chunk.service_tier:
            self._tier = chunk.service_tier
        if chunk.x_groq and (error := text(chunk.x_groq.get("error"))):
            self._fail_with(json_text(error).encode())

    def _read_choice(self, choice: Choice, now: float) -> None:
        index = choice.index
        said = choice.delta
        if said is None and index not in self._open:
            # A whole completion as the only event.
            said = choice.message
        self._open.add(index)
        if said is not None:
            self._read_said(index, said)
            for part in said.tool_calls or ():
                self._read_call_part(index, part, now)
            if said.function_call is not None:
                # The only call of a choice, before there were tools.
                self._read_call_part(index, CallPart(function=said.function_call), now)
        self._read_reason(choice)
        if choice.reason:
            self._finish_choice(index, now)

    def _read_said(self, choice: int, said: Delta) -> None:
        """Take what is said beside the answer and its calls."""
        thought, name = thought_in(said)
        if thought:
            if choice not in self._thoughts:
                self._thoughts[choice] = _Thought(name)
            self._thoughts[choice].content.write(thought)
        if self._answers and (answer := answer_in(said, name)):
            if choice not in self._texts:
                self._texts[choice] = Text()
            self._texts[choice].write(answer)
        if said.refusal:
            self._end_metadata["refusal"] = True
        for raw in said.executed_tools or ():
            ran = members(raw)
            # Groq: told when it begins, and again with its output.
            self._ran.setdefault((choice, count(ran.get("index"))), {}).update(ran)
        for raw in said.annotations or ():
            if text(members(raw).get("type")) == "url_citation":
                self._cited.add(choice)

    def _read_reason(self, choice: Choice) -> None:
        reason = choice.reason
        if choice.error:
            self._fail_with(msgspec.json.encode(choice.error))
        elif reason == "error":
            self._fail("server_error", "The AI provider reported an error")
        if reason:
            self._reasons[choice.index] = reason
            self._note_reasons(self._reasons)

    def _read_call_part(self, choice: int, part: CallPart, now: float) -> None:
        key = (choice, max(part.index or 0, 0))
        call = self._calls.get(key)
        if call is not None and call.ends_before(part):
            self._finish_call(key, now)
            call = None
        if call is None:
            call = self._calls[key] = OpenCall()
        self._latest[choice] = key
        call.add(part)

    def _learn(self, piece: bytes, choice: Choice) -> None:
        """Know chunks again that only add to the text, the thought or the call of this one."""
        said = choice.delta
        if said is None or choice.error or said.refusal or said.executed_tools or said.annotations:
            return
        thought, name = thought_in(said)
        if said.tool_calls or said.function_call:
            part = said.tool_calls[0] if said.tool_calls else None
            if (
                part is None
                or len(said.tool_calls or ()) > 1
                or part.name
                or part.custom
                or thought
            ):
                return
            call = self._calls.get((choice.index, max(part.index or 0, 0)))
            if call is not None and not call.custom and part.function is not None:
                self._pattern.learn(piece, b'"arguments"', call.arguments, part.arguments)
        elif not thought:
            if not self._answers:
                self._pattern.learn(piece, b'"content"')
            elif (answer := text(said.content)) is not None:
                sink = self._texts.setdefault(choice.index, Text())
                self._pattern.learn(piece, b'"content"', sink, answer)
        elif name in ("reasoning_content", "reasoning"):
            content = self._thoughts[choice.index].content
            # OpenRouter says it twice.
            also = (b'"text"',) if said.reasoning_details else ()
            self._pattern.learn(piece, b'"%s"' % name.encode(), content, thought, also)

    def _finish_choice(self, choice: int, now: float) -> None:
        for key in [key for key in self._calls if key[0] == choice]:
            self._finish_call(key, now)
        self._finish_thought(choice, now)
        self._finish_answer(choice, now)

    def _finish_call(self, key: tuple[int, int], now: float) -> None:
        self._pattern.forget()
        self._record_call(self._calls.pop(key), now)

    def _finish_thought(self, choice: int, now: float, *, whole: bool = True) -> None:
        self._pattern.forget()
        thought = self._thoughts.pop(choice, None)
        if thought is not None:
            cut = thought.content.truncated or not whole
            self._record_thought(thought.content.value(), thought.source, now, truncated=cut)

    def _finish_answer(self, choice: int, now: float, *, whole: bool = True) -> None:
        answer = self._texts.pop(choice, None)
        if answer is not None:
            self._pattern.forget()
            which = {"choice": choice} if choice else NOTHING
            cut = answer.truncated or not whole
            self._record_answer(self._msg_id, answer.value(), now, which, truncated=cut)

    def _had_ended(self, key: tuple[int, int]) -> bool:
        """Whether a call had come whole when the stream broke off, as far as can be seen."""
        return self._calls[key].is_whole and self._latest[key[0]] != key

    def _may_end(self) -> bool:
        finished = bool(self._reasons) and self._open <= self._reasons.keys()
        # Some say how it ended only by telling what it cost.
        return finished or (self._usage_final and bool(self._open))

    # -- blocking answers

    def _read_body(self, data: bytearray, now: float) -> None:
        answer = read_chunk(data) or Chunk()
        if not answer.choices and (answer.error or answer.object == "error"):
            self._fail_as_told(data)
            self._usage.take(answer)
            return
        if answer.choices is None and not answer.usage:
            self._fail_as_told(data)
            return
        self._read_head(answer)
        self._record_prompt(self._msg_id, now)
        self._usage.take(answer)
        for choice in answer.choices or ():
            self._read_reason(choice)
            if (said := choice.message) is None:
                continue
            self._read_said(choice.index, said)
            for part in said.tool_calls or ():
                self._record_whole_call(part, now)
            if said.function_call is not None:
                self._record_whole_call(CallPart(function=said.function_call), now)
        self._record_rest(now, whole=True)
        self._record_usage(self._usage.tokens(), now, whole=True)

    def _record_whole_call(self, part: CallPart, now: float) -> None:
        call = OpenCall()
        call.add(part)
        self._record_call(call, now)

    # -- both

    def _finish(self, end: End, now: float) -> None:
        unseen = end is End.CUT and self._answered
        if self.streaming or self._mode is Mode.STREAM or unseen:
            self._record_prompt(self._msg_id, now)
        for key in list(self._calls):
            if end is End.WHOLE or self._had_ended(key):
                self._finish_call(key, now)
        self._record_rest(now, whole=end is End.WHOLE)
        unread = end is End.WHOLE and self._usage_unread
        if not self._usage_recorded and ((tokens := self._usage.tokens()) or unseen or unread):
            self._record_usage(tokens, now, whole=end is End.WHOLE or self._usage_final)

    def _record_rest(self, now: float, *, whole: bool) -> None:
        """Record what nothing in the answer itself ends."""
        if not (self._thoughts or self._texts or self._ran or self._cited):
            # PERF: mostly there is nothing, and it is asked twice.
            return
        for choice in list(self._thoughts):
            self._finish_thought(choice, now, whole=whole)
        for choice in list(self._texts):
            self._finish_answer(choice, now, whole=whole)
        for ran in self._ran.values():
            self._record_ran(ran, now)
        self._ran.clear()
        for _choice in self._cited:
            # OpenAI's search models and OpenRouter: a search shows by what is cited.
            by = {"type": "url_citation"}
            self._record_tool(self._msg_id, now, by, tool="web_search", input="null")
        self._cited.clear()

    def _record_usage(self, tokens: ChatTokens, now: float, *, whole: bool) -> None:
        self._usage_recorded = True
        tier = {"service_tier": self._tier} if self._tier else {}
        self._record_tokens(
            self._msg_id,
            now,
            metadata={**tokens.metadata, **tier, **self._metadata_of_call(whole=whole)},
            extra=tokens.extra,
            **tokens.counts,
        )

    def _record_call(self, call: OpenCall, now: float) -> None:
        metadata: dict[str, object] = dict(TRUNCATED) if call.arguments.truncated else {}
        arguments = call.arguments.value()
        if call.custom:
            arguments = json_text(arguments)
        else:
            arguments = arguments.strip()
            if not arguments:
                arguments = "null"
            elif not is_json(arguments.encode()):
                metadata[INVALID_ARGUMENTS] = arguments
                arguments = "null"
        self._record_tool(
            self._msg_id,
            now,
            tool=call.name,
            tool_call_id=call.id,
            input=arguments,
            metadata=metadata,
        )

    def _record_ran(self, ran: Object, now: float) -> None:
        """Record a tool that the provider ran itself."""
        arguments = text(ran.get("arguments"))
        given = source(ran.get("arguments")) if arguments is None else arguments.strip() or "null"
        self._record_tool(
            self._msg_id,
            now,
            {"type": "executed_tools"},
            tool=text(ran.get("name")) or text(ran.get("type")) or "",
            tool_call_id=text(ran.get("id")) or "",
            input=given if is_json(given.encode()) else json_text(given),
        )

    def error_event(self, error_type: str, message: str) -> bytes:
        kind, code = _EVENT_TYPES.get(error_type, ("server_error", None))
        error = {"message": message, "type": kind, "param": None, "code": code}
        return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"


_EVENT_TYPES = {
    "overloaded": ("server_error", "service_unavailable"),
    "rate_limited": ("rate_limit_error", "rate_limit_exceeded"),
    "timeout": ("server_error", "timeout"),
}
