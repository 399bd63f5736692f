"""The words and facts that the generated texts are made of. Original to this project."""

from __future__ import annotations

from typing import NamedTuple


class Animal(NamedTuple):
    """An animal of the coast: `name` and `plural`, where it `lives`, what it `eats`, its `colour`, what it can do."""

    name: str
    plural: str
    kind: str
    lives: str
    eats: str
    colour: str
    facts: tuple[str, str]


ANIMALS = (
    Animal("crab", "crabs", "a small animal with a hard shell", "in rock pools and under stones", "seaweed, worms and scraps", "red or brown", ("it walks sideways", "it has ten legs, and two of them are claws")),
    Animal("seal", "seals", "a mammal with smooth fur", "on rocks and in cold water", "fish and squid", "grey", ("it can hold its breath for half an hour", "it loves to sleep in the sun")),
    Animal("whale", "whales", "the largest animal of all", "in the deep sea", "tiny shrimps and small fish", "blue or grey", ("it sings long songs under the water", "it comes up to breathe air")),
    Animal("dolphin", "dolphins", "a clever mammal", "in warm and open water", "fish", "grey and white", ("it jumps high over the waves", "it talks with clicks and whistles")),
    Animal("gull", "gulls", "a noisy sea bird", "on cliffs and roofs near the harbour", "fish, bread and almost anything else", "white and grey", ("it can glide for hours on the wind", "it is bold enough to steal a sandwich")),
    Animal("octopus", "octopuses", "a clever animal with eight arms", "in caves on the sea floor", "crabs and shells", "any colour it likes", ("it can change its colour in a moment", "it has three hearts")),
    Animal("starfish", "starfish", "a star-shaped animal", "on the sea floor and in rock pools", "mussels and clams", "orange", ("it can grow a new arm", "it has no bones at all")),
    Animal("turtle", "turtles", "a reptile with a shell", "in warm seas", "seagrass and jellyfish", "green and brown", ("it comes back to the beach where it was born", "it can live for a hundred years")),
    Animal("penguin", "penguins", "a bird that cannot fly", "on cold southern coasts", "fish and krill", "black and white", ("it swims faster than many fish", "it slides over the ice on its belly")),
    Animal("otter", "otters", "a playful mammal", "in rivers and along quiet shores", "fish, crabs and sea urchins", "brown", ("it holds hands with its friends while it sleeps", "it opens shells with a stone")),
    Animal("shark", "sharks", "a strong fish with many teeth", "in all the seas of the world", "fish and seals", "grey", ("it has swum in the sea for longer than there have been trees", "it grows new teeth all its life")),
    Animal("jellyfish", "jellyfish", "a soft animal like an umbrella", "near the top of the water", "tiny animals", "clear, pink or blue", ("it has no brain and no heart", "it drifts wherever the current goes")),
    Animal("lobster", "lobsters", "an animal with big claws", "in holes between the rocks", "crabs, snails and fish", "dark blue", ("it keeps growing all its life", "it swims backwards when it is afraid")),
    Animal("seahorse", "seahorses", "a tiny upright fish", "in fields of seagrass", "very small shrimps", "yellow or brown", ("the father carries the eggs", "it holds on to the grass with its tail")),
    Animal("pelican", "pelicans", "a large bird with a huge beak", "on warm coasts and lakes", "fish", "white", ("it uses its beak like a net", "it can carry more water than its own weight")),
    Animal("eel", "eels", "a long thin fish", "in rivers and in the sea", "worms and small fish", "dark green", ("it travels thousands of miles to lay its eggs", "it can cross wet grass at night")),
    Animal("snail", "snails", "a slow animal with a round shell", "on rocks and in gardens", "leaves and algae", "brown", ("it carries its house on its back", "it leaves a silver line behind it")),
    Animal("cod", "cod", "a fish of the cold north", "near the sea floor", "smaller fish and crabs", "green and white", ("it has a little beard on its chin", "it lays millions of eggs")),
    Animal("puffin", "puffins", "a small bird with a bright beak", "in holes on green cliffs", "little fish", "black, white and orange", ("it can carry ten fish in its beak", "it flies with very fast wings")),
    Animal("dog", "dogs", "a loyal friend of people", "in houses and on boats", "meat and biscuits", "black, white or brown", ("it can smell a friend from far away", "it wags its tail when it is happy")),
    Animal("cat", "cats", "a soft and quiet hunter", "wherever it is warm", "fish and mice", "black, white, grey or orange", ("it sleeps for most of the day", "it can see well in the dark")),
    Animal("horse", "horses", "a strong animal with long legs", "in fields and stables", "grass and hay", "brown, black or white", ("it can sleep while it stands", "it runs faster than any person")),
    Animal("fox", "foxes", "a clever animal with a thick tail", "in the forest and on the dunes", "mice, eggs and berries", "red", ("it listens for mice under the snow", "it is awake at night")),
    Animal("rabbit", "rabbits", "a small animal with long ears", "in holes in the dunes", "grass and carrots", "brown or white", ("it can look behind itself without turning its head", "it thumps its foot when there is danger")),
    Animal("owl", "owls", "a bird of the night", "in old trees and barns", "mice", "brown and white", ("it flies without a sound", "it can turn its head almost all the way round")),
    Animal("bee", "bees", "a busy insect", "in a hive", "nectar from flowers", "yellow and black", ("it dances to show its friends where the flowers are", "it makes honey")),
    Animal("bear", "bears", "a big animal with thick fur", "in forests and mountains", "berries, honey and fish", "brown, black or white", ("it sleeps through the winter", "it can climb trees")),
    Animal("mouse", "mice", "a tiny animal with a long tail", "in holes and corners", "seeds and cheese", "grey or brown", ("it can squeeze through a hole as small as a coin", "it hears sounds that we cannot hear")),
    Animal("frog", "frogs", "a small animal that jumps", "near ponds", "flies and worms", "green", ("it drinks through its skin", "it starts its life as a tadpole")),
    Animal("swan", "swans", "a large and graceful bird", "on lakes and calm rivers", "water plants", "white", ("it often stays with one partner for life", "it can fly very high")),
)  # fmt: skip

