"""Short stories from a grammar: one hero with a wish, a friend, some episodes and an ending that fits the beginning.

Facts chosen once (names, pronouns, the wish) hold through the whole story, so that a model which learns from many
of them learns to keep its hero.
"""

from __future__ import annotations

from random import Random

from backends.workers.embedded.corpus import words

Cast = dict[str, str]

OPENINGS = (
    "Once upon a time there was {a_hero} called {name}. {He} lived {at} {place}.",
    "{At} {place} there lived {a_hero} called {name}.",
    "This is the story of {name}, {a_hero} who lived {at} {place}.",
    "Long ago, {at} {place}, there was {a_hero}. {His} name was {name}.",
    "{name} was {a_hero}. {He} lived {at} {place}, where everyone knew {him}.",
)
DAYS = (
    "Every day {he} looked out at the water and wondered what was on the other side.",
    "{He} got up early each morning and listened to the gulls.",
    "{He} liked the smell of salt and the sound of the waves.",
    "Most of all {he} liked to hear stories about faraway places.",
    "In the evening {he} counted the lights on the water.",
    "{He} had a good life, but something was missing.",
)
#: (the wish, how it ends)
WISHES = (
    (
        "More than anything, {name} wanted to find {treasure}.",
        "There, in the soft light, lay {treasure}. {name} had found it at last.",
    ),
    (
        "{name} had one great wish: to see the sea from the top of the lighthouse.",
        "From the top of the lighthouse the whole sea lay before {him}, and {name} could not say a word.",
    ),
    (
        "{name} dreamed of having a true friend.",
        "That night {name} understood that {he} had found a true friend: it was {fname}.",
    ),
    ("{name} wanted to learn how to sail.", "By the end of the summer {name} could sail as well as any captain."),
    (
        "One day {name} lost {treasure}, and {he} wanted to get it back.",
        "And there it was, {treasure}, just where the tide had left it.",
    ),
    (
        "{name} wanted to bring {treasure} to {his} family.",
        "When {name} came home with {treasure}, {his} family danced around the table.",
    ),
    (
        "{name} was afraid of the dark and wanted to be brave.",
        "{name} looked up at the dark sky and smiled. {He} was not afraid any more.",
    ),
    (
        "{name} wanted to find out where the moon goes in the morning.",
        "At last {name} saw the moon slip behind the hills, and {he} waved until it was gone.",
    ),
)
FRIENDS = (
    'On {weather} {he} met {a_friend} called {fname}. "Where are you going?" asked {fname}. "Come with me and you will see," said {name}.',
    'That was how {he} met {fname}, {a_friend} with a kind heart. "I will help you," said {fname}.',
    'On {weather} {a_friend} sat down beside {him}. "My name is {fname}," said the {friend}. "You look as if you need some help."',
    'Then {fname} came by. {fname} was {a_friend} who knew every path along the coast. "Let us go together," said {fname}.',
    '"You cannot do this alone," said {fname}, {a_friend} who lived next door. "No," said {name}, "but I can do it with you."',
)
EPISODES = (
    "First they came to a wide river. There was no bridge, so {name} tied some old boards together, and they floated across.",
    "Soon a thick fog came in from the sea. They could not see the path, so {fname} rang a little bell, and {name} followed the sound.",
    "In the afternoon the wind grew strong and the waves grew tall. {name} held on to {fname}, and they waited behind a wall until the storm was over.",
    "After a while they were hungry. {name} had only one piece of bread, but {he} broke it in two and gave the bigger half to {fname}.",
    "Then they met an old fisherman with a torn net. {name} and {fname} helped him mend it, and he told them which way to go.",
    "At the foot of the cliff they found a locked door. {fname} looked under a stone, and there was the key.",
    "They walked along the beach until their feet were tired. Then a friendly dolphin came and carried them to the next bay.",
    "In the night they heard a strange noise. {fname} was frightened, but {name} lit a lamp, and it was only a cat in an empty barrel.",
    "A gull stole their map and flew away. {name} did not shout. {He} offered the gull a biscuit, and the gull gave the map back.",
    "They came to a place where the path split in two. {fname} said left and {name} said right, so they asked a snail, who had plenty of time to think.",
    "Under the pier they found a young seal caught in a rope. {name} untied the knots one by one, and the seal swam free.",
    "The tide came in faster than they had thought. {fname} saw a high rock, and they sat on it and sang songs until the water went down.",
    "Then it began to rain. They crept under an old boat and told each other stories until the sun came out.",
    'On the market square a baker gave them {food}. "You will need it," she said, "the way is long."',
    'In the middle of the night {name} wanted to give up. "Just one more step," said {fname}. And after that step it was easier.',
    "They had to cross a dark cave. {name} went first and counted the steps aloud, and at one hundred they saw the light again.",
)
TRIES = (
    "{name} tried once, and it did not work. {He} tried again, and it still did not work.",
    "It was harder than {he} had thought, but {name} did not stop.",
    '"What if we never get there?" asked {fname}. "Then we will have had a good walk," said {name}.',
    "{name} sat down and thought for a long time. Then {he} had an idea.",
    "The sun was already low, and there was still a long way to go.",
)
TURNS = (
    "And then, just as the sun came up, it happened.",
    "When they came around the last corner, they stopped and stared.",
    "At last, after all that way, they were there.",
    "The next morning everything was quiet and clear.",
    '"Look!" cried {fname}.',
)
HOMECOMINGS = (
    "They went home together and ate {food}, and they told the story to everyone who wanted to hear it.",
    "In the evening they sat by the fire with {food} and listened to the waves.",
    "On the way back they laughed about the whole adventure.",
    "When they came home, all the windows were bright, and there was {food} on the table.",
)
CLOSINGS = (
    "From that day on, {name} and {fname} were always together.",
    "And if you go to {the_place} today, you may still see the {hero} and the {friend}, side by side.",
    "And {name} the {hero} slept well that night, and every night after it.",
    "And so the {hero} learned that the longest way is short with a friend.",
    "Since then, nobody {at} {the_place} has ever forgotten the {hero} called {name}.",
    "{name} never forgot that day, and now you will not forget it either.",
)
THEME_LINES = (
    "That is what {theme} means.",
    "It was a story about {theme}, and {name} told it for many years.",
    "And everyone {at} {the_place} knew a little more about {theme}.",
)


