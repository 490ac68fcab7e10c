"""Which proxy leads to an address."""

from __future__ import annotations

import pytest

from aigateway.http.settings._proxies import proxy_for


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        ("https://h/", {}, ""),
        ("https://h/", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://h/", {"https_proxy": "http://low:1", "HTTPS_PROXY": "http://p"}, "http://low:1"),
        ("https://h/", {"HTTP_PROXY": "http://p:1"}, ""),
        ("http://h/", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("https://h/", {"ALL_PROXY": "http://p:1"}, "http://p:1"),
        ("https://h/", {"ALL_PROXY": "http://p", "HTTPS_PROXY": "http://s"}, "http://s"),
        ("https://h/", {"HTTPS_PROXY": "p:1"}, "http://p:1"),
        ("https://h/", {"HTTPS_PROXY": " "}, ""),
        ("http://localhost:8080/", {"HTTP_PROXY": "http://p"}, ""),
        ("http://127.0.0.2/", {"HTTP_PROXY": "http://p"}, ""),
        ("http://[::1]/", {"HTTP_PROXY": "http://p"}, ""),
    ],
)
def test_the_scheme_decides_which_variable_counts(
    url: str, environ: dict[str, str], proxy: str
) -> None:
    assert proxy_for(url, environ) == proxy


@pytest.mark.parametrize(
    ("url", "exceptions", "excepted"),
    [
        ("https://h/", "*", True),
        ("https://h/", "h", True),
        ("https://H/", "h", True),
        ("https://a.h.net/", "h.net", True),
        ("https://a.h.net/", ".h.net", True),
        ("https://a.h.net/", "*.h.net", True),
        ("https://ah.net/", "h.net", False),
        ("https://h.net/", "other, h.net", True),
        ("https://h.net/", "other h.net", True),
        ("https://h.net:8443/", "h.net:8443", True),
        ("https://h.net:8443/", "h.net:443", False),
        ("https://h.net/", "h.net:443", True),
        ("http://h.net/", "h.net:443", False),
        ("https://10.1.2.3/", "10.0.0.0/8", True),
        ("https://11.1.2.3/", "10.0.0.0/8", False),
        ("https://[fd00::1]/", "fd00::1", True),
        ("https://[fd00::1]/", "[fd00::1]", True),
        ("https://[fd00::1]/", "fd00::/8", True),
        ("https://h/", "", False),
        ("https://h/", "10.0.0.0/8", False),
    ],
)
def test_exceptions_reach_without_a_proxy(url: str, exceptions: str, excepted: bool) -> None:
    environ = {"HTTPS_PROXY": "http://p", "HTTP_PROXY": "http://p", "NO_PROXY": exceptions}
    assert (proxy_for(url, environ) == "") is excepted
