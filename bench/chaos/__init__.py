"""Chaos: load on a gateway while everything around it, and in it, breaks.

``plan`` draws what breaks and when from a seed, ``faults`` does it, ``provider`` and ``clients``
are the two ends of the traffic, ``ledger`` holds what was answered against what is stored,
``leaks`` counts what a gateway left behind, ``run`` is the whole of it.
"""

from __future__ import annotations
