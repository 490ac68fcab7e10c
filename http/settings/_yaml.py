"""Read the YAML file: dotted paths and raw values, nothing unknown let through."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from aigateway.http.settings.errors import SettingsError
from aigateway.http.settings.near import near_names, suggestion

if TYPE_CHECKING:
    from yaml import MappingNode, SafeLoader

__all__ = ["read_yaml"]


def read_yaml(path: str, known: Collection[str]) -> dict[str, object]:
    """Return the values in the file at ``path`` by dotted path; null counts as not there.

    Raises SettingsError when the file cannot be read, is no mapping, or holds an option
    that is not in ``known``.
    """
    # Not at the top: most commands never read YAML, and the import costs as much as click's.
    import yaml

    try:
        with open(path, "rb") as file:
            document = yaml.load(file, _loader())
    except OSError as ex:
        raise SettingsError(f'read config file "{path}": {ex.strerror}') from ex
    except yaml.YAMLError as ex:
        raise SettingsError(f'config file "{path}" is not valid YAML: {_where(ex)}') from ex
    except (UnicodeDecodeError, ValueError, RecursionError) as ex:
        raise SettingsError(f'config file "{path}" is not valid YAML: {type(ex).__name__}') from ex
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SettingsError(
            f'config file "{path}" must be a mapping of options, such as "ai_gateway:"; '
            f"it is a {_kind(document)}"
        )
    return dict(_options(document, "", known, path))


def _loader() -> type[SafeLoader]:
    """yaml.SafeLoader, but a key that is there twice is an error: which one was meant?"""
    import yaml

    class OnceLoader(yaml.SafeLoader):
        def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
            seen = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f'"{key.value}" is there twice', problem_mark=key.start_mark
                    )
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    return OnceLoader


def _options(
    mapping: Mapping[Any, Any], prefix: str, known: Collection[str], path: str
) -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        dotted = f"{prefix}{key}"
        if dotted in known:
            if value is not None:
                yield dotted, value
        elif isinstance(value, dict) and value:
            yield from _options(value, f"{dotted}.", known, path)
        elif _is_group(dotted, known):
            if value is not None and value != {}:
                raise SettingsError(
                    f'config file "{path}": {dotted} must be a mapping, it is a {_kind(value)}'
                )
        else:
            raise SettingsError(_unknown(dotted, known, path))


def _is_group(dotted: str, known: Collection[str]) -> bool:
    return any(name.startswith(f"{dotted}.") for name in known)


def _unknown(dotted: str, known: Collection[str], path: str) -> str:
    near = suggestion([f'"{name}"' for name in near_names(dotted, known)])
    return f'config file "{path}": unknown option "{dotted}"{near}'


def _kind(value: object) -> str:
    if isinstance(value, list):
        return "list"
    return "mapping" if isinstance(value, dict) else "single value"


def _where(ex: object) -> str:
    """The parser's reason on one line, with its place."""
    reason = getattr(ex, "problem", None) or str(ex).splitlines()[0]
    mark = getattr(ex, "problem_mark", None)
    return f"line {mark.line + 1}, column {mark.column + 1}: {reason}" if mark else reason
