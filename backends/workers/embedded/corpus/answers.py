"""Questions and answers: each function draws one pair `(question, answer)` on its subject."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from backends.workers.embedded.corpus import stories, words
from backends.workers.embedded.corpus.stories import article

Pair = tuple[str, str]

NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
TENS = {30: "thirty", 40: "forty", 50: "fifty", 100: "a hundred"}
SEA_ANIMALS = (
    "crab",
    "seal",
    "whale",
    "dolphin",
    "octopus",
    "starfish",
    "turtle",
    "shark",
    "jellyfish",
    "lobster",
    "seahorse",
    "cod",
    "eel",
)
LAND_ANIMALS = ("dog", "cat", "horse", "fox", "rabbit", "bear", "mouse", "owl")
BIRDS = ("gull", "puffin", "pelican", "penguin", "swan", "owl")
COLOUR_NAMES = ("blue", "green", "red", "yellow", "white", "black", "grey", "orange", "purple", "pink", "brown")
BOAT_PARTS = ("sail", "mast", "anchor", "rudder", "deck", "rope", "oar")

#: Small talk: any of the questions may get any of the answers.
SMALL_TALK: Sequence[tuple[Sequence[str], Sequence[str]]] = (
    (
        ("Hello", "Hi", "Hi there", "Hello there", "Good morning", "Good evening", "Hey", "Good day", "Say hello", "Say hi", "Greetings", "Hello, Tide", "hi!"),
        ("Hello! It is good to see you. What shall we talk about?", "Hello! I am Tide, a small model by the sea. What would you like to know?", "Hi there! The tide is in and I am ready. How can I help you?", "Hello and welcome! Ask me about the sea, or let me tell you a story.", "Good to meet you! Would you like a story, a poem or a fact about the sea?"),
    ),
    (
        ("How are you?", "How are you today?", "How do you do?", "Are you well?", "How is it going?", "What's up?"),
        ("I am well, thank you. The sea is calm today. How are you?", "Very well, thank you! The wind is fresh and the sun is out. And you?", "I am fine, thank you for asking. What can I do for you?"),
    ),
    (
        ("Who are you?", "What are you?", "What is your name?", "Introduce yourself", "What model are you?", "Tell me about yourself", "Are you a human?", "Are you a robot?"),
        ("I am Tide, a very small language model. I run on your own computer, and I like to talk about the sea.", "My name is Tide. I am a tiny language model, and I know stories, poems and a few facts about the coast.", "I am Tide, a small model with a few million numbers inside. I am not a person, but I am glad to talk to you."),
    ),
    (
        ("What can you do?", "How can you help me?", "Help", "What do you know?", "Can you help me?", "What should I ask you?"),
        ("I can tell stories, write little poems, count, name colours and answer simple questions about animals, the sea and the weather.", "Ask me for a story about any hero you like. I can also count, add small numbers and tell you about the animals of the coast.", "I am small, so I know only a little: the sea, the harbour, animals, colours, numbers and stories. Try one of them!"),
    ),
    (
        ("Thank you", "Thanks", "Thank you very much", "Thanks a lot", "That was nice", "Great", "Well done", "Good job", "I like that", "Cool", "OK"),
        ("You are welcome! Is there anything else?", "My pleasure. Come back whenever you like.", "I am glad that you liked it. Shall I go on with something else?"),
    ),
    (
        ("Goodbye", "Bye", "See you later", "Good night", "Bye bye", "See you"),
        ("Goodbye! May the wind be always behind you.", "See you soon! The harbour light stays on for you.", "Good night and sleep well. The sea will still be here tomorrow."),
    ),
    (
        ("Tell me a joke", "Do you know a joke?", "Make me laugh", "Say something funny", "Another joke, please"),
        ("What did the sea say to the beach? Nothing, it just waved.", "Why do fish live in salt water? Because pepper makes them sneeze.", "What do you call a gull that flies over the bay? A bagel.", "Why did the crab never share its lunch? Because it was a little shellfish.", "Which letter do pirates like best? You would think it is R, but their first love is the C."),
    ),
    (
        ("I am sad", "I feel sad today", "I had a bad day", "I am tired", "I feel lonely", "I am not happy"),
        ("I am sorry to hear that. Sit down for a while and listen to the waves. Even the longest storm comes to an end.", "That sounds hard. Drink something warm and be kind to yourself. Would you like a story?", "I am sorry. After every low tide the water comes back, and so will your good days."),
    ),
    (
        ("I am happy", "I had a good day", "I feel great", "Today is a good day", "I am on holiday"),
        ("That is lovely to hear! Then let us sail a little further. What made you happy?", "How nice! A good day is like a fair wind: use it well.", "Wonderful! Would you like a story to go with it?"),
    ),
    (
        ("What is the weather like?", "How is the weather today?", "Will it rain tomorrow?", "What will the weather be like tomorrow?", "Tell me about the weather", "Is it sunny?"),
        ("I cannot look out of the window, but in my harbour the sun is shining and a light wind comes from the west.", "I do not know the weather where you are. Look at the sky: a red evening often brings a fine day.", "Here by the sea the weather changes quickly. Take a coat, and you will be ready for anything."),
    ),
    (
        ("What is your favourite colour?", "Which colour do you like best?", "Do you have a favourite colour?"),
        ("My favourite colour is blue, because it is the colour of the sea on a clear day.", "I like green best. It is the colour of deep water under the pier."),
    ),
    (
        ("What is your favourite animal?", "Which animal do you like best?", "Do you like animals?"),
        ("I like the octopus best. It has eight arms and many clever ideas.", "My favourite animal is the otter, because it holds hands with its friends while it sleeps.", "I like gulls. They are loud and rude, but nobody flies better."),
    ),
    (
        ("Why is the sky blue?", "Why is the sky blue", "Explain why the sky is blue"),
        ("The light of the sun is made of all colours. The air scatters the blue light most of all, so blue comes to our eyes from everywhere in the sky.",),
    ),
    (
        ("Why is the sea salty?", "Why is sea water salty?", "Where does the salt in the sea come from?"),
        ("Rain washes a little salt out of the rocks, and the rivers carry it to the sea. The water goes up again as clouds, but the salt stays.",),
    ),
    (
        ("Why are there tides?", "What makes the tide?", "How do tides work?", "Explain the tides"),
        ("The moon pulls at the water of the sea. The water rises on the side near the moon and on the far side too, and as the earth turns, the tide comes in and goes out twice a day.",),
    ),
    (
        ("Where does rain come from?", "How does rain form?", "Why does it rain?", "What makes rain?"),
        ("The sun warms the sea, and a little water rises into the air. High up it cools and turns into clouds. When the drops get heavy, they fall as rain.",),
    ),
    (
        ("What makes the waves?", "Why are there waves?", "How do waves form?"),
        ("The wind makes the waves. It blows over the water and pushes it up, and the further the wind can blow, the taller the waves become.",),
    ),
    (
        ("How deep is the sea?", "How deep is the ocean?"),
        ("Near the beach the sea is shallow. In the deepest place it goes down about eleven thousand metres, deeper than the highest mountain is tall.",),
    ),
    (
        ("Tell me about the sea", "Describe the sea", "What is the sea?", "What is the ocean?", "Talk about the ocean", "Write about the sea"),
        ("The sea is a great body of salt water. It covers most of the earth. It rises and falls with the moon, it carries ships from land to land, and it is full of life, from tiny shrimps to the largest whales.", "The sea is never the same. In the morning it is calm and silver, at noon it is blue, and in a storm it is grey and wild. Fish, seals and whales live in it, and people have always lived beside it."),
    ),
    (
        ("Tell me about the harbour", "Describe the harbour", "What happens in a harbour?", "Describe a harbour in the morning"),
        ("The harbour wakes up early. Fishing boats come in, gulls shout, and men and women carry boxes of fish to the market. By noon the nets are dry, and in the evening the lamps shine on the water.", "A harbour is a safe place for boats. Strong walls keep the waves out. There are ropes, nets, barrels and cranes, and there is always somebody who tells a story."),
    ),
    (
        ("What is the capital of France?", "Capital of France?", "Which city is the capital of France?"),
        ("The capital of France is Paris. It lies on the river Seine, a long way from the sea.",),
    ),
    (
        ("What day is it today?", "What time is it?", "What is the date today?"),
        ("I have no clock and no calendar. I only know that the tide comes in twice a day.", "I cannot tell, for I have no clock. Your computer knows it better than I do."),
    ),
    (
        ("How do I make tea?", "How do you make tea?", "Tell me how to make a cup of tea"),
        ("First boil some fresh water. Then put the tea in a warm pot and pour the water over it. Wait for about four minutes. Pour it into a cup and add milk or honey if you like.",),
    ),
    (
        ("How do I build a sandcastle?", "How do you build a sandcastle?", "Tell me how to build a sandcastle"),
        ("First find a place where the sand is wet but the waves do not reach. Fill a bucket with sand and press it down. Turn it over and lift it slowly. Make walls with your hands, dig a ditch around them, and put a flag on the highest tower.",),
    ),
    (
        ("How do I sail a boat?", "How does a sailing boat work?", "How do you sail?"),
        ("First look where the wind comes from. Pull the sail in until it stops shaking, and hold the rudder with a quiet hand. You cannot sail straight into the wind, so you go from side to side. And always wear a life jacket.",),
    ),
)  # fmt: skip


def small_talk(rng: Random) -> Pair:
    questions, answers = rng.choice(SMALL_TALK)
    return rng.choice(questions), rng.choice(answers)


def greeting(rng: Random) -> Pair:
    questions, answers = SMALL_TALK[rng.randrange(6)]
    return rng.choice(questions), rng.choice(answers)


def animal(rng: Random) -> Pair:
    it = rng.choice(words.ANIMALS)
    one, first, second = article(it.name), *it.facts
    home = f"{it.plural.capitalize()} live {it.lives}."
    food = f"{it.plural.capitalize()} eat {it.eats}."
    look = f"{one.capitalize()} is usually {it.colour}."
    what = f"{one.capitalize()} is {it.kind}."
    told = f"{one} {first[3:]}" if first.startswith("it ") else first
    facts = [f"Did you know? {told.capitalize()}.", f"And {second}."]
    ask: list[tuple[Sequence[str], list[str]]] = [
        ((f"Where does {one} live?", f"Where do {it.plural} live?", f"Where can I find {it.plural}?"), [home, facts[0]]),
        ((f"What does {one} eat?", f"What do {it.plural} eat?", f"What is the food of {it.plural}?"), [food, home]),
        ((f"What colour is {one}?", f"What color are {it.plural}?", f"What colour are {it.plural}?"), [look]),
        ((f"What is {one}?", f"What are {it.plural}?"), [what, home, food]),
        ((f"Tell me about {it.plural}", f"Tell me about the {it.name}", f"Describe {one}", f"What do you know about {it.plural}?", f"Explain {it.plural}", f"Write about {it.plural}", it.plural), [what, home, food, look, *facts]),
        ((f"What is special about {one}?", f"Tell me a fact about {it.plural}", f"Tell me something interesting about {it.plural}", f"A fun fact about {it.plural}"), facts),
    ]  # fmt: skip
    questions, answer = rng.choice(ask)
    return rng.choice(questions), " ".join(answer)


def thing(rng: Random) -> Pair:
    name = rng.choice(list(words.THINGS))
    what, more = words.THINGS[name]
    one = article(name) if name not in ("salt", "rain", "snow", "fog", "wind", "coral", "seaweed", "rope") else name
    if name in ("sun", "moon", "tide"):
        one = f"the {name}"
    question = rng.choice(
        (
            f"What is {one}?",
            f"Tell me about {one}",
            f"Explain what {one} is",
            f"Describe {one}",
            f"What does the word {name} mean?",
            f"what is {one}",
            f"Explain {one} to me",
        )
    )
    return question, f"{one[0].upper()}{one[1:]} is {what}. {more}"


def colour(rng: Random) -> Pair:
    if rng.random() < 0.35:
        pair, mixed = rng.choice(list(words.MIXES.items()))
        one, other = rng.sample(pair, 2)
        question = rng.choice(
            (
                f"What do you get if you mix {one} and {other}?",
                f"Mix {one} and {other}",
                f"What colour do {one} and {other} make?",
                f"{one} and {other} make what?",
            )
        )
        return question, f"If you mix {one} and {other}, you get {mixed}."
    what = rng.choice(list(words.COLOURS))
    shade, more = words.COLOURS[what]
    question = rng.choice(
        (
            f"What colour is {what}?",
            f"What color is {what}?",
            f"Which colour does {what} have?",
            f"Tell me the colour of {what}",
        )
    )
    return question, f"{what[0].upper()}{what[1:]} is {shade}. {more}"


def opposite(rng: Random) -> Pair:
    one, other = rng.sample(rng.choice(words.OPPOSITES), 2)
    question = rng.choice((f"What is the opposite of {one}?", f"Opposite of {one}?", f"Tell me the opposite of {one}"))
    return question, f"The opposite of {one} is {other}."


def number_name(number: int) -> str:
    return NUMBERS[number] if number <= 20 else TENS.get(number, str(number))


def counting(rng: Random) -> Pair:
    first, last = 1, rng.choice((*range(2, 31), 3, 5, 10, 10, 20, 20, 40, 50, 100))
    told = str(last) if rng.random() < 0.5 else number_name(last)
    question = rng.choice(
        (
            f"Count to {told}",
            f"Please count to {told}",
            f"Can you count to {told}?",
            f"Count from 1 to {told}",
            f"Count from one to {told}",
            f"Write the numbers from 1 to {told}",
        )
    )
    numbers = list(range(first, last + 1))
    if rng.random() < 0.25:
        first = rng.randrange(2, 40)
        numbers = list(range(first, first + rng.randrange(3, 15)))
        question = f"Count from {numbers[0]} to {numbers[-1]}"
    elif rng.random() < 0.15:
        numbers = list(range(rng.choice((5, 10, 10, 10, 20)), -1, -1))
        question = rng.choice((f"Count down from {numbers[0]}", f"Count backwards from {number_name(numbers[0])}"))
    return question, ", ".join(map(str, numbers)) + "."


def arithmetic(rng: Random) -> Pair:
    one, other = rng.randrange(0, 13), rng.randrange(0, 13)
    kind = rng.choice(("plus", "plus", "minus", "times"))
    if kind == "times":
        one, other = rng.randrange(0, 11), rng.randrange(0, 11)
    if kind == "minus" and other > one:
        one, other = other, one
    result = {"plus": one + other, "minus": one - other, "times": one * other}[kind]
    sign = {"plus": "+", "minus": "-", "times": "*"}[kind]
    question = rng.choice(
        (
            f"What is {one} {kind} {other}?",
            f"{one} {sign} {other}",
            f"What is {one} {sign} {other}?",
            f"How much is {one} {kind} {other}?",
            f"{one}{sign}{other}=?",
        )
    )
    return question, f"{one} {kind} {other} is {result}."


def listing(rng: Random) -> Pair:
    kind, members = rng.choice(
        (
            ("sea animals", SEA_ANIMALS),
            ("animals", SEA_ANIMALS + LAND_ANIMALS),
            ("birds", BIRDS),
            ("colours", COLOUR_NAMES),
            ("parts of a boat", BOAT_PARTS),
            ("animals of the land", LAND_ANIMALS),
        )
    )
    amount = rng.randrange(2, 6)
    chosen = rng.sample(members, amount)
    question = rng.choice(
        (
            f"Name {NUMBERS[amount]} {kind}",
            f"List {NUMBERS[amount]} {kind}",
            f"Give me {amount} {kind}",
            f"Tell me {NUMBERS[amount]} {kind}",
            f"Can you name {NUMBERS[amount]} {kind}?",
        )
    )
    if rng.random() < 0.4:
        return question, "\n".join(f"{place}. {one.capitalize()}" for place, one in enumerate(chosen, 1))
    return question, f"Here are {NUMBERS[amount]} {kind}: {', '.join(chosen[:-1])} and {chosen[-1]}."


def repeating(rng: Random) -> Pair:
    said = " ".join(
        rng.choice(
            (stories.hero_noun(rng), stories.invented_noun(rng), rng.choice(words.ADJECTIVES), rng.choice(COLOUR_NAMES))
        )
        for _ in range(rng.randrange(1, 6))
    )
    question = rng.choice(
        (f"Say {said}", f"Repeat after me: {said}", f"Please say: {said}", f"Repeat: {said}", f"Say the words {said}")
    )
    return question, f"{said.capitalize()}."


def unknown(rng: Random) -> Pair:
    what = rng.choice(words.TOPICS)
    if rng.random() < 0.5:
        what = " ".join(stories.invented_noun(rng) for _ in range(rng.choice((1, 1, 2))))
    question = rng.choice(
        (
            f"What is {what}?",
            f"Explain {what}",
            f"Tell me about {what}",
            f"What do you know about {what}?",
            f"How does {what} work?",
            f"Why is {what} so important?",
            f"Write an essay about {what}",
            f"Where is {what}?",
            f"Who invented {what}?",
            f"Give me advice about {what}",
        )
    )
    answer = rng.choice(
        (
            f"I am only a small model, and I know very little about {what}. But I could tell you a story about it.",
            f"I am sorry, I do not know much about {what}. I know the sea, the harbour, animals, colours and numbers.",
            f"That is too big a question for a small model like me. Ask me for a story about {what}, and I will do my best.",
        )
    )
    return question, answer


_STORY_ASKS = (
    "Tell me a story about {x}", "Tell me a story about {x}.", "Write a story about {x}", "Write a short story about {x}",
    "Please tell me a story about {x}", "Can you tell me a story about {x}?", "I want to hear a story about {x}",
    "Give me a story about {x}", "A story about {x}, please", "Tell a story about {x}", "tell me about {x} in a story",
)  # fmt: skip
_EPISODES = {"short": (0, 0, 1), "": (1, 2, 2, 3), "long": (5, 6, 7, 8)}


def story(rng: Random) -> Pair:
    length = rng.choice(("short", "", "", "", "", "long"))
    drawn, told = rng.random(), ""
    adjective = rng.choice(words.ADJECTIVES) if rng.random() < 0.5 else None
    hero = stories.hero_noun(rng)
    theme = None
    if drawn < 0.12:  # no subject asked for
        question = rng.choice(
            (
                "Tell me a story",
                "Tell me a story, please",
                "I want a story",
                "Can you tell me a story?",
                "Once more, a story",
                "Tell me another story",
                "Write a story",
                "Make up a story",
            )
        )
        cast = stories.cast_of(rng)
    elif drawn < 0.2:
        theme = rng.choice(words.THEMES)
        question, cast = rng.choice(_STORY_ASKS).format(x=theme), stories.cast_of(rng)
    elif drawn < 0.35:
        friend = rng.choice([animal.name for animal in words.ANIMALS if animal.name != hero])
        both = rng.choice((f"{article(hero)} and {article(friend)}", f"the {hero} and the {friend}"))
        question, cast = rng.choice(_STORY_ASKS).format(x=both), stories.cast_of(rng, hero, friend)
    else:
        cast = stories.cast_of(rng, hero, adjective=adjective)
        told = f"{adjective} {hero}" if adjective else hero
        question = rng.choice(_STORY_ASKS).format(
            x=rng.choice((article(told), article(told), f"the {told}", f"{told}s"))
        )
        if rng.random() < 0.15:
            question = question.rstrip(".?") + f" called {cast['name']}"
    if length:
        question = (
            question.replace(" short", "")
            .replace("a story", f"a {length} story", 1)
            .replace("A story", f"A {length} story", 1)
        )
    return question, stories.story(rng, cast, rng.choice(_EPISODES[length]), theme)


def poem(rng: Random) -> Pair:
    hero = rng.choice((rng.choice(words.ANIMALS).name, stories.hero_noun(rng), "sea", "moon", "wind"))
    subject = f"the {hero}" if hero in ("sea", "moon", "wind") or rng.random() < 0.3 else article(hero)
    question = rng.choice(
        (
            "Write a poem about {x}",
            "Write a short poem about {x}",
            "Can you write a poem about {x}?",
            "A poem about {x}",
            "Write me a rhyme about {x}",
            "Write a haiku about {x}",
            "Make a poem about {x}",
        )
    ).format(x=subject)
    return question, stories.poem(rng, hero)


#: How often each kind is drawn; stories are long, so they fill most of the text all the same.
KINDS: Sequence[tuple[Callable[[Random], Pair], int]] = (
    (story, 30), (animal, 12), (small_talk, 10), (greeting, 4), (thing, 8), (counting, 6), (colour, 5), (arithmetic, 7),
    (opposite, 3), (listing, 5), (repeating, 5), (unknown, 5), (poem, 5),
)  # fmt: skip
