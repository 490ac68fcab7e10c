"""How long answers ask to wait."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.providers.delays import delay_in_body, requested_delay
from aigateway.actors.providers.refusals import ProviderAnswer

WALL = 1_792_567_620.0
"""Wed, 21 Oct 2026 07:27:00 GMT."""

DELAYS = [
    ([], None),
    ([("Retry-After", "7")], 7.0),
    ([("retry-after", " 7 ")], 7.0),
    ([("Retry-After", "1.5")], 1.5),
    ([("Retry-After", "0.25")], 0.25),
    ([("Retry-After", "86400")], 86400.0),
    ([("Retry-After-Ms", "1500")], 1.5),
    ([("retry-after-ms", "0.5")], 0.0005),
    ([("Retry-After", "7"), ("Retry-After-Ms", "1500")], 1.5),
    ([("Retry-After", "7"), ("Retry-After-Ms", "0")], 7.0),
    ([("Retry-After", "7"), ("Retry-After-Ms", "-1")], 7.0),
    ([("Retry-After", "7"), ("Retry-After-Ms", "soon")], 7.0),
    ([("Retry-After", "7"), ("Retry-After-Ms", "nan")], 7.0),
    ([("Retry-After", "7"), ("Retry-After-Ms", "inf")], 7.0),
    # Zero and what has passed say "now", which is not the same as to say nothing.
    ([("Retry-After", "0")], 0.0),
    ([("Retry-After", "0.0")], 0.0),
    ([("retry-after-ms", "0")], 0.0),
    ([("retry-after-ms", "0"), ("Retry-After", "soon")], 0.0),
    ([("Retry-After", "0"), ("x-ratelimit-remaining-tokens", "0"),
      ("x-ratelimit-reset-tokens", "6m0s")], 0.0),
    ([("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "0s")], 0.0),
    ([("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "")], None),
    ([("anthropic-ratelimit-requests-remaining", "0"),
      ("anthropic-ratelimit-requests-reset", "2026-10-21T07:26:59Z")], 0.0),
    ([("Retry-After", "3s")], None),
    ([("Retry-After", "-5")], None),
    ([("Retry-After", "")], None),
    ([("Retry-After", "9" * 5000)], None),
    ([("Retry-After", "soon")], None),
    ([("Retry-After", "١٢")], None),
    # Dates.
    ([("Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT")], 60.0),
    ([("Retry-After", "Wednesday, 21-Oct-26 07:28:00 GMT")], 60.0),
    ([("Retry-After", "Wed Oct 21 07:28:00 2026")], 60.0),
    ([("Retry-After", "Wed, 21 Oct 2026 07:26:00 GMT")], 0.0),
    ([("Retry-After", "Wed, 99 Oct 2026 07:28:00 GMT")], None),
    # OpenAI's limits, of which only those that are used up count.
    ([("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "6m0s")], 360.0),
    ([("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "20ms")], 0.02),
    ([("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "1h2m3.5s")], 3723.5),
    ([("x-ratelimit-remaining-tokens", "9"), ("x-ratelimit-reset-tokens", "6m0s")], None),
    ([("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "later")], None),
    ([("Retry-After", "2"), ("x-ratelimit-remaining-tokens", "0"),
      ("x-ratelimit-reset-tokens", "6m0s")], 2.0),
    # Anthropic's.
    ([("anthropic-ratelimit-requests-remaining", "0"),
      ("anthropic-ratelimit-requests-reset", "2026-10-21T07:27:30Z")], 30.0),
    ([("anthropic-ratelimit-input-tokens-remaining", "0"),
      ("anthropic-ratelimit-input-tokens-reset", "2026-10-21T07:27:30+00:00"),
      ("anthropic-ratelimit-requests-remaining", "5"),
      ("anthropic-ratelimit-requests-reset", "2026-10-21T08:27:30Z")], 30.0),
    ([("anthropic-ratelimit-requests-remaining", "0"),
      ("anthropic-ratelimit-requests-reset", "soon")], None),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "seconds"), DELAYS)
def test_a_delay_is_read_as_it_is_meant(
    headers: list[tuple[str, str]], seconds: float | None
) -> None:
    assert requested_delay(headers, WALL) == pytest.approx(seconds)


@given(
    st.sampled_from(["Retry-After", "retry-after-ms", "x-ratelimit-reset-tokens",
                     "anthropic-ratelimit-tokens-reset"]),
    st.text(st.characters(max_codepoint=255), max_size=40),
)  # fmt: skip
def test_no_header_makes_a_delay_that_is_not_a_time(name: str, value: str) -> None:
    used_up = [("x-ratelimit-remaining-tokens", "0"), ("anthropic-ratelimit-tokens-remaining", "0")]
    delay = requested_delay([(name, value), *used_up], WALL)
    assert delay is None or 0 <= delay < float("inf")


def google_error(*details: object) -> dict[str, object]:
    return {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": list(details)}}


def retry_info(delay: object) -> dict[str, object]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


QUOTA = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": []}


@pytest.mark.parametrize(
    ("document", "seconds"),
    [
        (google_error(QUOTA, retry_info("12s")), 12.0),
        (google_error(retry_info("0.125s")), 0.125),
        (google_error(retry_info("0s")), 0.0),
        ([google_error(retry_info("12s"))], 12.0),
        (google_error(retry_info("12")), None),
        (google_error(retry_info("soons")), None),
        (google_error(retry_info(12)), None),
        (google_error(QUOTA), None),
        (google_error({"@type": "RetryInfo", "retryDelay": "1s"}), None),
        ({"error": "RetryInfo"}, None),
        ([], None),
    ],
)
def test_google_tells_the_delay_in_the_body(document: object, seconds: float | None) -> None:
    body = json.dumps(document, indent=1).encode()
    assert delay_in_body(body) == seconds
    answer = ProviderAnswer(429, [("Date", "x")], body)
    assert requested_delay(answer.told, WALL) == seconds
    # A header says it more precisely.
    answer = ProviderAnswer(429, [("Retry-After", "7")], body)
    assert requested_delay(answer.told, WALL) == 7.0


@pytest.mark.parametrize(
    ("status", "reason", "of_key"),
    [
        (400, "API_KEY_INVALID", 401),
        (400, "FIELD_INVALID", 400),
        (403, "API_KEY_INVALID", 403),
        (429, "", 429),
    ],
)
def test_google_answers_400_to_a_key_that_it_does_not_know(
    status: int, reason: str, of_key: int
) -> None:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}
    body = json.dumps({"error": {"status": "INVALID_ARGUMENT", "details": [info]}}).encode()
    answer = ProviderAnswer(status, [], body)
    assert answer.of_key == of_key
    assert answer.rejects_credential is (of_key == 401)
    assert answer.error_type == "INVALID_ARGUMENT"


def test_a_400_that_quotes_such_a_reason_is_about_the_request() -> None:
    body = json.dumps({"error": {"message": "what is API_KEY_INVALID?"}}).encode()
    assert ProviderAnswer(400, [], body).of_key == 400
