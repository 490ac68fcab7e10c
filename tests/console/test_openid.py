"""Sign-in by a real OpenID provider."""

from __future__ import annotations

import hmac
import json
import re
import shutil
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from attrs import evolve
from browsing import watched
from console_process import ConsoleProcess
from joserfc import jwt
from joserfc.jwk import RSAKey
from openid_provider import OpenIdProvider
from playwright.sync_api import Browser, expect
from waiting import PATIENCE

from aigateway.actors.control.local.audit import list_changes
from aigateway.actors.control.local.opening import open_address
from aigateway.actors.values.records import timestamp
from aigateway.http.console.entrance import ATTEMPTS
from aigateway.http.console.oidc import Journey, NoSignIn, Oidc, OidcSettings

BACK = "http://127.0.0.1:1/sign-in/callback"


@pytest.fixture(scope="module")
def provider() -> Iterator[OpenIdProvider]:
    with OpenIdProvider() as running:
        running.knows("1", preferred_username="ada", groups=[])
        running.knows("2", preferred_username="boss", groups=["ops", "gateway admins"])
        running.knows("3", preferred_username="reader", groups=["gateway viewers"])
        running.knows("4", preferred_username="stranger")
        yield running


def options(provider: OpenIdProvider) -> tuple[str, ...]:
    return (
        "--oidc-issuer", provider.issuer, "--oidc-client-id", "console",
        "--oidc-user-claim", "preferred_username", "--oidc-admins", "gateway admins",
        "--oidc-viewers", "gateway viewers",
    )  # fmt: skip


