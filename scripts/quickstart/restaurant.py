"""The restaurant domain: E2E's eight slots, values of our own, and the ways of saying them."""

from __future__ import annotations

from scripts.quickstart.grammar import Dice, Domain, Facts, Opening, Phrase

SLOTS = ("name", "Type", "food", "price", "customer rating", "area", "family friendly", "near")

# The last part of each list is kept for the test split: names and neighbours that training never shows.
NAMES = (
    "The Copper Kettle",
    "The Silver Lantern",
    "The Old Orchard",
    "The Blue Heron",
    "The Golden Anchor",
    "The Red Barn",
    "The Quiet Fox",
    "The Green Gate",
    "The White Harbour",
    "The Iron Bridge",
    "The Little Garden",
    "The Royal Oak",
    "Marlow 's",
    "Tilda 's",
    "Bruno 's",
    "Oskar 's",
    "Ember",
    "Saffron House",
    "Juniper House",
    "Olive House",
    "Maple Table",
    "Harvest Table",
    "Willow Corner",
    "Orchard Corner",
    "River Kitchen",
    "Harbour Kitchen",
    "Lantern Lane",
    "Cedar Lane",
    "Café Linden",
    "Café Amber",
    "Café Rosa",
    "Fox & Barrel",
    "Oak & Anchor",
    "Salt & Thyme",
    "Mill & Meadow",
    "Bella Vista",
    "Casa Verde",
    "Golden Lotus",
    "Blue Elephant",
    "Copper Pan",
)
UNSEEN_NAMES = (
    "The Silver Kettle",
    "The Golden Fox",
    "The Old Lantern",
    "The Green Heron",
    "Rosa 's",
    "Saffron Table",
    "Willow Lane",
    "Cedar Kitchen",
    "Café Juniper",
    "Oak & Meadow",
    "Casa Amber",
    "Blue Lotus",
)
NEIGHBOURS = (
    "Queen 's Museum",
    "Station Hotel",
    "Park Hotel",
    "Grand Theatre",
    "North Market",
    "Old Town Hall",
    "Bridge Street",
    "Castle Square",
    "Market Hall",
    "Rose Garden",
    "The Blue Mill",
    "The Corner Shop",
    "City Library",
    "Harbour Museum",
    "Abbey Park",
    "Crown Hotel",
    "Linden Bakery",
    "Marble Arcade",
    "South Gate",
    "Café Otto",
    "West Station",
)
UNSEEN_NEIGHBOURS = (
    "North Station",
    "Castle Hotel",
    "Harbour Library",
    "Rose Theatre",
    "Market Square",
    "The Blue Gate",
    "Abbey Museum",
)

CUISINES = ("Italian", "French", "Chinese", "Indian", "Japanese", "English", "Spanish", "fast food")
LOW, MIDDLE, TOP = ("low", "1 out of 5"), ("average", "3 out of 5"), ("high", "5 out of 5")
CHEAP, MODERATE, DEAR = ("cheap", "less than £ 20"), ("moderate", "£ 20 - 25"), ("high", "more than £ 30")
WORDED = ("low", "average", "high")
SCORED = ("1 out of 5", "3 out of 5", "5 out of 5")
AMOUNTS = ("less than £ 20", "£ 20 - 25", "more than £ 30")
AREAS = ("city centre", "riverside")
YES, NO = ("yes",), ("no",)
DISHES = tuple(c for c in CUISINES if c != "fast food")

VALUES: dict[str, tuple[str, ...]] = {
    "Type": ("restaurant", "pub", "coffee shop"),
    "food": CUISINES,
    "price": ("cheap", "moderate", "high", *AMOUNTS),
    "customer rating": (*WORDED, *SCORED),
    "area": AREAS,
    "family friendly": (*YES, *NO),
}

