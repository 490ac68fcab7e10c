"""Write ``docs/configuration.md`` from the table of options."""

from __future__ import annotations

from collections.abc import Iterator

from aigateway.actors.values.provider_config import DEFAULT_BASE_URLS, PROVIDER_TYPES
from aigateway.http.settings._indexed_env import MAX_KEYS
from aigateway.http.settings._option import Option
from aigateway.http.settings.provider_entry import NAME_PATTERN
from aigateway.http.settings.secret_sources import secret_variables
from aigateway.http.settings.table import GROUPS, OPTIONS

__all__ = ["FIELDS", "reference"]

_HEAD = """\
# Configuration

<!-- Written by `python -m aigateway.http.settings`; change the table there, not this file. -->

Every option is a flag of `aigateway start`, an environment variable and a key in a YAML file.
The first of these that sets it wins:

1. the flag,
2. the environment variable; an empty one counts as not set,
3. the YAML file that `--config` or `CODER_CONFIG_PATH` names; `null` counts as not set,
4. the default.

`aigateway check` takes the same options, shows each effective value with its source (secrets
masked), and lists everything that is wrong without starting anything. A wrong configuration
stops the start with one line that names the setting, and exit code 2.

How values are written:

- yes or no: `true` or `false` (also `1`, `0`, `yes`, `no`, `on`, `off`); a flag alone means
  `true`, `--flag=false` turns it off;
- durations with their unit: `250ms`, `10s`, `5m`, `1h30m`;
- sizes in bytes or with a unit: `1048576`, `32MiB`, `1GB`;
- lists: the flag may be repeated; flag and variable are split at commas, and an entry that holds
  a comma goes between double quotes; in YAML a list.

The YAML file is a mapping of mappings along the dotted keys below. A key that is not
listed is refused: `unknown option "ai_gateway.typo"`.

```yaml
ai_gateway:
  http_address: 0.0.0.0:4001
  rate_limit: 20
introspection:
  prometheus:
    enable: true
    address: 0.0.0.0:2112
```

Options marked "reload" follow a SIGHUP; those marked "restart" change with a restart only. At a
reload the YAML file and files with secrets and certificates are read and commands are run again
(of these files one that changes is noticed, and reloads); flags and variables belong to the
process and stay what they were at its start. Names that begin with `CODER_AIBRIDGE_`,
`--aibridge-` and `aibridge.` are older names of the options whose flag begins with
`--ai-gateway-`. They still work, with a warning; where both are set the newer wins.
"""

_SECRETS = """\
## Secrets

No secret needs to stand in a variable or in the YAML file. Each variable of a secret, those of
numbered providers included, has two companions:

| variable | |
|---|---|
| `…_FILE` | A file that holds it. |
| `…_COMMAND` | A command that writes it within 30 s; run without a shell. |

```sh
CODER_AI_GATEWAY_PROVIDER_0_KEY_FILE=/run/secrets/anthropic
CODER_AI_GATEWAY_OPENAI_KEY_COMMAND="vault kv get -field=key secret/openai"
```

Space around the secret is dropped; a list (`KEYS_FILE`) has commas or lines between its keys. A
file that is missing or empty, or a command that fails, stops the start; at a reload the gateway
goes on as before and says why.

To rotate a secret, change the file: within a few seconds the gateway reloads, without a restart and
without a cut stream, as after a SIGHUP. That holds for the file in `--key-file`, too. What commands
say is asked again at a SIGHUP.

**A provider's key that does not last** is renewed while the gateway runs: `KEY_COMMAND` and
`BEDROCK_BEARER_TOKEN_COMMAND` of a numbered provider, and the two of single providers. Their
command is run again before the key ends (5 minutes, of a short-lived one a fifth of its time), as
far as that is known, and when the provider answers 401 to it: once for all requests of a process,
which wait for it and are sent with the new one. The command writes the key, or JSON with the key
as `accessToken`, `access_token`, `token` or `key`, and its end as `expires_on`, `expires_at`
(Unix seconds or RFC 3339) or `expires_in`. The end of a JSON Web Token is read from itself. When
the command fails it is tried again every 5 s, and the old key serves until it ends.

"""