@pytest.fixture(scope="module")
def database(weeks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's two weeks, with ada among the users."""
    copy = tmp_path_factory.mktemp("database") / "copy.db"
    shutil.copy(weeks, copy)
    with closing(open_address(str(copy))) as opened:
        (id,) = opened.execute(
            "SELECT initiator_id FROM interceptions WHERE username = 'ada' LIMIT 1"
        ).fetchone()
        opened.execute(
            "INSERT INTO users (id, name, created_at) VALUES (?, 'ada', ?)", (id, timestamp(0))
        )
    return copy


@pytest.fixture(scope="module")
def console(
    provider: OpenIdProvider, database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ConsoleProcess]:
    folder = tmp_path_factory.mktemp("console")
    secret = folder / "secret"
    secret.write_text("the client's secret\n")
    name = "CODER_AI_GATEWAY_OIDC_CLIENT_SECRET_FILE"
    with ConsoleProcess(
        folder, database, None, *options(provider), environ={name: str(secret)}
    ) as running:
        yield running


def begun(console: ConsoleProcess, browser: requests.Session, leads_to: str = "/spend") -> str:
    """Where somebody is sent who wants to sign in."""
    answer = browser.get(
        f"{console.url}/sign-in/oidc", params={"next": leads_to}, allow_redirects=False,
        timeout=PATIENCE,
    )  # fmt: skip
    assert answer.status_code == 303, answer.text
    return answer.headers["Location"]


def signed_in(console: ConsoleProcess, provider: OpenIdProvider, subject: str) -> requests.Session:
    browser = requests.Session()
    back = provider.lets_in(begun(console, browser), subject)
    answer = browser.get(back, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    return browser


def test_a_browser_is_sent_with_state_nonce_and_a_challenge(
    console: ConsoleProcess, provider: OpenIdProvider
) -> None:
    browser = requests.Session()
    place = begun(console, browser)
    assert place.startswith(f"{provider.issuer}/oauth2/authorize?")
    query = parse_qs(urlsplit(place).query)
    assert query["response_type"] == ["code"]
    assert query["code_challenge_method"] == ["S256"]
    assert query["redirect_uri"] == [f"{console.url}/sign-in/callback"]
    assert query["scope"] == ["openid profile email"]
    again = parse_qs(urlsplit(begun(console, requests.Session())).query)
    for name in ("state", "nonce", "code_challenge"):
        assert len(query[name][0]) > 40
        assert query[name] != again[name]


def test_who_comes_back_is_signed_in_and_led_to_the_page_that_was_asked_for(
    console: ConsoleProcess, provider: OpenIdProvider, database: Path
) -> None:
    browser = requests.Session()
    there = browser.get(
        f"{console.url}/sign-in/oidc?next=/spend?by=model", allow_redirects=False, timeout=PATIENCE
    )
    assert re.search(r"HttpOnly.*SameSite=Lax", there.headers["Set-Cookie"])
    answer = browser.get(provider.lets_in(there.headers["Location"], "1"), timeout=PATIENCE)
    assert 'url=/spend?by=model"' in unescape(answer.text)
    cookies = answer.headers["Set-Cookie"]
    assert re.search(r"aigateway-console-\d+=oidc-[^;]+; HttpOnly;[^,]*SameSite=Strict", cookies)
    assert [each.name for each in browser.cookies] == [
        f"aigateway-console-{urlsplit(console.url).port}"
    ]
    assert "ada" in browser.get(f"{console.url}/spend", timeout=PATIENCE).text
    with closing(open_address(str(database))) as opened:
        newest = list_changes(opened, 1)[0]
    assert (newest["who"], newest["action"]) == ("console: ada", "console.sign_in")
    assert newest["after"]["role"] == "own"


@pytest.mark.parametrize(
    ("subject", "spend", "people", "changes"),
    [("1", 200, 403, 403), ("2", 200, 200, 400), ("3", 200, 200, 403), ("4", 403, 403, 403)],
)
def test_groups_say_what_somebody_may(
    console: ConsoleProcess,
    provider: OpenIdProvider,
    subject: str,
    spend: int,
    people: int,
    changes: int,
) -> None:
    browser = signed_in(console, provider, subject)
    found = browser.get(f"{console.url}/spend", timeout=PATIENCE)
    assert found.status_code == spend
    assert ("grace" in found.text) is (people == 200)
    assert browser.get(f"{console.url}/people", timeout=PATIENCE).status_code == people
    token = re.search(
        r'form_token" value="(\w+)"', browser.get(f"{console.url}/policy", timeout=PATIENCE).text
    )
    answer = browser.post(
        f"{console.url}/policy",
        data={"form_token": token[1] if token else "", "over": "0", "document": "no: policy"},
        headers={"Sec-Fetch-Site": "same-origin"},
        timeout=PATIENCE,
    )
    assert answer.status_code == changes


def test_who_is_no_user_is_told_by_which_claim(
    console: ConsoleProcess, provider: OpenIdProvider
) -> None:
    browser = signed_in(console, provider, "4")
    page = unescape(browser.get(f"{console.url}/now", timeout=PATIENCE).text)
    assert 'calls you "stranger" (claim preferred_username)' in page
    assert "aigateway users create" in page


def test_a_code_signs_in_once_and_only_the_browser_that_was_sent(
    console: ConsoleProcess, provider: OpenIdProvider
) -> None:
    browser, other = requests.Session(), requests.Session()
    back = provider.lets_in(begun(console, browser), "2")
    begun(console, other)
    for thief in (requests.Session(), other):
        answer = thief.get(back, timeout=PATIENCE)
        assert answer.status_code == 403
        assert "You are not signed in" in answer.text
        assert "console" not in str(thief.cookies)
    kept = browser.cookies.get_dict()
    assert browser.get(back, timeout=PATIENCE).status_code == 200
    again = requests.get(back, cookies=kept, timeout=PATIENCE)
    assert again.status_code == 403
    assert "oidc-" not in again.headers.get("Set-Cookie", "")


def test_who_is_refused_by_the_provider_is_told_so(
    console: ConsoleProcess, provider: OpenIdProvider
) -> None:
    browser = requests.Session()
    place = begun(console, browser)
    answer = requests.post(place, data={"action": "deny"}, allow_redirects=False, timeout=PATIENCE)
    state = parse_qs(urlsplit(place).query)["state"][0]
    back = f"{answer.headers['Location'].partition('?')[0]}?error=access_denied&state={state}"
    page = browser.get(back, timeout=PATIENCE)
    assert page.status_code == 403
    assert "access_denied" in page.text


@pytest.mark.parametrize(
    "leads_to",
    ["//evil.example", "/\\evil.example", "https://evil.example", "", "now", "/sign-out", "/a\tb"],
)
def test_nobody_is_led_elsewhere(
    console: ConsoleProcess, provider: OpenIdProvider, leads_to: str
) -> None:
    browser = requests.Session()
    back = provider.lets_in(begun(console, browser, leads_to), "1")
    page = browser.get(back, timeout=PATIENCE).text
    assert 'url=/now"' in page
    assert "evil" not in page


def test_who_signs_out_is_out_here_and_led_to_the_providers_way_out(
    console: ConsoleProcess, provider: OpenIdProvider
) -> None:
    browser = signed_in(console, provider, "1")
    kept = browser.cookies.get_dict()
    headers = {"Sec-Fetch-Site": "same-origin"}
    page = browser.post(f"{console.url}/sign-out", headers=headers, timeout=PATIENCE)
    found = re.search(r'url=([^"]+)"', page.text)
    assert found is not None
    place = urlsplit(unescape(found[1]))
    assert f"{place.scheme}://{place.netloc}" == provider.issuer
    query = parse_qs(place.query)
    assert query["post_logout_redirect_uri"] == [f"{console.url}/sign-in"]
    assert len(query["id_token_hint"][0].split(".")) == 3
    assert not browser.cookies
    answer = requests.get(f"{console.url}/spend", cookies=kept, timeout=PATIENCE)
    assert answer.status_code == 401
    assert "Sign in with" in answer.text


def test_the_link_works_beside_the_provider(console: ConsoleProcess) -> None:
    assert console.get("/people").status_code == 200


def test_a_browser_signs_in_stays_in_by_links_from_elsewhere_and_out(
    browser: Browser, console: ConsoleProcess, provider: OpenIdProvider
) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{console.url}/spend?by=model")
    page.get_by_role("link", name="Sign in with").click()
    page.get_by_placeholder("sub").fill("1")
    page.get_by_role("button", name="Authorize").click()
    page.wait_for_url(f"{console.url}/spend?by=model")
    wrong = watched(page)
    expect(page.get_by_role("heading", name="Spend", level=1)).to_be_visible()
    expect(page.get_by_role("link", name="People")).to_have_count(0)
    assert page.evaluate("document.cookie") == ""
    page.goto(f"{console.url}/setup")
    page.get_by_label("What for").fill("laptop")
    page.get_by_role("button", name="Make a key").click()
    expect(page.get_by_text("This is the key of ada")).to_be_visible()
    page.goto(f"{console.url}/now")
    expect(page.locator("#live")).to_have_text("live", ignore_case=True)
    assert wrong == []
    # A colleague's message has a link.
    other = context.new_page()
    other.goto(provider.issuer)
    other.evaluate(f"location.href = '{console.url}/requests'")
    expect(other.get_by_role("heading", name="Requests", level=1)).to_be_visible()
    page.goto(f"{console.url}/spend")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(f"{provider.issuer}/**")
    page.get_by_role("button").first.click()
    page.wait_for_url(f"{console.url}/sign-in*")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    other.goto(f"{console.url}/requests")
    expect(other.get_by_role("heading", name="Sign in")).to_be_visible()
    context.close()


def test_a_console_starts_while_its_provider_is_away_and_says_so(
    weeks: Path, tmp_path: Path
) -> None:
    away = ("--oidc-issuer", "http://localhost:1", "--oidc-client-id", "c")
    with ConsoleProcess(tmp_path, weeks, None, *away) as console:
        answer = requests.get(f"{console.url}/sign-in/oidc", timeout=PATIENCE)
        assert answer.status_code == 403
        assert "localhost:1" in answer.text
        assert "cannot be asked" in answer.text
        tries = [
            requests.get(f"{console.url}/sign-in?token=guess", timeout=PATIENCE).status_code
            for _ in range(ATTEMPTS)
        ]
    assert tries[0] == 403
    assert tries[-1] == 429


def oidc(provider: OpenIdProvider, **changed: object) -> Oidc:
    settings = OidcSettings(
        issuer=provider.issuer, client_id="console", client_secret="s", scopes=("openid", "email"),
        user_claim="email", groups_claim="groups", admins=frozenset(), viewers=frozenset(),
    )  # fmt: skip
    return Oidc(evolve(settings, **changed))


def answer_of(
    provider: OpenIdProvider, asked: Oidc, journey: Journey, subject: str
) -> dict[str, str]:
    back = provider.lets_in(asked.way_there(journey, BACK), subject)
    return {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"email": "a@b.example", "email_verified": True}, ""),
        ({"email": "a@b.example", "email_verified": False}, "verified"),
        ({"email": "a@b.example", "email_verified": "true"}, "verified"),
        ({"email": "a@b.example"}, "verified"),
        ({"email": ["a@b.example"], "email_verified": True}, "claim"),
        ({"email": "  ", "email_verified": True}, "claim"),
        ({}, "claim"),
    ],
)
def test_an_address_counts_if_it_is_verified(
    provider: OpenIdProvider, claims: dict[str, object], why: str
) -> None:
    provider.knows("mail", **claims)
    asked, journey = oidc(provider), Journey()
    answer = answer_of(provider, asked, journey, "mail")
    if not why:
        assert asked.arrived(journey, BACK, answer, time.time()).name == "a@b.example"
        return
    with pytest.raises(NoSignIn, match=why):
        asked.arrived(journey, BACK, answer, time.time())


