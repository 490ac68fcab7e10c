"""What each header becomes on its way to the provider and back."""

from __future__ import annotations

import pytest

from aigateway.actors.codec.headers import HeaderList, first_of, values_of
from aigateway.actors.interception.headers import (
    HOP_BY_HOP,
    BadAgentFirewall,
    UnsafeHeader,
    agent_firewall,
    for_client,
    for_upstream,
)

AUTH = [("X-Api-Key", "sk-provider")]
SESSION = "F47AC10B-58cc-4372-a567-0e02b2c3d479"

KEPT = [
    "User-Agent",
    "Content-Type",
    "Content-Encoding",
    "Accept",
    "Anthropic-Version",
    "Anthropic-Beta",
    "Idempotency-Key",
    "session_id",
    "X-Claude-Code-Session-Id",
    "Editor-Version",
    "Copilot-Integration-Id",
    "X-Stainless-Lang",
    "X-Custom",
]
CREDENTIALS = [
    "Authorization",
    "X-Api-Key",
    "Api-Key",
    "ApiKey",
    "X-Goog-Api-Key",
    "X-Goog-IAP-JWT-Assertion",
    "X-Amz-Security-Token",
    "Coder-Session-Token",
    "x-auth-token",
    "X-Access-Token",
    "X-Auth-Key",
    "X-Authorization",
    "Proxy-Authorization",
    "Ocp-Apim-Subscription-Key",
    "X-Functions-Key",
    "Private-Token",
    "Helicone-Auth",
    "CF-Access-Client-Id",
    "CF-Access-Client-Secret",
    "X-Amzn-OIDC-Data",
    "X_API_KEY",
    "PROXY_AUTHORIZATION",
    "Cookie2",
]
ACCOUNT = [
    "OpenAI-Organization",
    "OpenAI-Project",
    "OPENAI_ORGANIZATION",
    "Anthropic-Workspace-Id",
    "ChatGPT-Account-Id",
    "X-Goog-User-Project",
]
ALWAYS_REMOVED = [
    *sorted(HOP_BY_HOP),
    *CREDENTIALS,
    "CONTENT_LENGTH",
    "TRANSFER_ENCODING",
    "X_Coder_AI_Governance_Token",
    "X_Forwarded_For",
    "Host",
    "Content-Length",
    "Expect",
    "Forwarded",
    "X-Real-IP",
    "X_Real_IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "X-Envoy-External-Address",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Coder-AI-Governance-Token",
    "X-Coder-AI-Governance-Request-Id",
    "X-Coder-AI-Governance-Anything",
    "X-AI-Bridge-Actor-ID",
    "x-ai-bridge-actor-metadata-username",
    "X-Ai-Bridge-Actor",
    "X-Coder-Agent-Firewall-Session-Id",
    "X-Coder-Agent-Firewall-Sequence-Number",
]
REMOVED_WHEN_INTERCEPTED = [
    "Accept-Encoding",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
]


def spellings(name: str) -> list[str]:
    return [name, name.lower(), name.upper()]


@pytest.mark.parametrize("name", [s for name in KEPT for s in spellings(name)])
@pytest.mark.parametrize("passthrough", [False, True])
def test_a_clients_own_header_goes_upstream(name: str, passthrough: bool) -> None:
    sent = for_upstream([(name, "value")], auth=AUTH, actor=[], passthrough=passthrough)
    assert (name, "value") in sent


@pytest.mark.parametrize("name", [s for name in ALWAYS_REMOVED for s in spellings(name)])
@pytest.mark.parametrize("passthrough", [False, True])
@pytest.mark.parametrize("own_key", [False, True])
def test_a_header_of_this_hop_or_a_credential_stays_here(
    name: str, passthrough: bool, own_key: bool
) -> None:
    sent = for_upstream(
        [(name, "value")], auth=[], actor=[], passthrough=passthrough, own_key=own_key
    )
    assert values_of(sent, name) == []


