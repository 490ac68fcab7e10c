"""The control plane: may this key call, which providers are there, store this record.

Two implementations answer the same :mod:`~aigateway.actors.control.messages`: a Coder
deployment and an embedded SQLite database.
"""