#: What a thing of the coast is, and one thing more about it.
THINGS = {
    "lighthouse": ("a tall tower with a bright lamp at the top", "Its light shows ships where the rocks are."),
    "harbour": ("a safe place for boats beside the land", "Strong walls keep the big waves out."),
    "tide": (
        "the slow rise and fall of the sea",
        "The moon pulls the water, so the tide comes in and goes out twice a day.",
    ),
    "wave": ("a moving hill of water", "The wind makes it far out at sea, and it breaks on the beach."),
    "boat": ("a small ship that floats on water", "You can row it, sail it or drive it with an engine."),
    "ship": ("a large vessel that crosses the sea", "It carries people and goods from one port to another."),
    "anchor": ("a heavy iron hook on a chain", "It holds a ship in one place."),
    "sail": ("a large piece of strong cloth", "It catches the wind and pulls the boat along."),
    "compass": ("a tool with a needle that points to the north", "Sailors use it to find their way."),
    "map": ("a drawing of the land or the sea", "It tells you where you are and where you can go."),
    "seawall": (
        "a strong wall between the sea and the town",
        "When a storm comes, it takes the blow, and the town behind it stays dry.",
    ),
    "pier": ("a long bridge that goes out over the water", "Boats tie up there, and people fish from it."),
    "island": ("a piece of land with water all around it", "You need a boat or a bridge to get there."),
    "beach": ("a strip of sand or stones beside the sea", "It is a good place to walk, swim and build castles."),
    "reef": ("a line of rock or coral just under the water", "Many fish live there, but ships must keep away."),
    "coral": ("a hard home built by tiny animals", "It grows very slowly and is full of colours."),
    "shell": ("the hard house of a sea animal", "If you hold it to your ear, it sounds like the sea."),
    "pearl": ("a round white jewel", "It grows inside an oyster, layer by layer."),
    "net": ("a web of strong string", "Fishermen use it to catch many fish at once."),
    "rope": ("a thick strong string made of many thin ones", "Sailors tie it in clever knots."),
    "storm": ("very bad weather with strong wind and rain", "When it comes, boats stay in the harbour."),
    "fog": ("a cloud that lies on the ground", "You cannot see far in it, so ships go slowly and blow their horns."),
    "rainbow": ("a band of seven colours in the sky", "You can see it when the sun shines through rain."),
    "cloud": ("a lot of tiny drops of water in the sky", "When the drops get heavy, they fall as rain."),
    "wind": ("air that moves from one place to another", "It fills the sails and pushes the waves."),
    "rain": ("water that falls from the clouds", "It fills the rivers and makes the plants grow."),
    "snow": ("frozen water that falls in soft white flakes", "It makes the world quiet and bright."),
    "moon": ("the round neighbour of the earth", "It goes around us once a month and pulls the tides."),
    "sun": ("the star that gives us light and warmth", "Without it there would be no day."),
    "star": ("a ball of hot bright gas, very far away", "Sailors have found their way by it for thousands of years."),
    "buoy": ("a bright float that is tied to the sea floor", "It shows ships the safe way into the harbour."),
    "ferry": ("a boat that carries people and cars across the water", "It goes back and forth all day long."),
    "submarine": ("a ship that can dive under the sea", "It stays down for many days."),
    "captain": ("the leader of a ship", "The captain decides where the ship goes and keeps everyone safe."),
    "sailor": ("a person who works on a ship", "A sailor knows the wind, the ropes and the stars."),
    "fisherman": ("a person who catches fish", "A fisherman gets up long before the sun."),
    "seaweed": ("a plant that grows in the sea", "Many animals eat it, and so do some people."),
    "salt": ("the white mineral that makes the sea taste as it does", "We use a little of it on our food."),
    "river": ("a long stream of fresh water", "It starts in the hills and runs down to the sea."),
    "bridge": ("a road over water", "It brings two shores together."),
    "current": ("a river inside the sea", "It carries water, fish and ships along."),
    "dune": ("a hill of sand made by the wind", "Grass holds it together."),
}