@pytest.mark.parametrize("name", [s for name in ACCOUNT for s in spellings(name)])
@pytest.mark.parametrize("passthrough", [False, True])
def test_what_chooses_within_an_account_goes_with_the_key_of_that_account_only(
    name: str, passthrough: bool
) -> None:
    for own_key in (False, True):
        sent = for_upstream(
            [(name, "value")], auth=AUTH, actor=[], passthrough=passthrough, own_key=own_key
        )
        assert list(values_of(sent, name)) == ["value"] * own_key


COOKIES = [
    ("__cf_bm=1; theme=dark", "__cf_bm=1; theme=dark"),
    ("coder_session_token=abc", ""),
    ("a=1; coder_session_token=abc; b=2", "a=1; b=2"),
    ("a=1;CODER_SESSION_TOKEN=abc", "a=1"),
    ("__Host-coder_session_token=abc; a=1", "a=1"),
    ("coder_signed_app_token=x; coder_subdomain_app_session_token_f00=y; a=1", "a=1"),
    ("sessionid=x; PHPSESSID=y; session=z; connect.sid=s; _oauth2_proxy=t; a=1", "a=1"),
    ("access_token=x; auth-token=y; a=1; page_token=2", "a=1; page_token=2"),
    (";;", ""),
]


@pytest.mark.parametrize(("cookie", "kept"), COOKIES)
@pytest.mark.parametrize("passthrough", [False, True])
def test_cookies_go_with_the_users_own_key_but_for_credentials(
    cookie: str, kept: str, passthrough: bool
) -> None:
    for own_key in (False, True):
        sent = for_upstream(
            [("cookie", cookie)], auth=AUTH, actor=[], passthrough=passthrough, own_key=own_key
        )
        assert list(values_of(sent, "Cookie")) == ([kept] if own_key and kept else [])


@pytest.mark.parametrize("name", [s for name in REMOVED_WHEN_INTERCEPTED for s in spellings(name)])
def test_an_intercepted_request_loses_credentials_encodings_and_forwarding(name: str) -> None:
    assert for_upstream([(name, "value")], auth=[], actor=[]) == []


@pytest.mark.parametrize("name", ["Accept-Encoding", "Range"])
def test_a_passed_through_request_keeps_what_only_reading_forbids(name: str) -> None:
    sent = for_upstream([(name, "value")], auth=AUTH, actor=[], passthrough=True)
    assert (name, "value") in sent


@pytest.mark.parametrize("passthrough", [False, True])
def test_what_connection_names_belongs_to_this_hop(passthrough: bool) -> None:
    headers = [
        ("Connection", "close, X-Hop"),
        ("connection", "x-other"),
        ("x-hop", "1"),
        ("X-Other", "2"),
        ("X-Kept", "3"),
    ]
    sent = for_upstream(headers, auth=[], actor=[], passthrough=passthrough)
    assert ("X-Kept", "3") in sent
    assert not values_of(sent, "x-hop")
    assert not values_of(sent, "x-other")


def test_order_and_repetition_survive_and_ours_come_last() -> None:
    headers = [("B", "1"), ("Host", "gateway"), ("A", "2"), ("b", "3"), ("C", "4")]
    sent = for_upstream(headers, auth=AUTH, actor=[("X-AI-Bridge-Actor-ID", "u1")])
    assert sent == [
        ("B", "1"),
        ("A", "2"),
        ("b", "3"),
        ("C", "4"),
        ("X-Api-Key", "sk-provider"),
        ("X-AI-Bridge-Actor-ID", "u1"),
    ]


@pytest.mark.parametrize("passthrough", [False, True])
def test_the_providers_key_replaces_every_credential_of_the_client(passthrough: bool) -> None:
    headers = [(name, "mine") for name in CREDENTIALS]
    sent = for_upstream(headers, auth=AUTH, actor=[], passthrough=passthrough)
    assert "mine" not in [value for _, value in sent]
    assert values_of(sent, "x-api-key") == ["sk-provider"]


