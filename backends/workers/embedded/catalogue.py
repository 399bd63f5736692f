"""Which models this package carries."""

from __future__ import annotations

from pathlib import Path

MODELS = Path(__file__).parent / "models"


def model_folder(name: str) -> Path:
    """The folder of a carried model. Raises ValueError, naming those there are, if there is no such model."""
    if name not in model_names():
        raise ValueError(f"there is no embedded text model {name!r}; there are: {', '.join(model_names())}")
    return MODELS / name


def model_names() -> list[str]:
    """The names of all carried models, sorted."""
    return sorted(path.parent.name for path in MODELS.glob("*/model.safetensors"))
