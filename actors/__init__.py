"""The actors of one gateway worker process.

::

    Supervisor                     one per gunicorn worker process, started after the fork
    ├── control plane              CoderdConnection | LocalControlPlane
    ├── Recorder
    ├── McpTools
    └── Provider "anthropic"       one per configured provider, by name
        ├── UpstreamWorker         owns one kept-alive upstream connection
        └── …                      grown on demand to the provider's limit, reaped when idle

An actor's state is touched by nothing but the actor.  Actors talk in frozen messages that
are declared beside the actor that answers them, and are found by role, never by a kept
reference: a reference does not survive a restart.
"""
