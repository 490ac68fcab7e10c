"""Which token a client presents, and which key the provider sees."""

from __future__ import annotations

import pytest

from aigateway.actors.interception.headers import (
    byok_credential,
    centralized,
    extract,
    mask,
    with_query_key,
)
from aigateway.actors.values.provider_config import OPENAI_TYPES, PROVIDER_TYPES

Pairs = list[tuple[str, str]]
CODER = "coder-token-Zz81"
GOVERNANCE = ("X-Coder-AI-Governance-Token", CODER)
BEARER = ("Authorization", f"Bearer {CODER}")
API_KEY = ("X-Api-Key", CODER)
OTHER = ("Accept", "*/*")

CENTRALIZED_ROWS: list[tuple[str, Pairs, Pairs]] = [
    ("bearer", [BEARER, OTHER], [OTHER]),
    ("scheme in any case", [("authorization", f"bEaReR {CODER}")], []),
    ("white space around", [("Authorization", f"  Bearer   {CODER}  ")], []),
    ("api key", [OTHER, API_KEY], [OTHER]),
    ("api key with white space", [("x-api-key", f" {CODER} ")], []),
    ("bearer before api key", [("X-Api-Key", "other"), BEARER], []),
    ("google's key", [OTHER, ("x-goog-api-key", CODER)], [OTHER]),
    ("api key before google's", [("X-Goog-Api-Key", "other"), API_KEY], []),
    ("basic is not bearer", [("Authorization", "Basic abc"), API_KEY], []),
    ("three fields are not bearer", [("Authorization", "Bearer a b"), API_KEY], []),
    ("no scheme", [("Authorization", "abc"), API_KEY], []),
    ("first usable of several", [("Authorization", "Basic x"), BEARER], []),
    ("blank governance header", [("X-Coder-AI-Governance-Token", "  "), BEARER], []),
    ("request id", [("X-Coder-AI-Governance-Request-Id", "r1"), BEARER], []),
    ("token repeated elsewhere", [BEARER, ("Api-Key", CODER), ("Coder-Session-Token", CODER)], []),
    (
        "under any name",
        [BEARER, ("X-Mine", f"t={CODER}"), ("Cookie", f"a={CODER}"), OTHER],
        [OTHER],
    ),
]


@pytest.mark.parametrize(
    ("headers", "remaining"),
    [row[1:] for row in CENTRALIZED_ROWS],
    ids=[row[0] for row in CENTRALIZED_ROWS],
)
def test_the_coder_token_is_taken_out(headers: Pairs, remaining: Pairs) -> None:
    presented = extract(headers)
    assert presented is not None
    assert (presented.token, presented.byok) == (CODER, False)
    assert list(presented.remaining_headers) == remaining


BYOK_ROWS: list[tuple[str, Pairs, Pairs]] = [
    ("alone", [GOVERNANCE], []),
    ("any case", [("x-coder-ai-governance-token", f" {CODER} "), OTHER], [OTHER]),
    (
        "own keys stay",
        [("Authorization", "Bearer own"), GOVERNANCE, ("X-Api-Key", "own"), OTHER],
        [("Authorization", "Bearer own"), ("X-Api-Key", "own"), OTHER],
    ),
    (
        "the coder token is nobody's provider key",
        [GOVERNANCE, BEARER, ("X-Api-Key", "own")],
        [("X-Api-Key", "own")],
    ),
    ("nor in the other header", [GOVERNANCE, API_KEY], []),
    ("all copies go", [GOVERNANCE, ("X-Coder-AI-Governance-Token", "second")], []),
    ("request id", [("X-Coder-AI-Governance-Request-Id", "r1"), GOVERNANCE], []),
]


@pytest.mark.parametrize(
    ("headers", "remaining"), [row[1:] for row in BYOK_ROWS], ids=[row[0] for row in BYOK_ROWS]
)
def test_with_a_key_of_its_own_a_client_presents_the_token_apart(
    headers: Pairs, remaining: Pairs
) -> None:
    presented = extract(headers)
    assert presented is not None
    assert (presented.token, presented.byok) == (CODER, True)
    assert list(presented.remaining_headers) == remaining


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [OTHER],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Basic abc")],
        [("X-Api-Key", "  ")],
        [("X-Coder-AI-Governance-Token", " ")],
        [("Coder-Session-Token", CODER)],
        [("Cookie", f"coder_session_token={CODER}")],
    ],
)
def test_anything_else_presents_no_token(headers: Pairs) -> None:
    assert extract(headers) is None


@pytest.mark.parametrize(
    ("query", "key"),
    [
        (f"key={CODER}", CODER),
        (f"alt=sse&key={CODER}", CODER),
        (f"%6Bey={CODER}&alt=sse", CODER),
        ("key=a%2Bb+c", "a+b c"),
        ("key=&key=x", "x"),
        ("alt=sse&monkey=x", None),
        ("key", None),
        ("", None),
    ],
)
def test_a_key_in_the_query_counts_like_one_in_a_header(query: str, key: str | None) -> None:
    expected = [OTHER] if key is None else [OTHER, ("X-Goog-Api-Key", key)]
    assert list(with_query_key([OTHER], query)) == expected
    headers = [("x-goog-api-key", "first")]
    assert list(with_query_key(headers, query)) == headers