def test_a_client_cannot_name_the_actor_itself() -> None:
    actor = [("X-User", "real"), ("X-Mail", "")]
    forged = [("x-user", "forged"), ("X-MAIL", "forged"), ("X-AI-Bridge-Actor-ID", "forged")]
    assert for_upstream(forged, auth=[], actor=actor) == [("X-User", "real")]


def test_a_passed_through_request_names_no_actor() -> None:
    actor = [("X-User", "real")]
    sent = for_upstream([("x-user", "forged")], auth=[], actor=actor, passthrough=True)
    assert values_of(sent, "x-user") == []


def test_an_actors_name_is_sent_as_utf8() -> None:
    [(_, value)] = for_upstream([], auth=[], actor=[("X-User", "Zoë")])
    assert value.encode("latin-1") == "Zoë".encode()


FORWARDED_FOR = [
    ([], "203.0.113.9", ["203.0.113.9"]),
    ([], "2001:db8::1", ["2001:db8::1"]),
    ([("X-Forwarded-For", "10.0.0.1")], "203.0.113.9", ["10.0.0.1, 203.0.113.9"]),
    (
        [("X-Forwarded-For", "10.0.0.1, 10.0.0.2"), ("x-forwarded-for", "10.0.0.3")],
        "203.0.113.9",
        ["10.0.0.1, 10.0.0.2, 10.0.0.3, 203.0.113.9"],
    ),
    ([("X-Forwarded-For", " ")], "203.0.113.9", ["203.0.113.9"]),
    ([("X-Forwarded-For", "10.0.0.1")], "unix:", []),
    ([("X-Forwarded-For", "10.0.0.1")], "", []),
]


@pytest.mark.parametrize(("headers", "client_ip", "expected"), FORWARDED_FOR)
def test_forwarded_for_grows_by_the_client(
    headers: list[tuple[str, str]], client_ip: str, expected: list[str]
) -> None:
    sent = for_upstream(
        headers, auth=[], actor=[], passthrough=True, forwarded=True, client_ip=client_ip
    )
    assert values_of(sent, "X-Forwarded-For") == expected


def test_a_passed_through_request_says_where_it_came_in() -> None:
    headers = [("X-Forwarded-Host", "forged"), ("X-Forwarded-Proto", "forged")]
    sent = for_upstream(
        headers,
        auth=[],
        actor=[],
        passthrough=True,
        forwarded=True,
        scheme="https",
        host="gateway.example",
    )
    assert values_of(sent, "x-forwarded-host") == ["gateway.example"]
    assert values_of(sent, "x-forwarded-proto") == ["https"]


def test_unless_asked_for_nothing_is_said_of_where_a_request_came_in() -> None:
    came = [("X-Forwarded-For", "10.0.0.1"), ("X-Forwarded-Port", "1"), ("User-Agent", "codex/1")]
    sent = for_upstream(
        came, auth=[], actor=[], passthrough=True, client_ip="203.0.113.9", host="gateway.example"
    )
    assert sent == [("User-Agent", "codex/1")]


def test_without_host_and_with_any_other_scheme_it_says_less() -> None:
    sent = for_upstream([], auth=[], actor=[], passthrough=True, forwarded=True, scheme="wss")
    assert sent == [("X-Forwarded-Proto", "http"), ("User-Agent", "aibridge")]


def test_unless_asked_for_no_provider_learns_for_whom_a_request_is() -> None:
    headers = [("X-Forwarded-For", "10.0.0.1"), ("Forwarded", "for=10.0.0.1")]
    sent = for_upstream(
        headers, auth=[], actor=[], passthrough=True, client_ip="203.0.113.9", host="gateway"
    )
    assert sent == [("User-Agent", "aibridge")]


def test_an_intercepted_request_gains_nothing_of_a_proxys() -> None:
    sent = for_upstream([], auth=AUTH, actor=[], client_ip="203.0.113.9", host="gateway.example")
    assert sent == AUTH