COLOURS = {
    "the sea": ("blue", "On a stormy day it looks green or grey."),
    "the sky": ("blue", "In the evening it turns orange and pink."),
    "the sand": ("yellow", "When it is wet, it looks brown."),
    "the grass": ("green", "In a dry summer it turns yellow."),
    "a lemon": ("yellow", "It looks like a small sun and tastes very sour."),
    "an orange": ("orange", "The fruit gave the colour its name."),
    "the moon": ("white", "Sometimes it looks yellow when it rises."),
    "the sun": ("yellow", "When it goes down, it turns deep red."),
    "a strawberry": ("red", "When it is not ripe yet, it is green."),
    "snow": ("white", "In the evening light it can look blue."),
    "coal": ("black", "It shines a little in the light."),
    "a carrot": ("orange", "Its leaves are green."),
    "seaweed": ("green", "Some kinds are red or brown."),
    "a storm cloud": ("dark grey", "It looks almost black before the rain."),
    "foam": ("white", "It lies on the waves like lace."),
}

MIXES = {
    ("blue", "yellow"): "green",
    ("red", "yellow"): "orange",
    ("red", "blue"): "purple",
    ("white", "black"): "grey",
    ("red", "white"): "pink",
    ("blue", "white"): "light blue",
    ("red", "green"): "brown",
}

OPPOSITES = (
    ("big", "small"), ("hot", "cold"), ("day", "night"), ("high", "low"), ("fast", "slow"), ("near", "far"),
    ("calm", "stormy"), ("deep", "shallow"), ("happy", "sad"), ("old", "young"), ("wet", "dry"), ("light", "dark"),
    ("full", "empty"), ("loud", "quiet"), ("strong", "weak"), ("early", "late"), ("open", "closed"), ("long", "short"),
    ("up", "down"), ("left", "right"), ("good", "bad"), ("hard", "soft"), ("first", "last"), ("north", "south"),
    ("east", "west"), ("brave", "afraid"), ("clean", "dirty"), ("rich", "poor"),
)  # fmt: skip

