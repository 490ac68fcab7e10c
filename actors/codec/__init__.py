"""Bytes and their meaning, without I/O."""
