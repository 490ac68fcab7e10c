"""One option: everything that the command line, the environment, YAML and the docs need of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from attrs import frozen

from aigateway.http.settings._kinds import Kind

__all__ = [
    "ENV_PREFIX",
    "OLD_ENV_PREFIX",
    "OLD_FLAG",
    "Option",
    "OptionWarning",
    "PROVIDER_PREFIXES",
    "Source",
    "option",
    "options_of",
]

ENV_PREFIX = "CODER_AI_GATEWAY_"
OLD_ENV_PREFIX = "CODER_AIBRIDGE_"
"""The prefix that the names of this family had before."""
PROVIDER_PREFIXES = (f"{ENV_PREFIX}PROVIDER_", f"{OLD_ENV_PREFIX}PROVIDER_")
"""What the names of numbered providers' variables begin with; their number follows."""

OLD_FLAG = "old__"
"""Before the option's name: the parameter of its deprecated flag."""

_KEY = "aigateway.option"
_DERIVE = "\0derive"


@frozen
class Source:
    """Where a value came from: ``kind`` is flag, env, yaml or default; ``name`` which one."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


@frozen
class OptionWarning:
    """Something that is not wrong enough to stop for; ``setting`` names the variable or flag."""

    message: str
    setting: str


@frozen(kw_only=True)
class Option:
    """A row of the table."""

    name: str
    kind: Kind
    group: str
    help: str
    flags: tuple[str, ...]
    hidden_flags: tuple[str, ...] = ()
    envs: tuple[str, ...] = ()
    old_envs: tuple[str, ...] = ()
    """Deprecated names, still read after ``envs``, with a warning."""
    yaml: str = ""
    old_yaml: str = ""
    default: str = ""
    """As text, in the form in which a user would write it."""
    default_from: Callable[[Mapping[str, str]], str] | None = None
    """Computes the default from the environment where no constant would do."""
    default_note: str = ""
    """What the docs say instead of the default."""
    hidden: bool = False
    secret: bool = False
    no_effect: str = ""
    """A warning for the one who sets it: nothing comes of it."""
    reloadable: bool = False

    @property
    def shown(self) -> str:
        """What people know it by: its flag, or its variable where it has none."""
        return (*self.flags, *self.envs)[0]

    def default_value(self, environ: Mapping[str, str]) -> Any:
        text = self.default if self.default_from is None else self.default_from(environ)
        return self.kind.read(text)

    def show(self, value: object) -> str:
        """``value`` as a user would write it; a secret is masked."""
        if self.secret and value:
            return "********"
        return self.kind.show(value)


def option(
    kind: Kind,
    default: str = "",
    *,
    help: str,
    flag: str | None = None,
    short: str = "",
    env: str | tuple[str, ...] = _DERIVE,
    yaml: str = _DERIVE,
    inherited: bool = False,
    **rest: Any,
) -> Any:
    """Declare an attribute of ``Settings`` that is an option.

    Names that are not given follow from the attribute's: ``max_body_size`` is the flag
    ``--max-body-size``, the variable ``CODER_AI_GATEWAY_MAX_BODY_SIZE`` and the YAML key
    ``ai_gateway.max_body_size``.  ``inherited`` options come from the reference's "AI
    Gateway" group: their flag starts with ``--ai-gateway-`` and their older
    names (``CODER_AIBRIDGE_…``, ``--aibridge-…``, ``aibridge.…``) work too.  An empty ``flag`` is
    none: what must not stand in a list of processes.
    """
    draft = {
        "kind": kind,
        "default": default,
        "help": help,
        "flag": flag,
        "short": short,
        "env": env,
        "yaml": yaml,
        "inherited": inherited,
        **rest,
    }
    default_from = rest.get("default_from")
    metadata = {_KEY: draft}
    secret = bool(rest.get("secret")) or kind.may_hold_secret
    if default_from is not None:
        make = attrs.Factory(lambda: kind.read(default_from(os.environ)))
        return attrs.field(default=make, metadata=metadata, repr=not secret)
    return attrs.field(default=kind.read(default), metadata=metadata, repr=not secret)


def options_of(cls: type) -> tuple[Option, ...]:
    """The table that the attributes of ``cls`` declare, in their order."""
    fields = attrs.fields(cls)
    return tuple(_finish(f.name, dict(f.metadata[_KEY])) for f in fields if _KEY in f.metadata)


def _finish(name: str, draft: dict[str, Any]) -> Option:
    inherited = draft.pop("inherited")
    flag, short = draft.pop("flag"), draft.pop("short")
    env, yaml = draft.pop("env"), draft.pop("yaml")
    dashed = name.replace("_", "-")
    if flag is None:
        flag = f"--ai-gateway-{dashed}" if inherited else f"--{dashed}"
    if env == _DERIVE:
        env = ENV_PREFIX + name.upper()
    if yaml == _DERIVE:
        yaml = f"ai_gateway.{name}"
    envs = env if isinstance(env, tuple) else (env,) if env else ()
    old: dict[str, Any] = {}
    if inherited:
        old["hidden_flags"] = (flag.replace("--ai-gateway-", "--aibridge-"),)
        old["old_envs"] = tuple(
            e.replace(ENV_PREFIX, OLD_ENV_PREFIX) for e in envs if e.startswith(ENV_PREFIX)
        )
        old["old_yaml"] = yaml.replace("ai_gateway.", "aibridge.")
    flags = tuple(each for each in (flag, short) if each)
    return Option(name=name, flags=flags, envs=envs, yaml=yaml, **old, **draft)
