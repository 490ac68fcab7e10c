"""Sign-in by an OpenID provider: the authorization code flow with PKCE, state and nonce.

The provider is asked when somebody signs in, so that a console starts while it is away.  What it
says is believed only with its signature, for this client, and for the browser that was sent there.
"""

from __future__ import annotations

import json
import math
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import requests
from attrs import field, frozen
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from aigateway.actors.control.local.console_sessions import ConsoleSession
from aigateway.actors.upstream.adapter import UpstreamAdapter
from aigateway.http.console.reach import is_local_name
from aigateway.http.console.visitors import Role
from aigateway.http.settings import Settings, SettingsError

__all__ = ["Journey", "NoSignIn", "Oidc", "OidcSettings"]

PATIENCE: Final = 10.0
"""Seconds for each answer of the provider."""
KNOWN_FOR: Final = 3600.0
"""Seconds for which what a provider says of itself is not asked again."""
AWAY_FOR: Final = 3.0
"""Seconds for which a provider that could not be asked is not asked again."""
LEEWAY: Final = 60
"""Seconds by which its clock and ours may differ."""
_ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""Signatures with a key that only the provider has."""
_LARGEST: Final = 1024 * 1024
"""Bytes of an answer of the provider."""


class NoSignIn(Exception):
    """It did not come to a sign-in; the text says why and what to do."""


@frozen
class OidcSettings:
    """Which provider, as which client, and what its claims mean."""

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    scopes: tuple[str, ...]
    user_claim: str
    groups_claim: str
    admins: frozenset[str]
    viewers: frozenset[str]
    ca_file: str = ""

    @classmethod
    def of(cls, settings: Settings) -> OidcSettings | None:
        """None: nobody signs in that way.  Raises SettingsError."""
        if not settings.oidc_issuer:
            return None
        host = urlsplit(settings.oidc_issuer).netloc
        if not settings.oidc_issuer.startswith("https://") and not is_local_name(host):
            raise SettingsError(
                f"--oidc-issuer {settings.oidc_issuer}: it must be reached by https://"
            )
        if not settings.oidc_client_id:
            raise SettingsError("--oidc-issuer needs --oidc-client-id, as registered there")
        return cls(
            issuer=settings.oidc_issuer,
            client_id=settings.oidc_client_id,
            client_secret=settings.oidc_client_secret,
            scopes=tuple(dict.fromkeys(("openid", *settings.oidc_scopes))),
            user_claim=settings.oidc_user_claim,
            groups_claim=settings.oidc_groups_claim,
            admins=frozenset(settings.oidc_admins),
            viewers=frozenset(settings.oidc_viewers),
            ca_file=settings.upstream_ca_file,
        )

    @property
    def name(self) -> str:
        """What people know the provider by."""
        return urlsplit(self.issuer).netloc

    def role_of(self, groups: Sequence[str]) -> Role:
        """What members of these groups may."""
        if not self.admins.isdisjoint(groups):
            return Role.ADMIN
        return Role.VIEWER if not self.viewers.isdisjoint(groups) else Role.OWN


@frozen
class Journey:
    """A browser's way to the provider and back, which it brings along in a cookie."""

    state: str = field(factory=lambda: secrets.token_urlsafe(32))
    nonce: str = field(factory=lambda: secrets.token_urlsafe(32), repr=False)
    verifier: str = field(factory=lambda: secrets.token_urlsafe(48), repr=False)
    leads_to: str = "/now"
    """The page that was asked for first."""


