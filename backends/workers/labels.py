"""Values of labels in Prometheus' text format."""

from __future__ import annotations


def escaped(value: str) -> str:
    """The value as it stands between the quotes."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