def test_the_proxys_request_id_is_handed_over() -> None:
    request_id = ("x-coder-ai-governance-request-id", " r1 ")
    for headers in ([BEARER, request_id], [GOVERNANCE, request_id]):
        presented = extract(headers)
        assert presented is not None
        assert presented.request_id == "r1"
    bare = extract([BEARER])
    assert bare is not None
    assert bare.request_id == ""


OWN = "sk-own-key-0123456789"
OWN_KEY = [("X-Api-Key", OWN)]
OWN_BEARER = [("Authorization", f"Bearer {OWN}")]
AS_BEARER = (("Authorization", f"Bearer {OWN}"),)
AS_KEY = (("X-Api-Key", OWN),)
OWN_GOOGLE_KEY = [("x-goog-api-key", OWN)]
AS_GOOGLE_KEY = (("X-Goog-Api-Key", OWN),)

OWN_ROWS = [
    *(
        (kind, headers, sent)
        for kind in ("anthropic", "bedrock")
        for headers, sent in [
            (OWN_KEY, AS_KEY),
            ([("x-api-key", f" {OWN} ")], AS_KEY),
            (OWN_BEARER, AS_BEARER),
            ([("authorization", f"bearer  {OWN}")], AS_BEARER),
            ([("Authorization", "Bearer other"), *OWN_KEY], AS_KEY),
            ([("X-Api-Key", " "), *OWN_BEARER], AS_BEARER),
            ([("Authorization", OWN)], None),
            ([], None),
        ]
    ),
    *(
        ("gemini", headers, sent)
        for headers, sent in [
            (OWN_GOOGLE_KEY, AS_GOOGLE_KEY),
            ([*OWN_BEARER, *OWN_GOOGLE_KEY], AS_GOOGLE_KEY),
            (OWN_BEARER, AS_BEARER),
            (OWN_KEY, None),
            ([], None),
        ]
    ),
    *(
        (kind, headers, sent)
        for kind in (*sorted(OPENAI_TYPES), "copilot")
        for headers, sent in [
            (OWN_BEARER, AS_BEARER),
            ([*OWN_KEY, *OWN_BEARER], AS_BEARER),
            (OWN_KEY, None),
            ([("Authorization", "Basic x")], None),
            ([], None),
        ]
    ),
]


@pytest.mark.parametrize(("provider_type", "headers", "sent"), OWN_ROWS)
def test_a_clients_own_key_goes_upstream_in_its_own_form(
    provider_type: str, headers: Pairs, sent: tuple[tuple[str, str], ...] | None
) -> None:
    credential = byok_credential(provider_type, headers)
    if sent is None:
        assert credential is None
        return
    assert credential is not None
    assert tuple(credential.headers) == sent
    assert (credential.kind, credential.secret, credential.hint) == ("byok", OWN, "sk-o...6789")


@pytest.mark.parametrize("provider_type", [kind for kind in PROVIDER_TYPES if kind != "copilot"])
def test_the_gateways_key_goes_upstream_in_the_providers_form(provider_type: str) -> None:
    credential = centralized(provider_type, OWN)
    forms = {
        "anthropic": AS_KEY,
        "azure": (("Api-Key", OWN),),
        "bedrock": AS_KEY,
        "gemini": AS_GOOGLE_KEY,
    }
    sent = forms.get(provider_type, AS_BEARER)
    assert tuple(credential.headers) == sent
    assert (credential.kind, credential.secret, credential.hint) == (
        "centralized",
        OWN,
        "sk-o...6789",
    )


def test_copilot_is_never_called_with_a_key_of_the_gateway() -> None:
    with pytest.raises(ValueError, match="clients bring their own token") as caught:
        centralized("copilot", OWN)
    assert OWN not in str(caught.value)


@pytest.mark.parametrize(
    ("secret", "masked"),
    [
        ("", ""),
        ("a", "..."),
        ("abcd", "..."),
        ("abcde", "a...e"),
        ("abcdefghi", "a...i"),
        ("abcdefghij", "ab...ij"),
        ("abcdefghijklmnopqrs", "ab...rs"),
        ("abcdefghijklmnopqrst", "abcd...qrst"),
        ("äöüß€", "ä...€"),
    ],
)
def test_a_secret_is_masked_by_its_length_in_characters(secret: str, masked: str) -> None:
    assert mask(secret) == masked


def test_no_secret_stands_in_a_repr() -> None:
    presented = extract([GOVERNANCE, ("X-Api-Key", OWN)])
    shown = (
        repr(presented)
        + repr(byok_credential("anthropic", OWN_KEY))
        + repr(centralized("openai", OWN))
    )
    assert CODER not in shown
    assert OWN not in shown
    assert "sk-o...6789" in shown
