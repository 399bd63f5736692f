"""What tests measure on the way, shown at the end of the run: seconds to recover, requests that failed."""

from __future__ import annotations

from typing import ClassVar


class Figures:
    """Collects lines; one list for the whole run."""

    lines: ClassVar[list[str]] = []

    def add(self, what: str, value: float, unit: str) -> None:
        """Notes one figure."""
        shown = f"{value:.1f}" if isinstance(value, float) else str(value)
        self.lines.append(f"{what}: {shown} {unit}".rstrip())