PHRASES: dict[str, tuple[Phrase, ...]] = {
    "customer rating": (
        Phrase("adjective", "highly rated", 2, TOP, +1),
        Phrase("adjective", "5 star", 2, ("5 out of 5",), +1),
        Phrase("adjective", "average rated", 1, ("average",)),
        Phrase("adjective", "low rated", 2, ("low",), -1),
        Phrase("after", "with {a} {} customer rating", 3, WORDED),
        Phrase("after", "with a customer rating of {}", 4, SCORED),
        Phrase("verb", "has {a} {} customer rating", 5, WORDED),
        Phrase("verb", "has a customer rating of {}", 5, SCORED),
        Phrase("verb", "is rated {} by customers", 2, SCORED),
        Phrase("verb", "is well liked by customers", 1, TOP, +1),
        Phrase("verb", "is not liked much by customers", 1, LOW, -1),
        Phrase("clause", "customers rate it {}", 1.5, SCORED),
        Phrase("clause", "its customer rating is {}", 1.5),
        Phrase("clause", "customers find it average", 1, MIDDLE),
    ),
    "price": (
        Phrase("adjective", "cheap", 4, CHEAP, +1),
        Phrase("adjective", "low - priced", 1, CHEAP, +1),
        Phrase("adjective", "moderately priced", 4, MODERATE),
        Phrase("adjective", "mid - priced", 1, MODERATE),
        Phrase("adjective", "expensive", 3, DEAR, -1),
        Phrase("adjective", "high - priced", 1, DEAR, -1),
        Phrase("after", "with {a} {} price range", 2, ("moderate", "high")),
        Phrase("after", "with a price range of {}", 3, AMOUNTS),
        Phrase("verb", "has low prices", 3, ("cheap",), +1),
        Phrase("verb", "has {a} {} price range", 4, ("moderate", "high")),
        Phrase("verb", "has a price range of {}", 4, AMOUNTS),
        Phrase("verb", "is in the {} price range", 2, AMOUNTS),
        Phrase("clause", "prices are {}", 1.5, ("moderate", "high", *AMOUNTS)),
        Phrase("clause", "meals cost {}", 1, AMOUNTS),
        Phrase("clause", "the food is cheap", 1.5, ("cheap",), +1),
    ),
    "family friendly": (
        Phrase("adjective", "family - friendly", 5, YES, +1),
        Phrase("adjective", "child - friendly", 2, YES, +1),
        Phrase("adjective", "adults - only", 1.5, NO, -1),
        Phrase("verb", "is family friendly", 5, YES, +1),
        Phrase("verb", "is child friendly", 2, YES, +1),
        Phrase("verb", "welcomes families", 2, YES, +1),
        Phrase("verb", "is not family friendly", 5, NO, -1),
        Phrase("verb", "is not suitable for children", 3, NO, -1),
        Phrase("verb", "does not welcome children", 1, NO, -1),
        Phrase("clause", "children are welcome", 2, YES, +1),
        Phrase("clause", "children are not allowed", 1.5, NO, -1),
    ),
    "food": (
        Phrase("adjective", "{}", 6),
        Phrase("after", "serving {} food", 3, DISHES),
        Phrase("after", "that serves {} food", 3, DISHES),
        Phrase("after", "serving {}", 3, ("fast food",)),
        Phrase("verb", "serves {} food", 5, DISHES),
        Phrase("verb", "serves {}", 5, ("fast food",)),
        Phrase("verb", "offers {} dishes", 2, DISHES),
        Phrase("verb", "specialises in {}", 1, ("fast food",)),
        Phrase("verb", "provides {} meals", 1, DISHES),
        Phrase("clause", "the food is {}", 1, DISHES),
        Phrase("clause", "{} is served", 1),
    ),
    "area": (
        Phrase("after", "in the {}", 5, AREAS[:1]),
        Phrase("after", "in the centre of the city", 1, AREAS[:1]),
        Phrase("after", "in the {} area", 3),
        Phrase("after", "by the river", 2, AREAS[1:]),
        Phrase("verb", "is located in the {}", 3, AREAS[:1]),
        Phrase("verb", "is located in the {} area", 3),
        Phrase("verb", "is by the river", 1.5, AREAS[1:]),
        Phrase("verb", "can be found in the {} area", 1),
    ),
    "near": (
        Phrase("after", "near {}", 6),
        Phrase("after", "close to {}", 2),
        Phrase("after", "next to {}", 1),
        Phrase("verb", "is near {}", 3),
        Phrase("verb", "is located near {}", 3),
        Phrase("verb", "is close to {}", 1.5),
        Phrase("clause", "{} is nearby", 0.7),
    ),
}

RESTAURANTS = Domain(
    name_slot="name",
    noun_slot="Type",
    nouns={
        "": ("place", "venue"),
        "restaurant": ("restaurant",),
        "pub": ("pub",),
        "coffee shop": ("coffee shop",),
    },
    phrases=PHRASES,
    openings=(
        Opening("{name} is {a} {noun} {after}", 6, adjectives=3, after=2),
        Opening("There is {a} {noun} {after} called {name}", 2, adjectives=2, after=1),
        Opening("There is {a} {noun} called {name} {after}", 1, adjectives=2, after=2),
        Opening("{front} , there is {a} {noun} called {name} {after}", 1.5, adjectives=2, after=1),
        Opening("{front} , {name} is {a} {noun} {after}", 1.5, adjectives=2, after=1),
        Opening("Located {front} , {name} is {a} {noun} {after}", 1, adjectives=2, after=1),
        Opening("{name} , {a} {noun} {after} , {verbs}", 2, adjectives=2, after=1, verbs=2),
        Opening("The {noun} {name} {verbs}", 1.5, adjectives=1, verbs=2),
        Opening("{a} {noun} {after} is {name}", 0.7, adjectives=2, after=2),
    ),
    fronted=("area", "near"),
)


def draw_facts(dice: Dice, names: tuple[str, ...], neighbours: tuple[str, ...]) -> Facts:
    """A meaning representation of 3 to 8 slots, in E2E's order."""
    wanted = dice.weighted((3, 4, 5, 6, 7, 8), (8, 16, 26, 26, 16, 8))
    optional = dice.shuffled(slot for slot in SLOTS if slot not in ("name", "Type"))
    kept = {"name", *(["Type"] if dice.chance(0.85) or wanted == 8 else [])}
    kept |= set(optional[: wanted - len(kept)])
    pools = {**VALUES, "name": names, "near": neighbours}
    return {slot: dice.pick(pools[slot]) for slot in SLOTS if slot in kept}