#: Other heroes that a story can be about, apart from the animals.
PEOPLE = (
    "girl", "boy", "fisherman", "sailor", "captain", "lighthouse keeper", "baker", "teacher", "painter", "doctor",
    "farmer", "king", "queen", "princess", "prince", "pirate", "cook", "musician", "carpenter", "astronaut", "wizard",
    "witch", "knight", "gardener", "postman", "inventor", "dancer", "shepherd", "diver", "programmer", "engineer",
    "grandmother", "grandfather", "nurse", "clown", "detective", "giant", "mermaid", "child", "robot",
)  # fmt: skip
OBJECTS = (
    "boat", "ship", "lighthouse", "cloud", "star", "kite", "teapot", "lamp", "clock", "train", "car", "balloon",
    "bell", "book", "letter", "map", "shell", "stone", "tree", "flower", "leaf", "drum", "violin", "rocket", "tower",
    "bicycle", "umbrella", "candle", "door", "key", "hat", "shoe", "spoon", "mirror", "puppet", "snowman", "cake",
    "computer", "gateway", "server", "ferry", "buoy", "anchor", "wave", "dragon", "unicorn", "ghost", "monster",
    "elephant", "lion", "tiger", "monkey", "parrot", "duck", "goose", "hedgehog", "squirrel", "wolf", "pig", "cow",
    "sheep", "goat", "donkey", "camel", "giraffe", "kangaroo", "koala", "panda", "zebra", "spider", "ant", "butterfly",
    "dinosaur", "bat", "beaver", "hamster", "rooster", "chicken", "crow", "eagle", "raven", "salmon", "squid", "walrus",
)  # fmt: skip
ADJECTIVES = (
    "little", "brave", "old", "young", "shy", "curious", "lonely", "clever", "kind", "small", "happy", "sleepy",
    "quiet", "tiny", "lost", "friendly", "careful", "cheerful", "red", "blue", "green", "golden", "silver", "stubborn",
    "gentle", "hungry", "magic", "lazy", "proud", "wise",
)  # fmt: skip
THEMES = ("friendship", "courage", "patience", "kindness", "hope", "sharing", "home", "adventure", "honesty", "trust")
HER_NAMES = (
    "Mia", "Anna", "Lena", "Ruby", "Nora", "Ella", "Lily", "Rosa", "Greta", "Ida", "Clara", "Tilda", "Maya", "Zoe",
    "Alma", "Vera", "Hanna", "Fern", "Coral", "Pearl",
)  # fmt: skip
HIS_NAMES = (
    "Tom", "Ben", "Finn", "Oscar", "Leo", "Max", "Otto", "Sam", "Noah", "Jonas", "Emil", "Hugo", "Theo", "Felix",
    "Karl", "Bruno", "Nils", "Pip", "Rusty", "Sandy",
)  # fmt: skip
PLACES = (
    "a small harbour", "a green island", "a windy beach", "an old fishing village", "a white town by the sea",
    "a quiet bay", "a tall cliff", "a warm lagoon", "the edge of a river", "a busy port", "a house on the dunes",
    "a narrow street behind the market",
)  # fmt: skip
TREASURES = (
    "a silver shell", "an old map", "a small brass key", "a blue lantern", "a golden button", "a letter in a bottle",
    "a tiny music box", "a stone with a hole in it", "a red kite", "a wooden whistle", "a round white pearl",
    "a box of coloured chalk",
)  # fmt: skip
FOODS = (
    "warm bread",
    "apple cake",
    "vegetable soup",
    "honey biscuits",
    "hot chocolate",
    "fish pie",
    "sweet plums",
    "pancakes",
)
WEATHER = (
    "a bright morning",
    "a windy afternoon",
    "a cold grey day",
    "a warm summer evening",
    "a rainy morning",
    "a clear night",
)
#: What people ask about and this model knows nothing of.
TOPICS = (
    "physics", "history", "politics", "football", "money", "music", "quantum mechanics", "machine learning", "Python",
    "the internet", "Berlin", "London", "Japan", "America", "love", "life", "time", "philosophy", "mathematics",
    "chemistry", "art", "dragons", "computers", "rockets", "elephants", "robots", "servers", "trains", "pirates",
    "space", "black holes", "neural networks", "the universe", "cars", "cooking", "Shakespeare", "Einstein", "Paris",
    "China", "chess", "databases", "artificial intelligence", "programming", "Kubernetes", "gateways", "GPUs",
    "medicine", "the economy", "climate change", "dinosaurs", "volcanoes", "electricity", "language", "books", "films",
)  # fmt: skip
