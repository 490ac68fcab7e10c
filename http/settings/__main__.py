"""``python -m aigateway.http.settings`` prints the reference of all options."""

from __future__ import annotations

import sys

from aigateway.http.settings.reference import reference

__all__: list[str] = []

if __name__ == "__main__":
    sys.stdout.write(reference())
