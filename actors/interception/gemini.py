"""Google's Gemini API (``/v1beta/models/<model>:generateContent`` and ``:streamGenerateContent``).

The model stands in the path, and so does whether the answer is a stream.  A stream is one of
server-sent events where the client asked for it (``alt=sse``), else one JSON array of the same
chunks.  Neither has an event that says "this was the last one": an answer is whole when each of its
candidates has told why it finished, or the prompt was blocked; an array also when it is closed.

In requests names are read as ``camelCase`` and as ``snake_case``: Google's servers take both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import ClassVar

import msgspec
from attrs import define, field
from msgspec import Raw, Struct

from aigateway.actors.codec.headers import Headers, first_of
from aigateway.actors.codec.json_array import ArrayReader, begins_array, element_of
from aigateway.actors.codec.reading import (
    Buffer,
    Object,
    boolean,
    count,
    is_null,
    items,
    json_text,
    members,
    read_once,
    source,
    text,
    values,
)
from aigateway.actors.interception._gemini_usage import tokens_of
from aigateway.actors.interception._record_maker import ClientRequest, Text
from aigateway.actors.interception.conversation import (
    Conversation,
    Prompt,
    Said,
    kind_of,
    last_said,
    opening_of_gemini,
)
from aigateway.actors.interception.outcomes import ENDED_EARLY, MESSAGE_LIMIT
from aigateway.actors.interception.relay import End, Mode, Relay
from aigateway.actors.interception.routes import GEMINI, Api
from aigateway.actors.interception.usage import RunningUsage

__all__ = ["GeminiInterception", "read_gemini_request"]


_NULL = Raw(b"null")


class _Body(Struct):
    """What is wanted of a request's body."""

    contents: Raw = _NULL
    systemInstruction: Raw = _NULL
    system_instruction: Raw = _NULL
    tools: Raw = _NULL
    cachedContent: Raw = _NULL
    cached_content: Raw = _NULL


_body = msgspec.json.Decoder(_Body)


def read_gemini_request(
    id: str,
    readable: bytes,
    body: bytes,
    headers: Headers = (),
    *,
    model: str = "",
    streaming: bool = False,
) -> tuple[ClientRequest, CallNames]:
    """Read a request; ``readable`` is ``body`` without its content coding.  Raises NotJson.

    ``model`` and ``streaming`` are what the path says.  Also tells what the answer's calls are to
    be called where they have no ids.
    """
    # Any value will do for each field, so nothing is unexpected but a body that is not an object.
    fields = read_once(readable, _body.decode, lambda _no_object: _Body())
    contents = Conversation(_listed(fields.contents))
    last, texts = last_said(contents, _said)
    prompt = texts[-1] if texts else None
    cached = text(fields.cachedContent) or text(fields.cached_content)
    opening = opening_of_gemini(contents, cached=bool(cached))
    names = CallNames(_beginning(contents), _calls_in(contents.raw))
    request = ClientRequest(
        id=id,
        body=body,
        model=model,
        streaming=streaming,
        prompt=prompt,
        prompt_kind=None if prompt is None else kind_of(headers, _system(fields), prompt),
        correlating_tool_call_id=_answered_call(contents, last, names),
        opening=opening,
        written=Prompt(
            contents.raw,
            fields.tools,
            fields.system_instruction
            if is_null(fields.systemInstruction)
            else fields.systemInstruction,
            compared=False,
        ),
    )
    return request, names


def _member(fields: Object, name: str) -> Buffer | None:
    """A member by its name in either spelling; None where it is missing or null."""
    value = fields.get(name)
    if value is None:
        value = fields.get(_SNAKE_CASE[name])
    return None if is_null(value) else value


_SNAKE_CASE = {
    "functionCall": "function_call",
    "functionResponse": "function_response",
}


def _listed(value: Buffer | None) -> Sequence[Buffer]:
    """The elements of a list; one that is written without a list around it is a list of one."""
    return items(value) or ([value] if value is not None and members(value) else [])


def _said(content: Object) -> Said:
    # A conversation of one message needs no role.
    role = text(content.get("role")) or "user"
    if role != "user":
        return Said(role)
    parts = [members(part) for part in _listed(content.get("parts"))]
    return Said(
        role,
        [said for part in parts if (said := text(part.get("text"))) is not None],
        is_result=any(_member(part, "functionResponse") is not None for part in parts),
    )