_PROVIDERS = """\
## Numbered providers

Providers come from the variables below, or from the options under
[single provider](#single-provider), when any of them is set; else from the Coder deployment.

`CODER_AI_GATEWAY_PROVIDER_<N>_<FIELD>` configures provider number N. Numbers start at 0 and
leave no gap. (`CODER_AIBRIDGE_PROVIDER_<N>_<FIELD>` works too, but not both at once.)

```sh
CODER_AI_GATEWAY_PROVIDER_0_TYPE=anthropic
CODER_AI_GATEWAY_PROVIDER_0_KEYS=sk-ant-first,sk-ant-second
CODER_AI_GATEWAY_PROVIDER_1_TYPE=openai-compat
CODER_AI_GATEWAY_PROVIDER_1_NAME=vllm
CODER_AI_GATEWAY_PROVIDER_1_BASE_URL=http://vllm.internal:8000/v1
CODER_AI_GATEWAY_PROVIDER_1_KEY=secret
```

The same in the YAML file, where fields are in lower case and numbers follow from the order; keys
best come from [files or commands](#secrets). Both ways at once are refused.

```yaml
ai_gateway:
  providers:
    - type: anthropic
      keys_file: /run/secrets/anthropic-keys
    - type: openai-compat
      name: vllm
      base_url: http://vllm.internal:8000/v1
      key_command: vault kv get -field=key secret/vllm
      models: [qwen*, "gpt-oss-*"]
```

{fields}

A field that is not listed is ignored with a warning. What makes it unclear which providers are
meant (a gap, a number that is none, one name for two providers, mixed prefixes) stops the start.
A mistake inside one provider does not: that provider is listed with its error, its path answers
503, and the others run.
"""


FIELDS = {
    "TYPE": "Required: {types}.",
    "NAME": "First part of the path that clients use, `/<name>/…`. Default: the type. Lower-case "
    "letters, digits and single hyphens (`{pattern}`); each name once.",
    "BASE_URL": "Address of the API. For OpenAI's types it holds the "
    "version, as in `https://host/v1`. Defaults: {bases}; the other types need one.",
    "KEY, KEYS": "One key, or up to {keys} separated by commas, among which sessions are shared "
    "out. Not for `bedrock` and `copilot`. Without keys only users who bring their own "
    "are served.",
    "MODELS": "Models that it serves, with commas between them: names as clients ask for them, and "
    "behind `=` what the provider calls them. `*` stands for any text. Others are refused with "
    "404. Default: any. See [Models](providers.md#models).",
    "GROUP": "Providers of the same API that share the requests for this one, as in `a:3, b:1`, by "
    "weight and session. It may be among them. See [Groups](providers.md#groups).",
    "FALLBACK": "Names of other providers of the same API, with commas between them, that take "
    "over in this order when this one cannot answer.",
    "MAX_RETRIES, FALLBACK_AFTER, KEY_REST_MAX, CONNECT_TIMEOUT, FIRST_BYTE_TIMEOUT, "
    "IDLE_TIMEOUT": "For this provider, instead of the options of that name.",
    "NO_KEY": "`true` for a server of your own that wants no key (vLLM, Ollama): requests go out "
    "without credentials. Excludes `KEY`.",
    "STREAM_OPTIONS": "`false` for a server that refuses `stream_options`: usage of streams of the "
    "Chat Completions API is then recorded only if the client asks for it. Default: true.",
    "WEBSOCKET": "`false`: nobody uses its Responses API [over a WebSocket](websocket.md). "
    "Default: true, where it has that.",
    "KEEPALIVE_PING": "Silence after which any of its streams gets a keepalive, 0: never. Default: "
    "`--keepalive-ping` for Anthropic's API, else never.",
    "MAX_CONNECTIONS": "Connections to this provider per worker process, at most. Default: 4096.",
    "PROXY": "[Proxy](providers.md#proxies) for this provider. Default: what `HTTPS_PROXY`, "
    "`HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say.",
    "CA_FILE": "PEM file with the authorities that may sign its certificate. Default: "
    "`--upstream-ca-file`.",
    "BEDROCK_REGION": "AWS region, for types `anthropic` and `bedrock`.",
    "BEDROCK_BASE_URL": "Address of Bedrock instead of the region's. `BASE_URL` does not count "
    "once a Bedrock field is set.",
    "BEDROCK_ACCESS_KEY, BEDROCK_ACCESS_KEY_SECRET": "AWS credentials; without, the AWS credential "
    "chain is used.",
    "BEDROCK_ACCESS_KEYS, BEDROCK_ACCESS_KEY_SECRETS": "The same as lists; the first pair is used.",
    "BEDROCK_BEARER_TOKEN": "API key of Bedrock, sent instead of a signature. Without it and "
    "without an access key or a role, `AWS_BEARER_TOKEN_BEDROCK` counts.",
    "BEDROCK_RESOLVED_MODELS": "What is behind inference profiles and ARNs, written like "
    "`MODELS`, as in `arn:aws:…/abc = claude-sonnet-4-5`: it decides what is changed in requests.",
    "BEDROCK_ROLE_ARN, BEDROCK_EXTERNAL_ID": "Role to assume, with its external id.",
    "VERTEX_PROJECT": "Project of Google Cloud, for `vertex`.",
    "VERTEX_REGION": "A place such as `europe-west1`, a group of them (`eu`, `us`), or `global`.",
    "VERTEX_CREDENTIALS_FILE": "File of a service account or of a workload identity. Default: "
    "Google's application default credentials.",
    "BEDROCK_PROTOCOL": "`invoke-model` (default), or `mantle`: Anthropic's own API with a "
    "signature, at the address in `BEDROCK_BASE_URL`.",
    "BEDROCK_MODEL, BEDROCK_SMALL_FAST_MODEL": "Models to ask for on `/v1/messages`, the second "
    "one when the client asks for a haiku model. Defaults as under single provider.",
}
"""What the docs say of each field of a numbered provider."""


