"""Short stories and poems from a grammar: one hero with a wish, a friend, some episodes, an ending that fits.

Facts chosen once (names, pronouns, the wish) hold through the whole story, so that a model which learns from many
of them learns to keep its hero.
"""

from __future__ import annotations

from random import Random

from backends.workers.embedded.corpus import words

Cast = dict[str, str]

_PARTS = words.texts("stories")
_SHE = ("girl", "queen", "princess", "witch", "grandmother", "mermaid")
_HE = ("boy", "fisherman", "king", "prince", "wizard", "grandfather", "postman")
_INSIDE = ("village", "town", "bay", "lagoon", "port", "house", "street")


def article(noun: str) -> str:
    """`noun` with its indefinite article: `an octopus`."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def invented_noun(rng: Random) -> str:
    """A word that does not exist, so that a model learns to copy any word it is asked about."""
    starts, vowels, ends = _PARTS["syllables"].values()
    parts = [rng.choice(starts) + rng.choice(vowels) for _ in range(rng.choice((1, 2, 2, 3)))]
    return "".join([*parts, rng.choice(ends)])


def hero_noun(rng: Random) -> str:
    """What a story is about: an animal, a person, a thing, now and then an invented word."""
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(words.ANIMALS).name
    if kind < 0.55:
        return rng.choice(words.PEOPLE)
    if kind < 0.88:
        return rng.choice(words.OBJECTS)
    return invented_noun(rng)


def cast_of(rng: Random, hero: str | None = None, friend: str | None = None, adjective: str | None = None) -> Cast:
    """The facts that hold through one story; whatever is not given is drawn."""
    hero = hero or hero_noun(rng)
    friend = friend or rng.choice([animal.name for animal in words.ANIMALS if animal.name != hero])
    if adjective is None:
        adjective = rng.choice(words.ADJECTIVES)
    she = hero in _SHE or (hero not in _HE and rng.random() < 0.5)
    names = rng.sample(words.HER_NAMES + words.HIS_NAMES, 2)
    own_names = words.HER_NAMES if she else words.HIS_NAMES
    name = rng.choice([own for own in own_names if own != names[1]])
    he, his, him = ("she", "her", "her") if she else ("he", "his", "him")
    place = rng.choice(words.PLACES)
    at = _preposition(place)
    return {
        "hero": hero,
        "a_hero": article(f"{adjective} {hero}"),
        "name": name,
        "friend": friend,
        "a_friend": article(friend),
        "fname": names[1],
        "he": he,
        "his": his,
        "him": him,
        "He": he.capitalize(),
        "His": his.capitalize(),
        "place": place,
        "the_place": f"the {_bare(place)}",
        "at": at,
        "At": at.capitalize(),
        "theme": rng.choice(words.THEMES),
        "treasure": rng.choice(words.TREASURES),
        "food": rng.choice(words.FOODS),
        "weather": rng.choice(words.WEATHER),
    }


def _preposition(place: str) -> str:
    fixed = {"a small harbour": "in", "the edge of a river": "at"}
    return fixed.get(place) or ("in" if any(word in place for word in _INSIDE) else "on")


def _bare(noun: str) -> str:
    return noun.removeprefix("the ").removeprefix("an ").removeprefix("a ")


def story(rng: Random, cast: Cast, episodes: int, theme: str | None = None) -> str:
    """A story in paragraphs; `episodes` sets its length (0: about 90 words, 4: about 230)."""
    wish = rng.choice(_PARTS["wishes"])
    opening = [rng.choice(_PARTS["openings"]), rng.choice(_PARTS["days"]), wish["wish"]]
    way = rng.sample(_PARTS["episodes"], episodes)
    if episodes > 1:
        way.insert(rng.randrange(1, episodes), rng.choice(_PARTS["tries"]))
    end = [rng.choice(_PARTS["turns"]), wish["fulfilled"]]
    end += [rng.choice(_PARTS["homecomings"]), rng.choice(_PARTS["closings"])]
    facts = dict(cast)
    if theme is not None:
        facts["theme"] = theme
        end.append(rng.choice(_PARTS["theme_lines"]))
    paragraphs = [opening, [rng.choice(_PARTS["friends"]), *way], end]
    if episodes > 2:
        paragraphs[1:2] = [[rng.choice(_PARTS["friends"]), *way[:2]], way[2:]]
    text = "\n\n".join(" ".join(part) for part in paragraphs).format_map(facts)
    return text[0].upper() + text[1:]


def poem(rng: Random, hero: str) -> str:
    """Four or eight rhymed lines about `hero`."""
    verses = rng.sample(_PARTS["verses"], rng.choice((1, 1, 2)))
    text = "\n\n".join("\n".join(verse) for verse in verses)
    return text.replace("A {hero}", article(hero).capitalize()).replace("a {hero}", article(hero)).format(hero=hero)
