"""The list of MCP servers in the YAML file is read, and its errors say where and what."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from aigateway.http.settings import SettingsError
from aigateway.http.settings.mcp_servers import YAML_KEY, McpServerSettings, read_mcp_servers

URL = "https://mcp.example.com/mcp"


def read(text: str, **environ: str) -> tuple[McpServerSettings, ...]:
    return read_mcp_servers(yaml.safe_load(text), environ)


def error_of(value: Any, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read_mcp_servers(value, environ)
    return str(caught.value)


def test_servers_are_read_in_their_order(tmp_path):
    file = tmp_path / "token"
    file.write_text("from-file\n")
    servers = read(
        f"""
        - {{id: docs, url: "{URL}", token: inline}}
        - {{id: hub, url: "http://localhost:3000/", token_env: HUB_TOKEN}}
        - id: files
          url: {URL}
          token_file: {file}
          tool_allow_regex: ^read
          tool_deny_regex: secret
        - {{id: open, url: "{URL}", token: }}
        """,
        HUB_TOKEN=" from-env ",
    )
    assert servers == (
        McpServerSettings("docs", URL, "inline"),
        McpServerSettings("hub", "http://localhost:3000/", "from-env"),
        McpServerSettings("files", URL, "from-file", str(file), "^read", "secret"),
        McpServerSettings("open", URL),
    )


@pytest.mark.parametrize("value", [None, []])
def test_no_list_means_no_servers(value):
    assert read_mcp_servers(value, {}) == ()


def entry(**changes: Any) -> list[dict[str, Any]]:
    return [{"id": "a", "url": URL, **changes}]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"id": "a"}, f"{YAML_KEY} must be a list"),
        ("a", f"{YAML_KEY} must be a list"),
        (["a"], f"{YAML_KEY}[0] must be a mapping"),
        ([{"url": URL}], "[0].id is missing"),
        ([{"id": "a"}], "[0].url is missing"),
        (entry(tokn="x"), '[0]: unknown key "tokn", did you mean "token"?'),
        (entry(zzz=1), '[0]: unknown key "zzz"'),
        (entry(id=5), "[0].id must be text"),
        (entry(url="mcp.example.com"), "[0].url must be an address"),
        (entry(url="https://"), "[0].url must be an address"),
        (entry(url="https://[x/"), "[0].url must be an address"),
        (entry(url="https://u:p@host/"), "[0].url must not hold a user"),
        (entry(token="a", token_env="B"), "token and token_env exclude each other"),
        (entry(token_env="NOT_SET"), "the environment variable NOT_SET is not set"),
        (entry(token_file="/does/not/exist"), "No such file"),
        (entry(token="line\nbreak"), "no header can carry"),
        (entry() + entry(), '[1].id: "a" is the id of'),
    ],
)
def test_an_error_says_where_and_what(value, text):
    assert text in error_of(value)


@pytest.mark.parametrize(("contents", "text"), [(b" \n", "is empty"), (b"\xff", "not a text file")])
def test_a_token_file_must_hold_a_token(tmp_path, contents, text):
    file = tmp_path / "token"
    file.write_bytes(contents)
    assert text in error_of(entry(token_file=str(file)))


def test_tokens_are_not_shown():
    (server,) = read_mcp_servers(entry(token="very-secret"), {})
    assert "very-secret" not in repr(server)
    assert "very-secret" not in error_of(entry(token="very-secret\x7f"))
