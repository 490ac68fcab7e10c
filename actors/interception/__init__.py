"""Interception of provider APIs, sans-IO: bytes in, bytes and records out."""

from aigateway.actors.codec.headers import Headers
from aigateway.actors.interception.interface import (
    Interception,
    InvalidRequest,
    Outcome,
)
from aigateway.actors.interception.opening import open_interception

__all__ = ["Headers", "Interception", "InvalidRequest", "Outcome", "open_interception"]
