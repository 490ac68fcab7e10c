"""The package's table, read once."""

from __future__ import annotations

import pytest

from aigateway.actors.control.local.price_files import load_pricing
from aigateway.actors.control.local.prices.cost import Pricing


@pytest.fixture(scope="session")
def pricing() -> Pricing:
    return load_pricing()
