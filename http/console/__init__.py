"""The console: pages that show what the gateway knows, in a process of their own.

It reads the database of ``--local`` and asks this machine's gateway through its sockets; no
request to a provider passes here, so that no page can slow one.
"""
