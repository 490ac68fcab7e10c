"""What an error answer tells of the account is masked; the rest of it stays as it was."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.codec.decoding import encode
from aigateway.actors.interception.headers import without_account
from aigateway.actors.interception.masking import (
    MASK,
    mask_body,
    mask_headers,
    mask_text,
)

UUID = "550e8400-e29b-41d4-a716-446655440000"

TEXTS = [
    ("API key provided: sk-proj-***Ab12. You can", "API key provided: ***. You can"),
    ("key sk-ant-...w4Qz is", "key *** is"),
    ("key sk-…w4Qz is", "key *** is"),
    ("sk_live_0123456789", "***"),
    ("provided: my-own-****wxyz.", "provided: ***."),
    ("a key ending in 'w4Qz' is", "a key ending in '***' is"),
    ("AKIAIOSFODNN7EXAMPLE is not", "*** is not"),
    ("gsk_abcdEFGH1234 AIzaSyA-0123456789abcdef", "*** ***"),
    ("in organization org-AbC123 on tokens", "in organization *** on tokens"),
    ("in organization org-abcdefghijklmnop on", "in organization *** on"),
    ("Project `proj_abc123` has no", "Project `***` has no"),
    ("workspace wrkspc_01JwQvzr7rXLA5AGx3HKfFUJ", "workspace ***"),
    (f"your organization ({UUID}) of", "your organization (***) of"),
    (f'"organization_id":"{UUID}"', '"organization_id":"***"'),
    ("arn:aws:bedrock:us-east-1:123456789012:model/x", "arn:aws:bedrock:us-east-1:***:model/x"),
    ("arn:aws-us-gov:iam::123456789012:user/bob", "arn:aws-us-gov:iam::***:user/bob"),
    ("account 123456789012 is", "account *** is"),
    ("account=123456789012. See /123456789012/queue", "account=***. See /***/queue"),
    ("projects/123456789/locations", "projects/***/locations"),
    ('{"containerInfo": "1234567890"}', '{"containerInfo": "***"}'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "masked"), TEXTS)
def test_what_tells_of_the_account_is_masked(text: str, masked: str) -> None:
    assert mask_text(text) == masked
    # In JSON, whatever stands around it.
    body = json.dumps({"error": {"message": text}}, ensure_ascii=False).encode()
    edited = mask_body(body, [])
    assert edited is not None
    assert json.loads(edited[0])["error"]["message"] == masked


KEPT = [
    "org-wide and organization-level limits of the org",
    "the project_name of proj_settings",
    "risk-averse, task-sk-1, disk-full",
    "request req_011CSHoEeqs5C35K2UUqR7Fy, message msg_01XFDUDYJgAACzvnptvVoYEL",
    f"request id {UUID}",
    "claude-opus-4-8-20260701 gpt-5.2-codex anthropic.claude-sonnet-4-5-20250929-v1:0",
    "Limit 30000, Used 29000, Requested 1500 at 1764358731000",
    "Please try again in 1.5s. Visit https://platform.openai.com/account/rate-limits.",
    "tools.0.custom.input_schema: Field required",
]


@pytest.mark.parametrize("text", KEPT)
def test_the_rest_of_an_error_stays_as_it_was(text: str) -> None:
    assert mask_text(text) == text
    assert mask_body(text.encode(), [("Content-Encoding", "identity")]) is None


def test_an_account_that_is_a_json_number_leaves_json() -> None:
    edited = mask_body(b'{"account": 123456789012, "at":1764358731000}', [])
    assert edited is not None
    assert json.loads(edited[0]) == {"account": 0, "at": 1764358731000}


def test_the_gateways_own_keys_are_masked_wherever_they_stand() -> None:
    text = "unknown key correct-horse-battery for none"
    assert mask_text(text, ["correct-horse-battery", "none"]) == "unknown key *** for none"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, br"])
def test_an_encoded_body_is_edited_decoded_and_its_headers_fit(coding: str) -> None:
    body = encode(b"for org-AbC123", coding)
    headers = [
        ("Content-Type", "text/plain"),
        ("content-encoding", coding),
        ("Content-Length", str(len(body))),
        ("ETag", '"1"'),
    ]
    assert mask_body(body, headers) == (
        b"for ***",
        [("Content-Type", "text/plain"), ("Content-Length", "7")],
    )
    assert mask_body(encode(b"for nobody", coding), headers) is None


def test_a_body_that_does_not_decode_is_left_alone() -> None:
    assert mask_body(b"org-AbC123", [("Content-Encoding", "gzip")]) is None
    assert mask_body(b"org-AbC123", [("Content-Encoding", "secret")]) is None


def test_headers_about_the_account_stay_and_others_are_kept_in_order() -> None:
    headers = [
        ("OpenAI-Organization", "acme"), ("X-A", "1"), ("Set-Cookie", "a=b"),
        ("anthropic-organization-id", UUID), ("x-a", "2"), ("openai-project", "proj_1"),
        ("openai_organization", "acme"), ("Set-Cookie2", "a=b"),
        ("x-amzn-ErrorMessage", "arn:aws:iam::123456789012:user/bob may not"),
    ]  # fmt: skip
    kept = [("X-A", "1"), ("x-a", "2"), headers[-1]]
    assert [*without_account(headers)] == kept
    kept[-1] = ("x-amzn-ErrorMessage", "arn:aws:iam::***:user/bob may not")
    assert mask_headers(without_account(headers)) == kept


@pytest.mark.parametrize(
    "piece",
    [b"a", b"*", b"sk-", b"org-", b"arn:aws:", b"1", b"project ", b": ", b"\\n", b"..", b"a*"],
)
def test_a_large_error_is_masked_in_time_that_grows_with_its_size_alone(piece: bytes) -> None:
    began = time.process_time()
    mask_body(piece * (1024 * 1024 // len(piece)), [])
    assert time.process_time() - began < 5


@given(st.binary(max_size=200))
def test_masking_ends_and_masks_nothing_twice(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    once = mask_text(text)
    assert mask_text(once) == once
    assert MASK == "***"


def test_escapes_of_json_hide_nothing() -> None:
    edited = mask_body(b'{"message":"key sk-\\u2026w4Qz"}', [])
    assert edited == (b'{"message":"key ***"}', [])
    for escape in (b"\\n", b"\\t", b"\\u003c", b'\\"'):
        for secret in (
            b"sk-abc123",
            b"abcd****wxyz",
            b"org-AbC123",
            b"AKIAIOSFODNN7EXAMPLE",
            b"123456789012",
        ):
            edited = mask_body(b'{"message":"%s%s"}' % (escape, secret), [])
            assert edited == (b'{"message":"%s***"}' % escape, [])
        said = b"organization (550e8400-e29b-41d4-a716-446655440000)"
        edited = mask_body(b'{"message":"%s%s"}' % (escape, said), [])
        assert edited == (b'{"message":"%sorganization (***)"}' % escape, [])


@given(
    st.sampled_from(["", " ", "(", '"', "=", ":", "`", ">", "\u00e9"]),
    st.one_of(
        st.from_regex(r"sk-[A-Za-z0-9_-]{3,40}", fullmatch=True),
        st.from_regex(r"org-[A-Z][A-Za-z0-9]{3,24}", fullmatch=True),
    ),
    st.sampled_from(["", " ", ".", ",", ")", '"', "\\n", "<"]),
)
def test_no_key_or_organisation_is_left(before: str, secret: str, behind: str) -> None:
    assert mask_text(before + secret + behind) == before + MASK + behind
