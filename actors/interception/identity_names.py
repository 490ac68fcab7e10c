"""Names of headers in which a sign-in proxy tells the server behind it who the user is.

They are said to the gateway, by whatever stands in front of it, and are no business of a
provider's.  Each proxy has names of its own: oauth2-proxy, Authelia, authentik, Pomerium, Vouch,
Tailscale, Kong, Kubernetes, nginx, Apache, and those of the cloud providers.
"""

from __future__ import annotations

import re
from functools import lru_cache

from aigateway.actors.codec.headers import same_name

__all__ = ["names_user"]

_IDENTITY = re.compile(
    r"""(?:
        x-auth-request-.*
        |(?:x-)?auth-(?:user|username|email|groups?|roles?|name|id|subject)
        |(?:x-)?remote-(?:user|group|email|name|display-name|extra|uid).*
        |(?:x-)?(?:authenticated|webauth|authentik|pomerium|vouch|authelia|keycloak|shib)-.*
        |tailscale-.*
        |x-ms-(?:client-principal|token-).*
        |x-goog-(?:authenticated-user|iap)-.*
        |x-amzn-(?:oidc|mtls)-.*
        |x-(?:consumer|credential)-(?:id|username|custom-id|identifier|groups)
        |x-anonymous-consumer
        |x-userinfo|x-email|x-groups
        |x-user(?:-?(?:id|name|email|groups?|roles?))?
        |x-(?:jwt|id-token|token|oidc)-(?:claims?|sub|subject|user|username|email|groups|payload).*
        |(?:x-)?ssl-client-.*
        |(?:x-)?client-(?:cert(?:ificate)?(?:-.*)?|dn|verify|subject(?:-.*)?)
        |x-arr-clientcert
    )""",
    re.VERBOSE,
)


# PERF: the same names come with every request.
@lru_cache(maxsize=1024)
def names_user(name: str) -> bool:
    """Whether a header of this name says who has signed in in front of the gateway."""
    return _IDENTITY.fullmatch(same_name(name)) is not None