def _system(fields: _Body) -> str:
    """The system instruction: a text in parts."""
    instruction = members(fields.systemInstruction) or members(fields.system_instruction)
    parts = _listed(instruction.get("parts"))
    return "\n".join(text(members(part).get("text")) or "" for part in parts)


# -- calls and their results


@define
class CallNames:
    """Ids for calls that have none: before Gemini 3 they were told apart by name and order.

    Such an id is made of how the conversation begins, how many calls there were in it before,
    and the function's name.  So the request that brings a result makes the same.
    """

    beginning: bytes
    before: int
    """Calls that were made before, by the request's contents."""

    def next(self, name: str) -> str:
        """The id of the next call of the answer."""
        made = self.made(self.before, name)
        self.before += 1
        return made

    def made(self, before: int, name: str) -> str:
        """The id of the call of ``name`` before which there were so many."""
        whole = b"%s\0%d\0%s" % (self.beginning, before, name.encode("utf-8", "replace"))
        return f"{name}-{blake2b(whole, digest_size=8).hexdigest()}"


def _beginning(contents: Conversation) -> bytes:
    """A digest of the first thing that was said."""
    first = bytes(contents.raw[0]) if contents.raw else b""
    return blake2b(first, digest_size=8).digest()


def _calls_in(contents: Sequence[Buffer]) -> int:
    """How many calls there are in a conversation.

    PERF: it may be long, and quotes inside of strings are escaped, so the name of a member is
    found without reading it all.
    """
    joined = (bytes(each) for each in contents)
    return sum(each.count(b'"functionCall"') + each.count(b'"function_call"') for each in joined)


def _answered_call(contents: Conversation, last: Object, names: CallNames) -> str | None:
    """The call whose result ends the last message.

    A client may have made up an id for a result whose call had none; so the call decides.
    """
    responses = _parts(last, "functionResponse")
    if not responses:
        return None
    response = responses[-1]
    id, name = text(response.get("id")) or "", text(response.get("name")) or ""
    # Which of the results for functions of this name it is.
    nth = sum(text(each.get("name")) == text(response.get("name")) for each in responses)
    before = names.before
    for place in range(len(contents) - 1, -1, -1):
        calls = _parts(contents[place], "functionCall")
        before -= _calls_in([contents.raw[place]])
        if not calls:
            continue
        found = [at for at, call in enumerate(calls) if id and text(call.get("id")) == id]
        if not found:
            of_name = [at for at, call in enumerate(calls) if text(call.get("name")) == name]
            found = of_name[:nth][-1:]
        if not found:
            break
        given = text(calls[found[0]].get("id")) or ""
        if given and not _MADE_BY_CLIENT.match(given.removeprefix(name)):
            return given
        return names.made(before + found[0], name)
    return id


_MADE_BY_CLIENT = re.compile(r"[_-][0-9]{13}[_-]")
"""What comes behind the function's name in an id that Gemini CLI gives to a call that has none:
the time in milliseconds.  The provider never told it."""


def _parts(content: Object, kind: str) -> list[Object]:
    """What the parts of one kind hold."""
    found = (_member(members(part), kind) for part in _listed(content.get("parts")))
    return [members(each) for each in found if each is not None]


# -- answers


@define
class _Candidate:
    """What one candidate has told so far."""

    thought: Text = field(factory=Text)
    answer: Text = field(factory=Text)
    """Kept where answers are recorded."""
    code: Object | None = None
    """Code that the provider runs, until its result is there."""
    grounding: Object = field(factory=dict)
    urls: Object = field(factory=dict)
    told_calls: bool = False
    """The provider tells each call of its own tools."""