def reference() -> str:
    """The page as Markdown."""
    return "\n".join([_HEAD, *_groups(), _SECRETS + _providers()])


def _groups() -> Iterator[str]:
    for group in GROUPS:
        yield f"## {group}\n"
        yield "| flag | variable | YAML | default | |"
        yield "|---|---|---|---|---|"
        for row in OPTIONS:
            if row.group == group:
                yield f"| {' | '.join(_cells(row))} |"
        yield ""


def _has_companions(row: Option) -> bool:
    return bool(set(row.envs) & secret_variables(OPTIONS))


def _cells(row: Option) -> tuple[str, ...]:
    default = row.default_note.replace("|", "\\|") or (f"`{row.default}`" if row.default else "")
    note = "".join(
        (
            row.help.replace("|", "\\|"),
            " Secret." if row.secret else "",
            f" `{row.envs[0]}_FILE` names a file with it." if _has_companions(row) else "",
            " Hidden in the help." if row.hidden else "",
            " (reload)" if row.reloadable else " (restart)",
        )
    )
    return (
        " ".join(f"`{flag}`" for flag in row.flags) or "none",
        " ".join(f"`{name}`" for name in row.envs),
        f"`{row.yaml}`" if row.yaml else "none",
        default,
        note,
    )


def _providers() -> str:
    facts = {
        "types": ", ".join(f"`{name}`" for name in PROVIDER_TYPES),
        "bases": ", ".join(f"{name} `{url}`" for name, url in DEFAULT_BASE_URLS.items()),
        "pattern": NAME_PATTERN,
        "keys": MAX_KEYS,
    }
    rows = ["| field | meaning |", "|---|---|"]
    for names, text in FIELDS.items():
        shown = ", ".join(f"`{name}`" for name in names.split(", "))
        rows.append(f"| {shown} | {text.format(**facts)} |")
    return _PROVIDERS.format(fields="\n".join(rows))
