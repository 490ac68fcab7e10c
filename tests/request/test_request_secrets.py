"""Secrets in queries, which go neither upstream nor into what people read."""

from __future__ import annotations

import pytest

from aigateway.actors.codec.headers import (
    is_secret_name,
    masked_query,
    without_secrets,
)

SECRET = [
    "key",
    "KEY",
    "api_key",
    "api-key",
    "apikey",
    "apiKey",
    "access_token",
    "accessToken",
    "token",
    "auth",
    "client_secret",
    "sig",
    "password",
    "subscription-key",
    "AWSAccessKeyId",
    "X-Amz-Signature",
    "X-Amz-Security-Token",
    "X-Goog-Credential",
    "%6Bey",
    "api%5Fkey",
    "+key",
]
PLAIN = [
    "after",
    "limit",
    "order",
    "include[]",
    "metadata[key]",
    "page_token",
    "pageToken",
    "next_page_token",
    "max_tokens",
    "beta",
    "api-version",
    "monkey",
    "keyword",
    "alt",
]


@pytest.mark.parametrize("name", SECRET)
def test_a_secret_in_a_query_stays_here_and_the_rest_is_as_it_came(name: str) -> None:
    assert without_secrets(f"{name}=s3cret") == ""
    assert without_secrets(f"a=1&{name}=s3cret&b=%20+&b") == "a=1&b=%20+&b"
    assert without_secrets(f"a=1;{name}=s3cret&b=2") == "b=2"
    assert masked_query(f"a=1&{name}=s3cret&b=2") == f"a=1&{name}=...&b=2"


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_no_secret_stays_in_a_query(name: str) -> None:
    query = f"{name}=1&x"
    assert without_secrets(query) == masked_query(query) == query
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "query", ["q=c0der", "q=%630der", "a=1;q=c0der", "c0der", "q=Bearer%20c0der", "q=Bearer+c0der"]
)
def test_the_token_itself_goes_under_whatever_name(query: str) -> None:
    assert without_secrets(f"{query}&b=c0der2", "c0der") == "b=c0der2"


@pytest.mark.parametrize("query", ["q=to:{}", "q={}%0A", "{}=1", "%78{}", "q=a,{}"])
def test_a_long_token_goes_wherever_it_stands_in_a_query(query: str) -> None:
    token = "Ab3dEf6hIj-Kl3nOp6rSt9vWx2zAb5dEf"
    assert without_secrets(query.format(token) + "&b=2", token) == "b=2"