class Oidc:
    """Asks the provider.  Safe to use from many threads."""

    def __init__(self, settings: OidcSettings) -> None:
        self.settings = settings
        self._adapter = UpstreamAdapter()
        self._lock = threading.Lock()
        self._known: tuple[float, Mapping[str, Any]] | None = None
        self._away: tuple[float, str] = (-math.inf, "")
        """When it could not be asked the last time, and why."""

    def way_there(self, journey: Journey, back: str) -> str:
        """The address to send a browser to, which comes ``back``.  Raises NoSignIn."""
        with self._session(back) as session:
            url, _state = session.create_authorization_url(
                self._endpoint("authorization_endpoint"),
                state=journey.state,
                nonce=journey.nonce,
                code_verifier=journey.verifier,
            )
        return str(url)

    def arrived(
        self, journey: Journey, back: str, answer: Mapping[str, str], now: float
    ) -> ConsoleSession:
        """Who has come back with the provider's ``answer``, the query of that address.

        Raises NoSignIn.
        """
        if not secrets.compare_digest(answer.get("state", "").encode(), journey.state.encode()):
            raise NoSignIn("This sign-in was begun in another window, or long ago. Begin again.")
        # A provider that says who it is must be the one that was asked (RFC 9207).
        if answer.get("iss", self._issuer) != self._issuer:
            raise NoSignIn("Another provider has answered.")
        if "error" in answer:
            why = answer.get("error_description") or answer["error"]
            raise NoSignIn(f"{self.settings.name} says: {why[:500]}")
        if not answer.get("code"):
            raise NoSignIn(f"{self.settings.name} has sent no code.")
        with self._session(back) as session:
            token = self._token(session, answer["code"], journey.verifier, back)
            claims = self._claims(session, token, journey.nonce, now)
        return self._person(claims, str(token["id_token"]))

    def way_out(self, id_token: str, back: str) -> str | None:
        """Where a browser signs out of the provider too; None: it has no such place, or cannot be
        asked now."""
        try:
            place = self._metadata().get("end_session_endpoint")
        except NoSignIn:
            return None
        if not isinstance(place, str) or not _is_safe(place):
            return None
        query = {"client_id": self.settings.client_id, "post_logout_redirect_uri": back}
        if id_token:
            query["id_token_hint"] = id_token
        return f"{place}{'&' if '?' in place else '?'}{urlencode(query)}"

    # -- what the provider says of itself

    @property
    def _issuer(self) -> str:
        return str(self._metadata()["issuer"])

    def _endpoint(self, name: str) -> str:
        place = self._metadata().get(name)
        if not isinstance(place, str) or not _is_safe(place):
            raise NoSignIn(f"{self.settings.name} names no {name} that is reached by https://.")
        return place

    def _metadata(self) -> Mapping[str, Any]:
        with self._lock:
            if self._known is not None and time.monotonic() - self._known[0] < KNOWN_FOR:
                return self._known[1]
            if time.monotonic() - self._away[0] < AWAY_FOR:
                # Whoever has waited meanwhile need not wait for it too.
                raise NoSignIn(self._away[1])
            issuer = self.settings.issuer
            try:
                with self._session("") as session:
                    place = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
                    found = self._get(session, place)
            except NoSignIn as ex:
                self._away = (time.monotonic(), str(ex))
                raise
            told = found.get("issuer")
            if not isinstance(told, str) or told.rstrip("/") != issuer.rstrip("/"):
                raise NoSignIn(
                    f"--oidc-issuer is {issuer}, but what answers there is {told}: they must be the"
                    " same."
                )
            self._known = (time.monotonic(), found)
            return found

    # -- what it says of somebody

    def _token(
        self, session: OAuth2Session, code: str, verifier: str, back: str
    ) -> Mapping[str, Any]:
        try:
            token = session.fetch_token(
                self._endpoint("token_endpoint"),
                grant_type="authorization_code",
                code=code,
                code_verifier=verifier,
                redirect_uri=back,
                timeout=PATIENCE,
                allow_redirects=False,
            )
        except OAuthError as ex:
            raise NoSignIn(f"{self.settings.name} says: {str(ex)[:500]}") from ex
        except (requests.RequestException, ValueError) as ex:
            raise NoSignIn(f"{self.settings.name} cannot be asked: {ex}") from ex
        if not isinstance(token, dict) or not isinstance(token.get("id_token"), str):
            raise NoSignIn(f"{self.settings.name} has sent no ID token.")
        return token

    def _claims(
        self, session: OAuth2Session, token: Mapping[str, Any], nonce: str, now: float
    ) -> Mapping[str, Any]:
        told = self._metadata().get("id_token_signing_alg_values_supported")
        algorithms = [each for each in _ALGORITHMS if not told or each in told]
        keys = self._get(session, self._endpoint("jwks_uri"))
        client, issuer = self.settings.client_id, self._issuer
        try:
            read = jwt.decode(
                str(token["id_token"]),
                KeySet.import_key_set({"keys": list(keys["keys"])}),
                algorithms=algorithms,
            )
            claims = CodeIDToken(
                read.claims,
                read.header,
                {
                    "iss": {"essential": True, "value": issuer},
                    "aud": {"essential": True, "value": client},
                },
                {"nonce": nonce, "client_id": client, "access_token": token.get("access_token")},
            )
            claims.validate(now=int(now), leeway=LEEWAY)
        except (JoseError, ValueError, TypeError, KeyError) as ex:
            raise NoSignIn(f"The ID token of {self.settings.name} is not good: {ex}") from ex
        return self._with_user_info(session, token, claims)

    def _with_user_info(
        self, session: OAuth2Session, token: Mapping[str, Any], claims: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Many providers keep an ID token small, and tell more of somebody to those who ask."""
        names = (self.settings.user_claim, self.settings.groups_claim)
        place = self._metadata().get("userinfo_endpoint")
        if all(_found(claims, name) is not None for name in names) or not place:
            return claims
        bearer = {"Authorization": f"Bearer {token.get('access_token')}"}
        more = self._get(session, self._endpoint("userinfo_endpoint"), bearer)
        if more.get("sub") != claims["sub"]:
            raise NoSignIn(f"{self.settings.name} has told of somebody else.")
        return {**more, **claims}

    def _person(self, claims: Mapping[str, Any], id_token: str) -> ConsoleSession:
        claim = self.settings.user_claim
        name = _found(claims, claim)
        if not isinstance(name, str) or not name.strip():
            raise NoSignIn(
                f'{self.settings.name} has not told the claim "{claim}" of --oidc-user-claim, by'
                " which the gateway's users are known."
            )
        # APPSEC: what somebody has typed into a form at the provider says nothing of who it is.
        if claim == "email" and claims.get("email_verified") is not True:
            raise NoSignIn(
                f"{self.settings.name} does not say that the address {name[:200]} is verified. If"
                " it never does, choose another --oidc-user-claim."
            )
        groups = _found(claims, self.settings.groups_claim)
        listed = groups if isinstance(groups, list) else [groups]
        return ConsoleSession(
            issuer=self.settings.issuer,
            subject=str(claims["sub"]),
            name=name.strip(),
            groups=tuple(each for each in listed if isinstance(each, str)),
            id_token=id_token,
        )

    # -- asking

    def _session(self, back: str) -> OAuth2Session:
        settings = self.settings
        session = OAuth2Session(
            settings.client_id,
            settings.client_secret or None,
            scope=" ".join(settings.scopes),
            redirect_uri=back,
            code_challenge_method="S256",
            token_endpoint_auth_method=self._authentication(),
        )
        session.verify = settings.ca_file or True
        for scheme in ("http://", "https://"):
            session.mount(scheme, self._adapter)
        return session

    def _authentication(self) -> str:
        """How the provider wants the client's secret."""
        if not self.settings.client_secret:
            return "none"
        told = self._known[1].get("token_endpoint_auth_methods_supported") if self._known else None
        by_body = isinstance(told, list) and "client_secret_basic" not in told
        return "client_secret_post" if by_body else "client_secret_basic"

    def _get(
        self, session: OAuth2Session, place: str, headers: Mapping[str, str] | None = None
    ) -> Mapping[str, Any]:
        """Raises NoSignIn."""
        try:
            answer = session.request(
                "GET",
                place,
                withhold_token=True,
                headers={"Accept": "application/json", **(headers or {})},
                timeout=PATIENCE,
                allow_redirects=False,
                stream=True,
            )
            with answer:
                text = b""
                for piece in answer.iter_content(65_536):
                    text += piece
                    if len(text) > _LARGEST:
                        raise NoSignIn(f"{place} answers with too much.")
                if answer.status_code != 200:
                    raise NoSignIn(f"{place} answers {answer.status_code}.")
                found = json.loads(text)
        except (requests.RequestException, ValueError) as ex:
            raise NoSignIn(f"{self.settings.name} cannot be asked: {ex}") from ex
        if not isinstance(found, dict):
            raise NoSignIn(f"{place} answers no JSON object.")
        return found


def _found(claims: Mapping[str, Any], name: str) -> Any:
    """The value of a claim; with dots in its name also of one within others.  None: none."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _is_safe(place: str) -> bool:
    parts = urlsplit(place)
    return parts.scheme == "https" or (parts.scheme == "http" and is_local_name(parts.netloc))
