"""The bytes between a gateway and coderd, without I/O.

Bytes go in, events and bytes come out; there is no socket, thread, clock or log here.

==================  ========================================================================
:mod:`.yamux`       many streams over one connection
:mod:`.drpc`        calls on one stream
:mod:`.rpc_client`  both together, the calling end
:mod:`.rpc_server`  both together, the answering end: what a coderd for tests is made of
==================  ========================================================================

When we break a rule the call raises :class:`LocalProtocolError` and nothing is sent.  When
the peer breaks one, whatever it sends, the result is :class:`RemoteProtocolError`.
"""

from __future__ import annotations

from ._errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from ._need_data import NEED_DATA, NeedData

__all__ = ["NEED_DATA", "LocalProtocolError", "NeedData", "ProtocolError", "RemoteProtocolError"]