class GeminiInterception(Relay):
    """One request to the Gemini API and its answer."""

    api: ClassVar[Api] = GEMINI
    ping: ClassVar[bytes] = b"\n\n"
    """Blank lines mean nothing in either kind of stream.  Comments break Google's own SDKs: the
    one for Python takes them for JSON, those for JavaScript lose the event behind."""

    __slots__ = (
        "_array",
        "_blocked",
        "_candidates",
        "_found",
        "_may_be_array",
        "_msg_id",
        "_names",
        "_queries",
        "_reasons",
        "_usage",
        "_usage_final",
        "_usage_recorded",
    )

    def __init__(self, request: ClientRequest, names: CallNames) -> None:
        super().__init__(request)
        self._names = names
        self._msg_id = ""
        self._array: ArrayReader | None = None
        self._may_be_array = False
        self._candidates: dict[int, _Candidate] = {}
        self._reasons: dict[int, str] = {}
        self._blocked = False
        self._queries: set[str] = set()
        self._found: set[str] = set()
        self._usage = RunningUsage()
        self._usage_final = False
        self._usage_recorded = False

    # -- arrays

    def begin_answer(self, status: int, headers: Headers) -> None:
        """The head of the upstream's answer has arrived."""
        super().begin_answer(status, headers)
        self._may_be_array = self.streaming and self._mode is Mode.UNDECIDED and not self._decoder
        if self._may_be_array and first_of(headers, "content-type").startswith("application/json"):
            # Blanks may be added to an array, and its end may be kept back.
            self.event_stream = True

    def receive_data(self, data: bytes, now: float) -> bytes:
        """Take what arrived; return what goes to the client now."""
        if self._may_be_array and self._mode is Mode.UNDECIDED:
            start = bytes(self._kept) + data
            if begins_array(start):
                data = self._begin_array(start, data)
        return super().receive_data(data, now)

    def _begin_array(self, start: bytes, data: bytes) -> bytes:
        """It is an array: ``start`` is all that has come of it, ``data`` what has come now."""
        if self._editable:
            # What came before was held back.
            data = start
        self._kept = bytearray()
        self._reader = self._array = ArrayReader()
        self._mode = Mode.STREAM
        self._editable = True
        self._tells_cuts = False
        return data

    def _read_rest(self, rest: bytes, now: float) -> None:
        # An element may end with a bracket too: only behind all of them it closes the array.
        if self._array is not None and self._array.closed and element_of(rest).rstrip() == b"]":
            self._complete = self._may_end()
        else:
            super()._read_rest(rest, now)

    # -- streams

    def _read_event(self, piece: bytes, now: float) -> None:
        if self._array is not None:
            data = element_of(piece).rstrip()
        else:
            data = self._parsed(piece)[1]
        if not data:
            return
        chunk = members(data)
        if not chunk:
            self._note_odd_event(data)
            return
        if _ANSWER.isdisjoint(chunk) and is_null(chunk.get("error")):
            self._stray.note(data)
            return
        self._read_chunk(chunk, now)
        # With the reasons of all, what it cost was told: only the framing is left.
        self._complete = self._array is None and self._usage_final and self._may_end()

    def _read_chunk(self, chunk: Object, now: float) -> None:
        if not is_null(error := chunk.get("error")):
            self._fail_with(error)
        self._msg_id = text(chunk.get("responseId")) or self._msg_id
        self._note_answer(model=text(chunk.get("modelVersion")))
        if self._msg_id:
            self._record_prompt(self._msg_id, now)
        for each in items(chunk.get("candidates")):
            self._read_candidate(members(each), now)
        self._read_feedback(members(chunk.get("promptFeedback")))
        if told := values(chunk.get("usageMetadata")):
            self._usage_unread = False
            self._usage.take(told)
            self._usage_final = self._all_said()
        elif chunk.get("candidates") is not None:
            self._usage_final = False

    def _read_feedback(self, feedback: Object) -> None:
        """A prompt may have been blocked: then nothing answers it."""
        reason = text(feedback.get("blockReason"))
        if not reason:
            return
        self._blocked = True
        said = text(feedback.get("blockReasonMessage"))
        self._end_metadata["block_reason"] = reason
        self._fail("bad_request", f"the prompt was blocked: {said or reason}"[:MESSAGE_LIMIT])

    def _read_candidate(self, told: Object, now: float) -> None:
        index = count(told.get("index"))
        candidate = self._candidates.setdefault(index, _Candidate())
        for part in _listed(members(told.get("content")).get("parts")):
            self._read_part(candidate, members(part), now)
        for name, kept in (
            ("groundingMetadata", candidate.grounding),
            ("urlContextMetadata", candidate.urls),
        ):
            kept.update(members(told.get(name)))
        self._note_queries(members(told.get("groundingMetadata")).get("webSearchQueries"))
        reason = text(told.get("finishReason"))
        if reason and reason != "FINISH_REASON_UNSPECIFIED":
            self._reasons[index] = reason
            self._note_reasons(self._reasons)
            self._finish_texts(candidate, now)

    def _read_part(self, candidate: _Candidate, part: Object, now: float) -> None:
        if boolean(part.get("thought")):
            candidate.thought.write(text(part.get("text")) or "")
        elif self._answers and (said := text(part.get("text"))):
            candidate.answer.write(said)
        elif call := members(part.get("functionCall")):
            self._record_call(call, now)
        elif code := members(part.get("executableCode")):
            self._record_code(candidate, now)
            candidate.code = code
        elif result := members(part.get("codeExecutionResult")):
            self._record_code(candidate, now, result)
        elif ran := members(part.get("toolCall")):
            candidate.told_calls = True
            self._record_ran(ran, now)

    def _all_said(self) -> bool:
        """Whether each candidate has told why it finished, or there will be none."""
        finished = bool(self._reasons) and self._candidates.keys() <= self._reasons.keys()
        return finished or self._blocked

    def _may_end(self) -> bool:
        return self._all_said() and (self._array is None or self._array.closed)

    def _has_all(self, now: float) -> bool:
        # The bracket that closes an array is kept back with what has not ended.
        return (self._array is not None and self._may_end()) or super()._has_all(now)

    # -- blocking answers

    def _read_body(self, data: bytearray, now: float) -> None:
        # A stream in an array that was encoded is read as a whole.
        chunks = [members(each) for each in _listed(data)]
        if all(map(_ANSWER.isdisjoint, chunks)):
            self._fail_as_told(data)
            return
        for chunk in chunks:
            self._read_chunk(chunk, now)
        if self.streaming and not self._may_end():
            self._fail("server_error", ENDED_EARLY)
        self._record_prompt(self._msg_id, now)
        self._record_rest(now, whole=True)
        self._record_usage(now, whole=True)

    # -- both

    def _finish(self, end: End, now: float) -> None:
        unseen = end is End.CUT and self._answered
        if self.streaming or self._mode is Mode.STREAM or unseen:
            self._record_prompt(self._msg_id, now)
        self._record_rest(now, whole=end is End.WHOLE)
        unread = end is End.WHOLE and self._usage_unread
        if not self._usage_recorded and (self._usage or unseen or unread):
            self._record_usage(now, whole=end is End.WHOLE or self._usage_final)

    def _record_rest(self, now: float, *, whole: bool) -> None:
        """Record what nothing in the answer itself ends."""
        for candidate in self._candidates.values():
            self._record_code(candidate, now)
            self._finish_texts(candidate, now, whole=whole)
            self._record_grounding(candidate, now)
            candidate.grounding, candidate.urls = {}, {}

    def _finish_texts(self, candidate: _Candidate, now: float, *, whole: bool = True) -> None:
        thought, candidate.thought = candidate.thought, Text()
        cut = thought.truncated or not whole
        self._record_thought(thought.value(), "thought", now, truncated=cut)
        answer, candidate.answer = candidate.answer, Text()
        cut = answer.truncated or not whole
        self._record_answer(self._msg_id, answer.value(), now, truncated=cut)

    def _record_usage(self, now: float, *, whole: bool) -> None:
        self._usage_recorded = True
        counts, extra, metadata = tokens_of(self._usage)
        extra.update(self._paid_requests())
        self._record_tokens(
            self._msg_id,
            now,
            metadata={**metadata, **self._metadata_of_call(whole=whole)},
            extra=extra,
            **counts,
        )

    def _record_call(self, call: Object, now: float) -> None:
        name = text(call.get("name")) or ""
        if not name:
            # Vertex AI tells the arguments of a call in parts, which follow its name.
            return
        # Calls with ids count too: the next request counts all of them.
        made = self._names.next(name)
        self._record_tool(
            self._msg_id,
            now,
            tool=name,
            tool_call_id=text(call.get("id")) or made,
            input=_compact(call["args"]) if "args" in call else "{}",
        )

    # -- tools that the provider runs

    def _record_ran(self, ran: Object, now: float) -> None:
        tool = (text(ran.get("toolType")) or "").lower()
        if tool.startswith("google_search"):
            self._note_queries(members(ran.get("args")).get("queries"))
        self._record_tool(
            self._msg_id,
            now,
            {"type": "tool_call"},
            tool=tool,
            tool_call_id=text(ran.get("id")) or "",
            input=_compact(ran.get("args")),
        )

    def _record_code(self, candidate: _Candidate, now: float, result: Object | None = None) -> None:
        """Record the code that runs, if any; ``result`` is what came of it."""
        code, candidate.code = candidate.code, None
        if code is None:
            return
        error = None
        outcome = text(result.get("outcome")) if result is not None else None
        if result is not None and outcome and outcome != "OUTCOME_OK":
            error = (text(result.get("output")) or outcome)[:MESSAGE_LIMIT]
        asked = {name: _compact(value) for name, value in code.items() if name != "id"}
        self._record_tool(
            self._msg_id,
            now,
            {"type": "executable_code"},
            tool="code_execution",
            tool_call_id=text(code.get("id")) or "",
            input=_object_of(asked),
            invocation_error=error,
        )

    def _record_grounding(self, candidate: _Candidate, now: float) -> None:
        """Record the searches that show only by what they found."""
        found = {
            name
            for chunk in items(candidate.grounding.get("groundingChunks"))
            for name in members(chunk)
        }
        queries = candidate.grounding.get("webSearchQueries")
        self._found |= found
        if candidate.told_calls:
            return
        if items(queries) or "web" in found:
            asked = {} if queries is None else {"queries": _compact(queries)}
            self._record_search("google_search", asked, now)
        if "maps" in found:
            self._record_search("google_maps", {}, now)
        if "retrievedContext" in found:
            self._record_search("file_search", {}, now)
        read = [members(each) for each in items(candidate.urls.get("urlMetadata"))]
        urls = [url for each in read if (url := text(each.get("retrievedUrl"))) is not None]
        if urls:
            listed = msgspec.json.encode(urls).decode()
            self._record_search("url_context", {"urls": listed}, now)

    def _note_queries(self, queries: Buffer | None) -> None:
        self._queries.update(filter(None, map(text, items(queries))))

    def _paid_requests(self) -> dict[str, int]:
        """What Google bills by the request, and how often."""
        # What was found was searched for, though nobody tells by how many queries.
        searches = len(self._queries) or int("web" in self._found)
        if _BILLED_BY_PROMPT.search(str(self._end_metadata.get("provider_model", self.model))):
            searches = min(searches, 1)
        maps = int("maps" in self._found)
        counts = {"web_search_requests": searches, "maps_requests": maps}
        return {name: n for name, n in counts.items() if n}

    def _record_search(self, tool: str, asked: Mapping[str, str], now: float) -> None:
        """``asked`` are members of what it was asked for, as JSON."""
        self._record_tool(
            self._msg_id,
            now,
            {"type": "grounding_metadata"},
            tool=tool,
            tool_call_id="",
            input=_object_of(asked) if asked else "null",
        )

    def error_event(self, error_type: str, message: str) -> bytes:
        return b"data: " + self.error_body(_CODES.get(error_type, 500), message) + b"\n\n"


def _compact(value: Buffer | None) -> str:
    """JSON without the blanks with which Google makes it readable."""
    return msgspec.json.format(source(value), indent=-1)


def _object_of(written: Mapping[str, str]) -> str:
    """An object of members that are JSON already."""
    members = (f"{json_text(name)}:{value}" for name, value in written.items())
    return "{" + ",".join(members) + "}"


_ANSWER = frozenset({"candidates", "promptFeedback", "usageMetadata", "responseId", "modelVersion"})
"""Members of which every chunk has one: what has none is something else."""

_BILLED_BY_PROMPT = re.compile(r"(?:^|/)gemini-[12](?:[.-]|$)")
"""Models of which a prompt that Google Search grounds is billed once.  From Gemini 3 on each query
is; an empty one is not, and the same one only once (Google's pages on grounding and prices)."""

_CODES = {"bad_request": 400, "rate_limited": 429, "overloaded": 503, "timeout": 504}
