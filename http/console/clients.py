"""The lines that set a client up, with the gateway's address and its providers' names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import frozen

__all__ = ["Recipe", "recipes"]


@frozen
class Recipe:
    """How one client is set up."""

    client: str
    note: str
    """What has to be known before."""
    steps: Sequence[tuple[str, str]]
    """For each, where the lines go, and the lines."""


def recipes(address: str, providers: Iterable[tuple[str, str]], key: str = "") -> list[Recipe]:
    """For the gateway at ``address`` (scheme, host, port) with these providers (name, type).

    With a ``key`` it stands in the lines, else a variable or a word for it.

    A provider of the wanted type is named where there is one; else the usual name.
    """
    by_type: dict[str, str] = {}
    for name, kind in providers:
        by_type.setdefault(kind, name)
    root = address.rstrip("/")
    anthropic = f"{root}/{by_type.get('anthropic', by_type.get('bedrock', 'anthropic'))}"
    openai = f"{root}/{by_type.get('openai', by_type.get('azure', 'openai'))}/v1"
    gemini = f"{root}/{by_type.get('gemini', 'gemini')}"
    shell = "In a shell"
    held, written = key or "$AIGATEWAY_KEY", key or "the key"
    named = key or "{env:AIGATEWAY_KEY}"
    return [
        Recipe(
            "Claude Code",
            "The model list comes from the gateway; nothing else changes.",
            [
                (
                    shell,
                    f"export ANTHROPIC_BASE_URL={anthropic}\n"
                    f'export ANTHROPIC_AUTH_TOKEN="{held}"\n'
                    "claude",
                ),
                (
                    "Or for good, in ~/.claude/settings.json",
                    '{\n  "env": {\n'
                    f'    "ANTHROPIC_BASE_URL": "{anthropic}",\n'
                    f'    "ANTHROPIC_AUTH_TOKEN": "{written}"\n'
                    "  }\n}",
                ),
            ],
        ),
        Recipe(
            "Codex",
            "The key stays in the variable that the file names.",
            [
                (
                    "In ~/.codex/config.toml",
                    'model_provider = "aigateway"\n\n'
                    "[model_providers.aigateway]\n"
                    'name = "aigateway"\n'
                    f'base_url = "{openai}"\n'
                    'wire_api = "responses"\n'
                    'env_key = "AIGATEWAY_KEY"',
                ),
                (shell, f'export AIGATEWAY_KEY="{key}"\ncodex' if key else "codex"),
            ],
        ),
        Recipe(
            "Gemini CLI",
            "It must be told to use a key, or it asks for a Google account.",
            [
                (
                    "In ~/.gemini/settings.json",
                    '{"security": {"auth": {"selectedType": "gemini-api-key"}}}',
                ),
                (
                    shell,
                    f"export GOOGLE_GEMINI_BASE_URL={gemini}\n"
                    f'export GEMINI_API_KEY="{held}"\n'
                    "gemini",
                ),
            ],
        ),
        Recipe(
            "OpenCode",
            "Its own providers stay; only their address and key change.",
            [
                (
                    "In ~/.config/opencode/opencode.json",
                    '{\n  "$schema": "https://opencode.ai/config.json",\n  "provider": {\n'
                    '    "anthropic": {"options": {\n'
                    f'      "baseURL": "{anthropic}/v1",\n'
                    f'      "apiKey": "{named}"\n'
                    "    }},\n"
                    '    "openai": {"options": {\n'
                    f'      "baseURL": "{openai}",\n'
                    f'      "apiKey": "{named}"\n'
                    "    }}\n  }\n}",
                ),
            ],
        ),
        Recipe(
            "Anthropic's SDKs",
            "Python, TypeScript, Go and the others read these variables.",
            [
                (
                    shell,
                    f'export ANTHROPIC_BASE_URL={anthropic}\nexport ANTHROPIC_API_KEY="{held}"',
                )
            ],
        ),
        Recipe(
            "OpenAI's SDKs",
            "And most programs that are made with them.",
            [(shell, f'export OPENAI_BASE_URL={openai}\nexport OPENAI_API_KEY="{held}"')],
        ),
        Recipe(
            "Google's SDKs",
            "For the Gemini API.",
            [
                (
                    shell,
                    f'export GOOGLE_GEMINI_BASE_URL={gemini}\nexport GEMINI_API_KEY="{held}"',
                )
            ],
        ),
        Recipe(
            "curl",
            "To see that it works.",
            [
                (
                    shell,
                    f"curl -N {anthropic}/v1/messages \\\n"
                    f'  -H "x-api-key: {held}" -H "anthropic-version: 2023-06-01" \\\n'
                    '  -H "content-type: application/json" \\\n'
                    '  -d \'{"model":"claude-sonnet-5","max_tokens":100,"stream":true,\n'
                    '       "messages":[{"role":"user","content":"Hello!"}]}\'',
                )
            ],
        ),
    ]
