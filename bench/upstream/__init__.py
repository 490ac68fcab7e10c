"""The imitation provider: OpenAI Chat Completions and Anthropic Messages, blocking and SSE.

One process (or several) around epoll, with answers that are put together from prepared
bytes: it has to be much faster than whatever is measured.  Each event carries its number and
the moment at which it was sent, so that a client can see loss, merging and delay.
"""

from __future__ import annotations

from bench.upstream.behaviour import LISTENERS, Behaviour, Counters
from bench.upstream.client import Upstream

__all__ = ["LISTENERS", "Behaviour", "Counters", "Upstream"]