def article(noun: str) -> str:
    """`noun` with its indefinite article: `an octopus`."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def invented_noun(rng: Random) -> str:
    """A word that does not exist, so that a model learns to copy any word it is asked about."""
    starts = (
        "b",
        "br",
        "d",
        "f",
        "fl",
        "g",
        "gr",
        "k",
        "l",
        "m",
        "n",
        "p",
        "pl",
        "qu",
        "r",
        "s",
        "sn",
        "t",
        "tr",
        "v",
        "w",
        "z",
    )
    vowels, ends = ("a", "e", "i", "o", "u", "oo", "ee"), ("", "b", "g", "l", "m", "n", "p", "r", "t", "x", "ck", "nd")
    parts = [rng.choice(starts) + rng.choice(vowels) for _ in range(rng.choice((1, 2, 2, 3)))]
    return "".join(parts) + rng.choice(ends)


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


def _bare(noun: str) -> str:
    return noun.removeprefix("the ").removeprefix("an ").removeprefix("a ")


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
    at = (
        "in" if any(word in place for word in ("village", "town", "bay", "lagoon", "port", "house", "street")) else "on"
    )
    at = {"a small harbour": "in", "the edge of a river": "at"}.get(place, at)
    return {
        "hero": hero, "a_hero": article(f"{adjective} {hero}".strip()), "name": name,
        "friend": friend, "a_friend": article(friend), "fname": names[1],
        "he": he, "his": his, "him": him, "He": he.capitalize(), "His": his.capitalize(),
        "place": place, "the_place": f"the {_bare(place)}", "at": at, "At": at.capitalize(), "theme": rng.choice(words.THEMES),
        "treasure": rng.choice(words.TREASURES), "food": rng.choice(words.FOODS), "weather": rng.choice(words.WEATHER),
    }  # fmt: skip


_SHE = ("girl", "queen", "princess", "witch", "grandmother", "mermaid")
_HE = ("boy", "fisherman", "king", "prince", "wizard", "grandfather", "postman")


def story(rng: Random, cast: Cast, episodes: int, theme: str | None = None) -> str:
    """A story in paragraphs; `episodes` sets its length (0: about 90 words, 4: about 230)."""
    wish, fulfilled = rng.choice(WISHES)
    opening = [rng.choice(OPENINGS), rng.choice(DAYS), wish]
    way = rng.sample(EPISODES, episodes)
    if episodes > 1:
        way.insert(rng.randrange(1, episodes), rng.choice(TRIES))
    end = [rng.choice(TURNS), fulfilled, rng.choice(HOMECOMINGS), rng.choice(CLOSINGS)]
    facts = dict(cast)
    if theme is not None:
        facts["theme"] = theme
        end.append(rng.choice(THEME_LINES))
    paragraphs = [opening, [rng.choice(FRIENDS), *way], end]
    if episodes > 2:
        paragraphs[1:2] = [[rng.choice(FRIENDS), *way[:2]], way[2:]]
    text = "\n\n".join(" ".join(part) for part in paragraphs)
    return _capitalised(text.format_map(facts))


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


POEM_LINES = (
    (("The {hero} looks out at the sea,", "as quiet as a {hero} can be."), ("The wind is warm, the waves are slow,", "the little boats go to and fro.")),
    (("O {hero}, {hero}, where do you go,", "when the tide is high and the sun is low?"), ("I go where the wind and the water meet,", "with salt in my hair and sand at my feet.")),
    (("A {hero} came down to the bay,", "to watch the clouds and dream all day."), ("The moon came up, the stars were bright,", "the {hero} said a soft good night.")),
    (("I know a {hero} by the shore,", "who sings of the sea and asks for more."), ("The gulls fly home, the day is done,", "the {hero} waits for the morning sun.")),
    (("Deep is the water and blue is the sky,", "and the {hero} watches the ships go by."), ("One ship for you and one for me,", "and one for the {hero} who loves the sea.")),
)  # fmt: skip


def poem(rng: Random, hero: str) -> str:
    """Four or eight rhymed lines about `hero`."""
    verses = rng.sample(POEM_LINES, rng.choice((1, 1, 2)))
    text = "\n\n".join("\n".join(line for couplet in verse for line in couplet) for verse in verses)
    return text.replace("A {hero}", article(hero).capitalize()).replace("a {hero}", article(hero)).format(hero=hero)
