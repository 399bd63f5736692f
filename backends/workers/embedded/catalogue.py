"""Which models this package carries."""

from __future__ import annotations

from pathlib import Path

MODELS = Path(__file__).parent / "models"


def model_folder(name: str) -> Path:
    """The folder of a carried model. Raises ValueError, naming those there are, if there is no such model."""
    known = sorted(path.parent.name for path in MODELS.glob("*/config.json"))
    if name not in known:
        raise ValueError(f"there is no embedded text model {name!r}; there are: {', '.join(known)}")
    return MODELS / name
