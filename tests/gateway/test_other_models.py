"""Models that are no conversation, through a real gateway and OpenAI's own client."""

from __future__ import annotations

import io
import json
import threading
import wave
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import (
    ScriptedProvider,
    WaitFor,
    answer,
    cut,
    error,
    event,
    stream,
)
from sdk_clients import closed_later

PIXEL = "iVBORw0KGgo="
SPOKEN = bytes(range(256)) * 512
USAGE = {"input_tokens": 5, "output_tokens": 100, "total_tokens": 105}
VECTORS = {
    "object": "list",
    "model": "text-embedding-3-small",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}],
    "usage": {"prompt_tokens": 8, "total_tokens": 8},
}
HEARD = {
    "text": "Hello, Ghent.",
    "usage": {
        "type": "tokens",
        "input_tokens": 14,
        "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
        "output_tokens": 5,
        "total_tokens": 19,
    },
}


def recording() -> bytes:
    """A second of silence as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(b"\0\0" * 8000)
    return file.getvalue()


@pytest.fixture(scope="module")
def backup() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def gateway(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    provider: ScriptedProvider,
    backup: ScriptedProvider,
) -> Iterator[GatewayProcess]:
    """``openai``; ``listed``, which has models, and ``rescued``, which falls back."""
    models = "ear = gpt-4o-transcribe, small = text-embedding-3-small"
    upstreams = [
        Upstream("openai", provider.url),
        Upstream("openai", provider.url, name="listed", extra={"MODELS": models}),
        Upstream("openai", provider.url, name="rescued", extra={"FALLBACK": "backup"}),
        Upstream("openai", backup.url, name="backup"),
    ]
    folder = tmp_path_factory.mktemp("gw")
    with GatewayProcess(folder, upstreams, ["--worker-class", request.param]) as gateway:
        yield gateway


def client(gateway: GatewayProcess, name: str = "openai") -> openai.OpenAI:
    return closed_later(
        openai.OpenAI(api_key=gateway.key(), base_url=f"{gateway.url}/{name}/v1", max_retries=0)
    )


def recorded(gateway: GatewayProcess, headers: Any) -> dict[str, Any]:
    """The interception of an answer: its row and what belongs to it."""
    found: dict[str, Any] = gateway.records(headers["X-AI-Gateway-Interception-Id"])
    return found


def send_form(gateway: GatewayProcess, path: str, **fields: str) -> requests.Response:
    """Send a recording."""
    return requests.post(
        gateway.url + path,
        data=fields,
        files={"file": ("ghent.wav", recording())},
        headers={"Authorization": f"Bearer {gateway.key()}"},
        timeout=30,
    )


def newest(gateway: GatewayProcess) -> dict[str, Any]:
    """The same of the newest one."""
    (row,) = gateway.rows("SELECT id FROM interceptions ORDER BY started_at DESC LIMIT 1")
    found: dict[str, Any] = gateway.records(row["id"])
    return found


def test_embeddings_are_relayed_recorded_and_priced(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.play(answer(VECTORS))
    found = client(gateway).embeddings.with_raw_response.create(
        model="text-embedding-3-small", input=["a", "b"], encoding_format="float"
    )
    assert found.parse().data[0].embedding == [0.5, -0.25]
    records = recorded(gateway, found.headers)
    (row,) = records["token_usages"]
    assert row["input_tokens"] == 8
    assert (row["cost_nano_usd"], row["price"]) == (160, "openai/text-embedding-3-small")
    assert records["user_prompts"] == []
    asked = provider.requests[-1]
    assert asked.target == "/v1/embeddings"
    assert json.loads(asked.body)["input"] == ["a", "b"]


def test_a_picture_and_a_stream_of_drafts(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.play(answer({"created": 1, "data": [{"b64_json": PIXEL}], "usage": USAGE}))
    asks = client(gateway).images
    made = asks.with_raw_response.generate(model="gpt-image-1.5", prompt="a cat on a pin")
    assert made.parse().data[0].b64_json == PIXEL  # type: ignore[index]
    records = recorded(gateway, made.headers)
    assert [each["prompt"] for each in records["user_prompts"]] == ["a cat on a pin"]
    (row,) = records["token_usages"]
    assert row["cost_nano_usd"] == 5 * 5_000 + 100 * 32_000

    draft = {"type": "image_edit.partial_image", "b64_json": PIXEL, "partial_image_index": 0}
    last = {"type": "image_edit.completed", "b64_json": PIXEL, "usage": USAGE}
    provider.play(stream([event(each, each["type"]) for each in (draft, last)]))
    drafts = asks.edit(
        model="gpt-image-1.5",
        image=("a.png", b"\x89PNG"),
        prompt="blue",
        stream=True,
        partial_images=1,
    )
    assert [each.type for each in drafts] == ["image_edit.partial_image", "image_edit.completed"]
    records = newest(gateway)
    assert records["token_usages"][0]["output_tokens"] == 100
    assert records["user_prompts"][0]["prompt"] == "blue"


def test_a_recording_goes_in_as_a_form_byte_for_byte(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.play(answer(HEARD))
    sound = recording()
    found = client(gateway).audio.transcriptions.with_raw_response.create(
        model="gpt-4o-transcribe", file=("ghent.wav", sound, "audio/wav")
    )
    assert found.parse().text == "Hello, Ghent."
    (row,) = recorded(gateway, found.headers)["token_usages"]
    assert row["cost_nano_usd"] == 14 * 6_000 + 5 * 10_000
    asked = provider.requests[-1]
    assert sound in asked.body
    assert asked.header("content-type").startswith("multipart/form-data; boundary=")
    subtitles = "1\n00:00 --> 00:01\nHello.\n"
    provider.play(answer(subtitles, content_type="text/plain; charset=utf-8"))
    text = send_form(
        gateway, "/openai/v1/audio/translations", model="whisper-1", response_format="srt"
    )
    assert text.text == subtitles


def test_speech_arrives_while_it_is_being_made(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    more = threading.Event()
    provider.play(stream([SPOKEN, WaitFor(more), SPOKEN], content_type="audio/mpeg"))
    speech = client(gateway).audio.speech.with_streaming_response
    with speech.create(model="gpt-4o-mini-tts", voice="alloy", input="Hello.") as said:
        arriving = said.iter_bytes(1024)
        first = b""
        while len(first) < len(SPOKEN):
            first += next(arriving)
        more.set()
        assert first + b"".join(arriving) == SPOKEN * 2
        headers = said.headers
    (row,) = recorded(gateway, headers)["token_usages"]
    # Nobody told what it has cost.
    assert row["cost_nano_usd"] is None


def test_speech_that_breaks_off_does_not_end_well(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.play(cut([SPOKEN]))
    speech = client(gateway).audio.speech.with_streaming_response
    with (
        pytest.raises(Exception, match="peer closed connection"),
        speech.create(model="tts-1", voice="alloy", input="Hello.") as said,
    ):
        said.read()
    wait_until(lambda: newest(gateway)["error_type"] == "server_error", "the cut is recorded")


def test_moderations_and_ranks(gateway: GatewayProcess, provider: ScriptedProvider) -> None:
    provider.play(answer({"id": "modr-1", "model": "m", "results": [{"flagged": True}]}))
    judged = client(gateway).moderations.with_raw_response.create(input="pins")
    assert recorded(gateway, judged.headers)["token_usages"] == []
    provider.play(answer({"results": [{"index": 0}], "usage": {"total_tokens": 56}}))
    ranked = requests.post(
        f"{gateway.url}/openai/v1/rerank",
        json={"model": "ranker", "query": "q", "documents": ["a"]},
        headers={"Authorization": f"Bearer {gateway.key()}"},
        timeout=30,
    )
    (row,) = recorded(gateway, ranked.headers)["token_usages"]
    assert row["input_tokens"] == 56


def test_a_list_of_models_holds_for_forms_too(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.play(answer(HEARD))
    hears = client(gateway, "listed").audio.transcriptions
    sound = ("ghent.wav", recording(), "audio/wav")
    found = hears.with_raw_response.create(model="ear", file=sound)
    assert b"\r\n\r\ngpt-4o-transcribe\r\n" in provider.requests[-1].body
    assert recorded(gateway, found.headers)["model"] == "ear"
    with pytest.raises(openai.NotFoundError, match='has no model "gpt-4o-transcribe"'):
        hears.create(model="gpt-4o-transcribe", file=sound)


def test_another_provider_stands_in_and_sound_is_an_answer(
    gateway: GatewayProcess, provider: ScriptedProvider, backup: ScriptedProvider
) -> None:
    provider.play(error(500))
    backup.play(answer(SPOKEN, content_type="audio/mpeg"))
    speech = client(gateway, "rescued").audio.speech
    assert speech.create(model="tts-1", voice="alloy", input="Hi.").read() == SPOKEN
    # Whisper takes no notice of `stream`: its document is the answer.
    provider.play(answer(HEARD))
    path = "/rescued/v1/audio/transcriptions"
    heard = send_form(gateway, path, model="whisper-1", stream="true")
    assert heard.json()["text"] == "Hello, Ghent."
    assert backup.unplayed == 0
    provider.play(answer("<html>", content_type="text/html"))
    backup.play(answer(VECTORS))
    rescued = client(gateway, "rescued").embeddings.create(model="m", input="a")
    assert rescued.usage.prompt_tokens == 8


def test_a_form_that_can_be_read_in_two_ways_goes_nowhere(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="model"\n\r\n\r\nx\r\n--b--\r\n'
    before = len(provider.requests)
    refused = requests.post(
        f"{gateway.url}/openai/v1/audio/transcriptions",
        data=body.replace(b"\r\n", b"\n"),
        headers={
            "Authorization": f"Bearer {gateway.key()}",
            "Content-Type": "multipart/form-data; boundary=b",
        },
        timeout=30,
    )
    assert refused.status_code == 400
    assert "not a valid form" in refused.json()["error"]["message"]
    assert len(provider.requests) == before
