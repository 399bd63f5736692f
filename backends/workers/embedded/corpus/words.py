"""The words and facts that the generated texts are made of, from `words.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml


class Animal(NamedTuple):
    """An animal of the coast: what it is, where it `lives`, what it `eats`, its `colour`, two things it can do."""

    name: str
    plural: str
    kind: str
    lives: str
    eats: str
    colour: str
    facts: list[str]


def texts(name: str) -> Any:
    """The contents of one of the corpus' YAML files."""
    return yaml.safe_load((Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8"))


_words = texts("words")

ANIMALS = [Animal(**animal) for animal in _words["animals"]]
#: What a thing of the coast is, and one thing more about it.
THINGS: dict[str, list[str]] = _words["things"]
#: What is of which colour, and one thing more about it.
COLOURS: dict[str, list[str]] = _words["colours"]
MIXES: list[list[str]] = _words["mixes"]
OPPOSITES: list[list[str]] = _words["opposites"]
#: Whom and what a story can be about, apart from the animals.
PEOPLE: list[str] = _words["people"]
OBJECTS: list[str] = _words["objects"]
ADJECTIVES: list[str] = _words["adjectives"]
THEMES: list[str] = _words["themes"]
HER_NAMES: list[str] = _words["her_names"]
HIS_NAMES: list[str] = _words["his_names"]
PLACES: list[str] = _words["places"]
TREASURES: list[str] = _words["treasures"]
FOODS: list[str] = _words["foods"]
WEATHER: list[str] = _words["weather"]
#: What people ask about and this model knows nothing of.
TOPICS: list[str] = _words["topics"]
