"""The tables of prices as files: the package's own, and the operator's."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigateway.actors.control.local.prices.cost import Pricing
from aigateway.actors.control.local.prices.table import BadPrices, PriceTable, read_table
from aigateway.actors.values.provider_config import ProviderConfig

if TYPE_CHECKING:
    from yaml import MappingNode, SafeLoader, YAMLError

__all__ = ["PricesFileError", "load_pricing", "packaged_table", "read_prices_file"]

_LARGEST = 16 * 1024 * 1024


class PricesFileError(Exception):
    """The file given as ``--prices`` cannot be used; the text names the file and the field."""


def load_pricing(
    own: PriceTable | None = None, providers: Sequence[ProviderConfig] = ()
) -> Pricing:
    """The package's prices, with an operator's before them where there are any."""
    addresses = {each.name: (each.type, each.base_url) for each in providers}
    return Pricing(packaged_table(), own, addresses)


@functools.cache
def packaged_table() -> PriceTable:
    """The list prices that came with this version of the gateway."""
    text = files("aigateway.actors.control.local.prices").joinpath("table.json").read_bytes()
    return read_table(json.loads(text), packaged=True)


def read_prices_file(path: str | os.PathLike[str]) -> PriceTable:
    """An operator's table, of YAML or JSON.  Raises :class:`PricesFileError`.

    One that names no version has one made of its bytes, so that a changed file is another.
    """
    # Not at the top: each worker imports this module, and reads no such file.
    import yaml

    file = Path(path)
    try:
        if file.stat().st_size > _LARGEST:
            raise PricesFileError(f"--prices {file}: the file is larger than 16 MiB")
        content = file.read_bytes()
        document = _parsed(content)
        return read_table(document, version=hashlib.sha256(content).hexdigest()[:12])
    except OSError as ex:
        reason = (ex.strerror or str(ex)).lower()
        raise PricesFileError(f"--prices {file}: {reason}") from ex
    except UnicodeDecodeError as ex:
        raise PricesFileError(f"--prices {file}: is not UTF-8 text") from ex
    except yaml.YAMLError as ex:
        raise PricesFileError(f"--prices {file}: {_short(ex)}") from ex
    except BadPrices as ex:
        raise PricesFileError(f"--prices {file}: {ex}") from ex


def _parsed(content: bytes) -> Any:
    import yaml

    # YAML holds JSON, but for tabs and some escapes, so JSON is tried by itself.
    text = content.decode()
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text, object_pairs_hook=_without_doubles)
        except ValueError:
            pass
    return yaml.load(text, Loader=_loader())


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise BadPrices(f"{key}: stands there twice")
        found[key] = value
    return found


def _loader() -> type[SafeLoader]:
    """yaml.SafeLoader, but a key that stands twice in one mapping is refused: which price was
    meant?"""
    import yaml

    class OnceLoader(yaml.SafeLoader):
        def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _value in node.value:
                name = getattr(key, "value", None)
                if isinstance(name, str):
                    if name in seen:
                        line = key.start_mark.line + 1
                        raise BadPrices(f"{name}: stands there twice (line {line})")
                    seen.add(name)
            return super().construct_mapping(node, deep)

    return OnceLoader


def _short(ex: YAMLError) -> str:
    mark = getattr(ex, "problem_mark", None)
    problem = getattr(ex, "problem", None) or str(ex)
    return f"{problem} (line {mark.line + 1})" if mark is not None else str(problem)
