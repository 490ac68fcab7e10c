"""The bytes between a gateway and coderd, without I/O.

Bytes go in, events and bytes come out; there is no socket, thread, clock or log here.

==================  ========================================================================
:mod:`.yamux`       many streams over one connection
:mod:`.drpc`        calls on one stream
:mod:`.rpc_client`  both together, the calling end
==================  ========================================================================

When we break a rule the call raises :class:`LocalProtocolError` and nothing is sent.  When
the peer breaks one, whatever it sends, the result is :class:`RemoteProtocolError`.
"""

from __future__ import annotations

from ._protocol import NEED_DATA, LocalProtocolError, NeedData, ProtocolError, RemoteProtocolError

__all__ = ["NEED_DATA", "LocalProtocolError", "NeedData", "ProtocolError", "RemoteProtocolError"]
