"""The prices that a command's settings name."""

from __future__ import annotations

import os
from typing import Any

import click

from aigateway.actors.control.local.price_files import (
    PricesFileError,
    load_pricing,
    read_prices_file,
)
from aigateway.actors.control.local.prices.cost import Pricing
from aigateway.http.settings import SettingsError, load
from aigateway.http.settings.provider_build import configured_providers

__all__ = ["pricing_of"]


def pricing_of(flags: dict[str, Any]) -> Pricing:
    """The list prices and those of --prices, for the providers that the environment and the
    configuration file name.  Raises ClickException."""
    try:
        settings = load(flags, os.environ, require_coderd=False)
        own = read_prices_file(settings.prices) if settings.prices else None
        return load_pricing(own, configured_providers(settings))
    except SettingsError as ex:
        raise click.UsageError(str(ex)) from ex
    except PricesFileError as ex:
        raise click.ClickException(str(ex)) from ex
