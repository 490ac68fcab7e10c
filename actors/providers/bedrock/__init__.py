"""Anthropic's models on AWS Bedrock: what differs from Anthropic's own API, and nothing else.

- :mod:`.rewrite`: the client's request in the form that Bedrock takes (no I/O)
- :mod:`.eventstream`: AWS's binary frames to server-sent events (no I/O)
- :mod:`.answer`: the interception of an answer that comes in that form (no I/O)
- :mod:`.credentials`: AWS credentials, kept fresh in the background
- :mod:`.signing`: the signature of a request (AWS Signature Version 4)

``botocore`` is an optional dependency (``aigateway[bedrock]``), imported only when a Bedrock
provider is used: it costs a seventh of a second and ten megabytes.
"""
