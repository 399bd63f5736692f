"""Streams on their way from a backend to the client."""
