"""The console: pages that show what the gateway knows, in a process of their own.

It reads the database of ``--local``, and writes to it what somebody changes on its pages; it asks
this machine's gateway through its sockets.  No request to a provider passes here, so that no page
can slow one.
"""