@pytest.mark.parametrize(
    ("groups", "claim", "found"),
    [
        (["a", "b"], "groups", ("a", "b")),
        ("a", "groups", ("a",)),
        (["a", 7, None, ["b"]], "groups", ("a",)),
        ({"roles": ["a"]}, "groups.roles", ("a",)),
        ({"roles": ["a"]}, "groups", ()),
        (None, "groups", ()),
        (7, "groups", ()),
    ],
)
def test_groups_are_read_as_providers_write_them(
    provider: OpenIdProvider, groups: object, claim: str, found: tuple[str, ...]
) -> None:
    provider.knows("many", groups=groups, email="m@b.example", email_verified=True)
    asked, journey = oidc(provider, groups_claim=claim), Journey()
    answer = answer_of(provider, asked, journey, "many")
    assert asked.arrived(journey, BACK, answer, time.time()).groups == found


@pytest.mark.parametrize(
    ("changed", "ahead", "why"),
    [
        ({"nonce": "of another"}, 0.0, "nonce"),
        ({"state": "of another"}, 0.0, "another window"),
        ({}, 4000.0, "not good"),
        ({}, -4000.0, "not good"),
    ],
)
def test_a_token_is_for_this_browser_and_this_hour(
    provider: OpenIdProvider, changed: dict[str, str], ahead: float, why: str
) -> None:
    provider.knows("good", email="g@b.example", email_verified=True)
    asked, journey = oidc(provider), Journey()
    answer = answer_of(provider, asked, journey, "good")
    with pytest.raises(NoSignIn, match=why):
        asked.arrived(evolve(journey, **changed), BACK, answer, time.time() + ahead)


