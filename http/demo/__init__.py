"""The demonstration: an imitation provider, and a gateway in front of it."""
