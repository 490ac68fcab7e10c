"""Interception of provider APIs, sans-IO: bytes in, bytes and records out."""