def test_a_passed_through_request_keeps_its_user_agent() -> None:
    sent = for_upstream([("user-agent", "codex/1")], auth=[], actor=[], passthrough=True)
    assert values_of(sent, "User-Agent") == ["codex/1"]


@pytest.mark.parametrize("name", ["User-Agent", "USER_AGENT"])
def test_an_empty_user_agent_is_one_and_gets_no_second(name: str) -> None:
    sent = for_upstream([(name, "")], auth=[], actor=[], passthrough=True)
    assert sent == [(name, "")]


def test_an_answer_is_relayed_but_for_its_hop() -> None:
    headers = [
        ("Content-Type", "application/json"),
        ("Set-Cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("Content-Length", "12"),
        ("Content-Encoding", "gzip"),
        ("Retry-After", "3"),
        ("request-id", "req_1"),
    ]
    hop = [(name, "x") for name in sorted(HOP_BY_HOP - {"connection"})]
    hop += [("CONNECTION", "keep-alive, X-Hop"), ("x-hop", "1")]
    assert for_client([*hop, *headers, *hop]) == headers


@pytest.mark.parametrize("value", ["a\rb", "a\nb", "a\r\nSet-Cookie: x=y", "a\x00b", "\n"])
def test_a_value_that_would_become_two_headers_is_refused(value: str) -> None:
    calls = [
        lambda: for_client([("X-A", value)]),
        lambda: for_upstream([("X-A", value)], auth=[], actor=[]),
        lambda: for_upstream([], auth=[("X-A", value)], actor=[]),
        lambda: for_upstream([], auth=[], actor=[("X-A", value)]),
        lambda: for_upstream([], auth=[], actor=[], passthrough=True, forwarded=True, host=value),
    ]
    for call in calls:
        with pytest.raises(UnsafeHeader, match="a line break or a NUL") as caught:
            call()
        assert value not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "a\n", "é", "a\x00"])
def test_a_name_that_is_no_token_is_refused(name: str) -> None:
    for call in (for_client, lambda headers: for_upstream(headers, auth=[], actor=[])):
        with pytest.raises(UnsafeHeader, match=r"^a header name contains"):
            call([(name, "x")])


def firewall(session: str | None, sequence: str | None) -> list[tuple[str, str]]:
    named = [
        ("x-coder-agent-firewall-session-id", session),
        ("X-CODER-AGENT-FIREWALL-SEQUENCE-NUMBER", sequence),
    ]
    return [(name, value) for name, value in named if value is not None]


@pytest.mark.parametrize(
    ("session", "sequence", "expected"),
    [
        (None, None, None),
        (" ", "", None),
        (SESSION, "0", (SESSION.lower(), 0)),
        (f" {SESSION} ", " 7 ", (SESSION.lower(), 7)),
        (SESSION, "2147483647", (SESSION.lower(), 2147483647)),
    ],
)
def test_the_agent_firewalls_place_is_read(
    session: str | None, sequence: str | None, expected: tuple[str, int] | None
) -> None:
    assert agent_firewall(firewall(session, sequence)) == expected


