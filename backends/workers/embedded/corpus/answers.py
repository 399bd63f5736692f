"""Questions and answers: each function draws one pair `(question, answer)` on its subject."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from backends.workers.embedded.corpus import stories, words
from backends.workers.embedded.corpus.stories import article

Pair = tuple[str, str]

_TALK = words.texts("small_talk")
_ASK = words.texts("questions")
_NUMBERS: list[str] = _ASK["numbers"]
_TENS = {30: "thirty", 40: "forty", 50: "fifty", 100: "a hundred"}
_WITHOUT_ARTICLE = ("salt", "rain", "snow", "fog", "wind", "coral", "seaweed", "rope")
_EPISODES = {"short": (0, 0, 1), "": (1, 2, 2, 3), "long": (5, 6, 7, 8)}


def small_talk(rng: Random) -> Pair:
    return _talk(rng, rng.choice(_TALK))


def greeting(rng: Random) -> Pair:
    return _talk(rng, _TALK[rng.randrange(6)])


def _talk(rng: Random, entry: dict[str, list[str]]) -> Pair:
    return rng.choice(entry["questions"]), rng.choice(entry["answers"])


def _ask(rng: Random, subject: str, **facts: object) -> str:
    template: str = rng.choice(_ASK[subject])
    return template.format_map(facts)


def animal(rng: Random) -> Pair:
    it = rng.choice(words.ANIMALS)
    one, (first, second) = article(it.name), it.facts
    told = f"{one} {first[3:]}" if first.startswith("it ") else first
    sentences = {
        "what": f"{one.capitalize()} is {it.kind}.",
        "home": f"{it.plural.capitalize()} live {it.lives}.",
        "food": f"{it.plural.capitalize()} eat {it.eats}.",
        "look": f"{one.capitalize()} is usually {it.colour}.",
        "fact": f"Did you know? {told.capitalize()}.",
        "more": f"And {second}.",
    }
    asked = rng.choice(_ASK["animal"])
    question = rng.choice(asked["questions"]).format(one=one, name=it.name, plural=it.plural)
    return question, " ".join(sentences[part] for part in asked["answer"])


def thing(rng: Random) -> Pair:
    name = rng.choice(list(words.THINGS))
    what, more = words.THINGS[name]
    one = name if name in _WITHOUT_ARTICLE else article(name)
    if name in ("sun", "moon", "tide"):
        one = f"the {name}"
    return _ask(rng, "thing", one=one, name=name), f"{_opened(one)} is {what}. {more}"


def colour(rng: Random) -> Pair:
    if rng.random() < 0.35:
        *pair, mixed = rng.choice(words.MIXES)
        one, other = rng.sample(pair, 2)
        return _ask(rng, "mix", one=one, other=other), f"If you mix {one} and {other}, you get {mixed}."
    what = rng.choice(list(words.COLOURS))
    shade, more = words.COLOURS[what]
    return _ask(rng, "colour", what=what), f"{_opened(what)} is {shade}. {more}"


def opposite(rng: Random) -> Pair:
    one, other = rng.sample(rng.choice(words.OPPOSITES), 2)
    return _ask(rng, "opposite", one=one), f"The opposite of {one} is {other}."


def counting(rng: Random) -> Pair:
    last = rng.choice((*range(2, 31), 3, 5, 10, 10, 20, 20, 40, 50, 100))
    question = _ask(rng, "count", told=last if rng.random() < 0.5 else _number_name(last))
    numbers = range(1, last + 1)
    if rng.random() < 0.25:
        first = rng.randrange(2, 40)
        numbers = range(first, first + rng.randrange(3, 15))
        question = f"Count from {numbers[0]} to {numbers[-1]}"
    elif rng.random() < 0.15:
        numbers = range(rng.choice((5, 10, 10, 10, 20)), -1, -1)
        question = _ask(rng, "count_down", first=numbers[0], first_name=_number_name(numbers[0]))
    return question, ", ".join(map(str, numbers)) + "."


def _number_name(number: int) -> str:
    return _NUMBERS[number] if number <= 20 else _TENS.get(number, str(number))


def arithmetic(rng: Random) -> Pair:
    one, other = rng.randrange(0, 13), rng.randrange(0, 13)
    kind = rng.choice(("plus", "plus", "minus", "times"))
    if kind == "times":
        one, other = rng.randrange(0, 11), rng.randrange(0, 11)
    if kind == "minus" and other > one:
        one, other = other, one
    result = {"plus": one + other, "minus": one - other, "times": one * other}[kind]
    sign = {"plus": "+", "minus": "-", "times": "*"}[kind]
    question = _ask(rng, "arithmetic", one=one, other=other, kind=kind, sign=sign)
    return question, f"{one} {kind} {other} is {result}."


def listing(rng: Random) -> Pair:
    kind, *groups = rng.choice(_ASK["lists"])
    amount = rng.randrange(2, 6)
    chosen = rng.sample([member for group in groups for member in _ASK["members"][group]], amount)
    question = _ask(rng, "listing", kind=kind, amount=amount, amount_name=_NUMBERS[amount])
    if rng.random() < 0.4:
        return question, "\n".join(f"{place}. {one.capitalize()}" for place, one in enumerate(chosen, 1))
    return question, f"Here are {_NUMBERS[amount]} {kind}: {', '.join(chosen[:-1])} and {chosen[-1]}."


def repeating(rng: Random) -> Pair:
    said = " ".join(_any_word(rng) for _ in range(rng.randrange(1, 6)))
    return _ask(rng, "repeating", said=said), f"{said.capitalize()}."


def _any_word(rng: Random) -> str:
    hero, invented = stories.hero_noun(rng), stories.invented_noun(rng)
    return rng.choice((hero, invented, rng.choice(words.ADJECTIVES), rng.choice(_ASK["members"]["colours"])))


def unknown(rng: Random) -> Pair:
    what = rng.choice(words.TOPICS)
    if rng.random() < 0.5:
        what = " ".join(stories.invented_noun(rng) for _ in range(rng.choice((1, 1, 2))))
    return _ask(rng, "unknown", what=what), _ask(rng, "unknown_answers", what=what)


def story(rng: Random) -> Pair:
    length = rng.choice(("short", "", "", "", "", "long"))
    drawn, theme = rng.random(), None
    adjective = rng.choice(words.ADJECTIVES) if rng.random() < 0.5 else None
    hero = stories.hero_noun(rng)
    if drawn < 0.12:
        question, cast = _ask(rng, "any_story"), stories.cast_of(rng)
    elif drawn < 0.2:
        theme = rng.choice(words.THEMES)
        question, cast = _ask(rng, "story", what=theme), stories.cast_of(rng)
    elif drawn < 0.35:
        friend = rng.choice([animal.name for animal in words.ANIMALS if animal.name != hero])
        both = rng.choice((f"{article(hero)} and {article(friend)}", f"the {hero} and the {friend}"))
        question, cast = _ask(rng, "story", what=both), stories.cast_of(rng, hero, friend)
    else:
        cast = stories.cast_of(rng, hero, adjective=adjective)
        question = _ask_about_hero(rng, f"{adjective} {hero}" if adjective else hero, cast["name"])
    if length:
        question = question.replace(" short", "")
        question = question.replace("a story", f"a {length} story", 1).replace("A story", f"A {length} story", 1)
    return question, stories.story(rng, cast, rng.choice(_EPISODES[length]), theme)


def _ask_about_hero(rng: Random, told: str, name: str) -> str:
    template: str = rng.choice(_ASK["story"])
    question = template.format(what=rng.choice((article(told), article(told), f"the {told}", f"{told}s")))
    return question.rstrip(".?") + f" called {name}" if rng.random() < 0.15 else question


def poem(rng: Random) -> Pair:
    hero = rng.choice((rng.choice(words.ANIMALS).name, stories.hero_noun(rng), "sea", "moon", "wind"))
    subject = f"the {hero}" if hero in ("sea", "moon", "wind") or rng.random() < 0.3 else article(hero)
    return _ask(rng, "poem", what=subject), stories.poem(rng, hero)


def _opened(text: str) -> str:
    return text[0].upper() + text[1:]


#: How often each kind is drawn; stories are long, so they fill most of the text all the same.
KINDS: dict[Callable[[Random], Pair], int] = {
    story: 30,
    animal: 12,
    small_talk: 10,
    greeting: 4,
    thing: 8,
    counting: 6,
    colour: 5,
    arithmetic: 7,
    opposite: 3,
    listing: 5,
    repeating: 5,
    unknown: 5,
    poem: 5,
}
