"""The control plane: may this key call, which providers are there, store this record.

Two implementations answer the same :mod:`~aigateway.actors.coderd.messages`: a Coder
deployment and an embedded SQLite database.
"""