def test_another_issuer_than_the_one_that_was_asked_is_not_believed(
    provider: OpenIdProvider,
) -> None:
    asked, journey = oidc(provider), Journey()
    answer = answer_of(provider, asked, journey, "good")
    with pytest.raises(NoSignIn, match="Another provider"):
        asked.arrived(journey, BACK, {**answer, "iss": "https://evil.example"}, time.time())
    with pytest.raises(NoSignIn, match="must be the same"):
        oidc(provider, issuer=f"{provider.issuer}/../x/..").way_there(journey, BACK)


@pytest.mark.parametrize(
    ("forged", "good"),
    [
        ({}, True),
        ({"key": "another"}, False),
        ({"alg": "HS256"}, False),
        ({"alg": "none"}, False),
        ({"aud": "another client"}, False),
        ({"aud": ["console", "another"]}, False),
        ({"aud": ["console", "another"], "azp": "console"}, True),
        ({"iss": "https://evil.example"}, False),
        ({"exp": 0}, False),
        ({"exp": None}, False),
        ({"sub": None}, False),
        ({"nonce": None}, False),
    ],
)
def test_only_the_providers_own_token_for_this_client_is_believed(
    provider: OpenIdProvider,
    forged: dict[str, Any],
    good: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tokens as the provider could sign them, and as others would."""
    asked, journey, now = oidc(provider), Journey(), int(time.time())
    own, other = RSAKey.generate_key(2048), RSAKey.generate_key(2048)
    claims = {
        "iss": provider.issuer, "aud": "console", "sub": "7", "iat": now, "exp": now + 60,
        "nonce": journey.nonce, "email": "a@b.example", "email_verified": True, "groups": [],
    }  # fmt: skip
    claims |= {name: value for name, value in forged.items() if name not in ("key", "alg")}
    claims = {name: value for name, value in claims.items() if value is not None}
    algorithm = forged.get("alg", "RS256")
    key: Any = other if "key" in forged else own
    if algorithm != "RS256":
        parts = [json.dumps(each).encode() for each in ({"alg": algorithm}, claims)]
        signed = b".".join(urlsafe_b64encode(each).rstrip(b"=") for each in parts)
        # What everybody knows is the provider's public key.
        seal = hmac.digest(own.as_pem(private=False), signed, "sha256")
        seal = seal if algorithm == "HS256" else b""
        token = f"{signed.decode()}.{urlsafe_b64encode(seal).decode().rstrip('=')}"
    else:
        token = jwt.encode({"alg": algorithm}, claims, key, algorithms=[algorithm])
    monkeypatch.setattr(asked, "_token", lambda *_: {"id_token": token, "access_token": "t"})
    get = asked._get

    def keys(session: Any, place: str, *rest: Any) -> Any:
        if place.endswith("/jwks"):
            return {"keys": [own.as_dict(private=False)]}
        return get(session, place, *rest)

    monkeypatch.setattr(asked, "_get", keys)
    answer = {"state": journey.state, "code": "c"}
    if good:
        assert asked.arrived(journey, BACK, answer, now).subject == "7"
        return
    with pytest.raises(NoSignIn, match="not good"):
        asked.arrived(journey, BACK, answer, now)
