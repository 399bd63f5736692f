"""Connections to backends: a keep-alive pool per endpoint, parsed in C, delivered by callback."""
