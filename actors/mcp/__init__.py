"""Tools of remote MCP servers: finding them and running them.

::

    McpTools                       one per gateway worker process
    └── McpSession                 one per user and server; its threads hold the conversations

``shelf`` is where the actor lays the sets that need no question.

Sans-IO below them: ``protocol`` (what is said), ``answers`` (what is read), ``definitions`` and
``offering``.
"""

from aigateway.actors.mcp.messages import CallTool, GetMcpState, GetTools, McpLimits, McpState

__all__ = [
    "CallTool",
    "GetMcpState",
    "GetTools",
    "McpLimits",
    "McpState",
]
