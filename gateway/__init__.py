"""Seawall: a resilience gateway in front of GPU model backends."""

__version__ = "0.1.0"