@pytest.mark.parametrize(
    "headers",
    [
        firewall(SESSION, None),
        firewall(None, "1"),
        firewall(SESSION, " "),
        firewall("", "1"),
        firewall("not-a-uuid", "1"),
        firewall(SESSION.replace("-", ""), "1"),
        firewall(SESSION + "0", "1"),
        firewall(SESSION, "-1"),
        firewall(SESSION, "1.5"),
        firewall(SESSION, "one"),
        firewall(SESSION, "2147483648"),
        firewall(SESSION, "99999999999999999999"),
        firewall(SESSION, "١"),
        firewall(SESSION, "1") + firewall(SESSION, None),
        firewall(SESSION, "1") + firewall(None, "2"),
    ],
)
def test_half_or_broken_agent_firewall_headers_are_refused(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(BadAgentFirewall, match=r"^invalid agent firewall headers$"):
        agent_firewall(headers)


def test_values_are_found_whatever_their_case() -> None:
    headers = [("A", " 1 "), ("b", "x"), ("a", ""), ("a", "2")]
    assert values_of(headers, "a") == ["1", "", "2"]
    assert first_of([("a", " "), *headers], "A") == "1"
    assert first_of(headers, "c") == ""


def test_a_list_that_knows_its_names_says_what_any_sequence_says() -> None:
    headers = [("A", " 1 "), ("b", "x"), ("a", ""), ("a", "2")]
    listed = HeaderList(headers)
    assert list(listed) == headers
    for name in ("a", "A", "B", "c"):
        assert list(values_of(listed, name)) == list(values_of(headers, name))
        assert first_of(listed, name) == first_of(headers, name)


def test_a_name_is_checked_again_though_another_of_its_letters_was_good() -> None:
    assert for_client([("X-Good", "1")]) == [("X-Good", "1")]
    with pytest.raises(UnsafeHeader):
        for_client([("X-Good ", "1")])


SIGN_IN = [
    "X-Auth-Request-User",
    "X-Auth-Request-Email",
    "X-Auth-Request-Groups",
    "X-Auth-Request-Preferred-Username",
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Preferred-Username",
    "X-Remote-User",
    "X_Remote_User",
    "Remote-User",
    "REMOTE_USER",
    "Remote-Groups",
    "Remote-Email",
    "Remote-Name",
    "X-Remote-Group",
    "X-Remote-Extra-Scopes",
    "X-Auth-User",
    "X-Auth-Email",
    "X-MS-Client-Principal",
    "X-MS-Client-Principal-Id",
    "X-MS-Client-Principal-Name",
    "X-MS-Client-Principal-Idp",
    "X-MS-Token-AAD-Expires-On",
    "X-Goog-Authenticated-User-Email",
    "X-Goog-Authenticated-User-Id",
    "X-Amzn-Oidc-Identity",
    "X-Amzn-Oidc-Data",
    "X-Amzn-Mtls-Clientcert-Subject",
    "X-WebAuth-User",
    "X-Authentik-Username",
    "X-Authentik-Meta-App",
    "X-Pomerium-Claim-Email",
    "X-Vouch-User",
    "Cf-Access-Authenticated-User-Email",
    "Tailscale-User-Login",
    "Tailscale-User-Name",
    "X-Consumer-Username",
    "X-Consumer-Custom-Id",
    "X-Credential-Identifier",
    "X-Authenticated-Userid",
    "X-Userinfo",
    "X-User",
    "X-User-Id",
    "X-User-Email",
    "X-Email",
    "X-Groups",
    "X-JWT-Claim-Sub",
    "SSL-Client-S-DN",
    "X-SSL-Client-Cert",
    "X-SSL-Client-Verify",
    "Client-Cert",
    "X-Client-Cert",
    "X-ARR-ClientCert",
    "X-Forwarded-Client-Cert",
]


@pytest.mark.parametrize("own_key", [False, True])
@pytest.mark.parametrize("passthrough", [False, True])
def test_what_a_sign_in_proxy_says_of_the_user_stays_here(own_key: bool, passthrough: bool) -> None:
    kept = [
        ("User-Agent", "c/1"),
        ("x-ms-client-request-id", "7"),
        ("X-Client-Request-Id", "8"),
        ("X-Client-Version", "1"),
        ("x-user-agent", "c"),
        ("X-Goog-Api-Client", "g"),
        ("Anthropic-Beta", "b"),
        ("X-OpenWebUI-User-Id", "9"),
        ("X-Initiator", "user"),
    ]
    told = [(name, "alice@example.com") for name in SIGN_IN]
    sent = for_upstream([*told, *kept], auth=(), actor=(), own_key=own_key, passthrough=passthrough)
    assert sent == kept
