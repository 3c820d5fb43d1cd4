"""How the neighbouring domains are said: phrase tables and openings for the facts that ``neighbours.py`` draws."""

from __future__ import annotations

from scripts.quickstart.grammar import Domain, Kind, Opening, Phrase

# A slot has several names, as different people have for it; some of them are E2E's
SCORE_SLOTS, COST_SLOTS, CHILDREN_SLOTS = "score/rating/opinion", "cost/price/entry", "children/kids/families"
WHERE_SLOTS, BESIDE_SLOTS, MEAL_SLOTS = "quarter/area/district", "beside/near/opposite", "meals/food/kitchen"


def says(
    adjective: str = "", after: str = "", verb: str = "", clause: str = "", tone: int = 0, values: str = ""
) -> tuple[Phrase, ...]:
    """Phrases from lists separated by ";"; ``values``, so separated too, limits them."""
    limit = tuple(value for value in values.split(";") if value)
    by_kind: dict[Kind, str] = {"adjective": adjective, "after": after, "verb": verb, "clause": clause}
    return tuple(
        Phrase(kind, pattern, 1, limit, tone)
        for kind, patterns in by_kind.items()
        for pattern in patterns.split(";")
        if pattern
    )


def named(slots: str, phrases: tuple[Phrase, ...]) -> dict[str, tuple[Phrase, ...]]:
    """The same phrases under every name of a list separated by "/"."""
    return dict.fromkeys(slots.split("/"), phrases)


TOP, MIDDLE, LOW = "excellent;high;5 stars;5 out of 5", "fair;average;3 stars;3 out of 5", "poor;low;1 star;1 out of 5"
SCORE = (
    *says("highly rated", "with a high score", "has a high rating", "guests love it", +1, TOP),
    *says("average rated", "with an average score", "has an average rating", "guests find it average", 0, MIDDLE),
    *says("low rated", "with a low score", "is not liked much", "guests complain about it", -1, LOW),
    *says("5 star", "with 5 stars", "has 5 stars", "", +1, "5 stars;5 out of 5"),
    *says("", "with {a} {} rating", "has {a} {} customer rating", "", 0, "high;average;low;fair;poor;excellent"),
    *says(
        after="with a rating of {}",
        verb="has a customer rating of {};is rated {} by guests;gets {}",
        clause="the guests give it {};its rating is {};customers rate it {}",
        values="5 stars;3 stars;1 star;5 out of 5;3 out of 5;1 out of 5;2 out of 5;4 out of 5;6 out of 6;2 out of 6",
    ),
)
COST = (
    *says("cheap;low - priced", "with low prices", "is cheap;has low prices", "the prices are low", +1, "cheap"),
    *says("low - cost", "", "costs little", "", +1, "less than £ 10;less than £ 20"),
    *says(
        "mid - priced;moderately priced", "with a moderate price", "is moderately priced", "", 0, "moderate;£ 20 - 25"
    ),
    *says("", "with {a} {} price range", "has {a} {} price range", "the price is {}", 0, "moderate;high"),
    *says(
        "expensive;high - priced", "", "is expensive", "the prices are high", -1, "high;more than £ 50;more than £ 30"
    ),
    *says(
        after="for {};with a price of {};with a price range of {}",
        verb="costs {};asks {} for a visit;is in the {} price range",
        clause="the price is {};you pay {};prices are {}",
        values="less than £ 10;less than £ 20;£ 10 - 15;£ 20 - 25;more than £ 30;more than £ 50;£ 40 - 50",
    ),
)
CHILDREN = (
    *says(
        "child - friendly;family - friendly", "for families", "is good for children;is family friendly", "", +1, "yes"
    ),
    *says("", "", "welcomes families", "children are welcome", +1, "yes"),
    *says("adults - only", "for adults", "is not for children;is not family friendly", "", -1, "no"),
    *says("", "", "is not suitable for children;does not allow children", "children are not allowed", -1, "no"),
)
WHERE = (
    *says(after="in the {};at the edge of the {};in the {} area"),
    *says(verb="stands in the {};is in the {};is located in the {} area;can be found in the {}"),
    *says("", "by the river", "is by the river", "", 0, "riverside"),
    *says("", "in the centre of the city", "lies in the centre of the city", "", 0, "city centre"),
)
BESIDE = says(
    after="beside {};across from {};near {};close to {};next to {}",
    verb="faces {};is beside {};is near {};is located near {};lies close to {};is located across from {}",
    clause="{} is nearby;{} is on the other side of the street",
)
MEALS = says(
    after="with {} meals;serving {} food;with {a} {} restaurant",
    verb="has a restaurant for {} food;serves {} dishes;provides {} meals;has {a} {} coffee shop",
    clause="the kitchen is {};the food in its restaurant is {}",
)
ABOUT_PLACES = {
    **named(SCORE_SLOTS, SCORE),
    **named(COST_SLOTS, COST),
    **named(CHILDREN_SLOTS, CHILDREN),
    **named(MEAL_SLOTS, MEALS),
    **named(WHERE_SLOTS, WHERE),
    **named(BESIDE_SLOTS, BESIDE),
}
PLACE_OPENINGS = (
    Opening("{name} is {a} {noun} {after}", 4, adjectives=2, after=2),
    Opening("{name} , {a} {noun} {after} , {verbs}", 2, adjectives=1, after=1, verbs=2),
    Opening("The {noun} {after} is called {name}", 2, adjectives=1, after=1),
    Opening("This {noun} is {name} and it {verbs}", 2, adjectives=1, verbs=2),
    Opening("Visitors {front} will find {name} , {a} {noun} {after}", 2, adjectives=1, after=1),
    Opening("{front} there is {name} , {a} {noun} {after}", 2, adjectives=2, after=1),
    Opening("{front} , there is {a} {noun} called {name} {after}", 1, adjectives=2, after=1),
    Opening("Located {front} , {name} is {a} {noun} {after}", 1, adjectives=2, after=1),
    Opening("You can visit {name} , {a} {noun} {after}", 1, adjectives=1, after=2),
)
FRONTED = (*WHERE_SLOTS.split("/"), *BESIDE_SLOTS.split("/"))

HOTELS = Domain(
    name_slot="title",
    noun_slot="kind",
    nouns={
        "": ("house",),
        "hotel": ("hotel",),
        "guest house": ("guest house",),
        "hostel": ("hostel",),
        "inn": ("inn", "pub"),
    },
    phrases={**ABOUT_PLACES, "rooms": says("{} - room", "with {} rooms", "has {} rooms;offers {} rooms")},
    openings=PLACE_OPENINGS,
    fronted=FRONTED,
)
SIGHTS = Domain(
    name_slot="sight",
    noun_slot="sort",
    nouns={
        "": ("sight", "place"),
        "museum": ("museum", "collection"),
        "park": ("park",),
        "theatre": ("theatre", "venue"),
        "castle": ("castle",),
    },
    phrases={
        **ABOUT_PLACES,
        "style": says("{}", "in {} style;that shows {} art", "shows {} art;is known for {} art", "{} art is shown"),
        "built": says("", "from {};built in {}", "was built in {};dates from {}", "it opened in {}"),
    },
    openings=PLACE_OPENINGS,
    fronted=FRONTED,
)
SHOPS = Domain(
    name_slot="shop",
    noun_slot=None,
    nouns={"": ("shop", "store")},
    phrases={
        **ABOUT_PLACES,
        "customers": (
            *says("popular", "with happy customers", "is well liked by customers", "customers like it", +1, "happy"),
            *says(
                "", "with unhappy customers", "is not liked much by customers", "customers are unhappy", -1, "unhappy"
            ),
        ),
        "goods": says("{}", "that sells {};selling {}", "sells {};offers {};specialises in {}", "{} are sold here"),
        "opens": says("", "open from {}", "opens at {};is open from {}", "the doors open at {}"),
    },
    openings=PLACE_OPENINGS,
    fronted=FRONTED,
)
PEOPLE = Domain(
    name_slot="person",
    noun_slot="job",
    nouns={
        "": ("person",),
        "cook": ("cook",),
        "painter": ("painter", "artist"),
        "teacher": ("teacher",),
        "writer": ("writer",),
        "waiter": ("waiter",),
        "customer": ("customer",),
    },
    phrases={
        "nation": says("{}", "of {} origin", "speaks {};has {} parents"),
        "home": says("", "from {};living in {}", "lives in {};comes from {}", "home is {}"),
        "eats": says("", "who likes {} food", "likes {} food;often eats {} food;orders {} dishes"),
        "works at": says("", "at {};working for {}", "works at {};is employed by {}"),
        "age": says("{} - year - old", "of {} years", "is {} years old"),
    },
    openings=(
        Opening("{name} is {a} {noun} {after}", 4, adjectives=2, after=2),
        Opening("{a} {noun} named {name} {verbs}", 2, adjectives=1, verbs=2),
        Opening("The {noun} {name} {verbs}", 2, adjectives=1, verbs=2),
        Opening("Meet {name} , {a} {noun} {after}", 2, adjectives=1, after=1),
    ),
    pronoun="This person",
)
TRAINS = Domain(
    name_slot="train",
    noun_slot=None,
    nouns={"": ("train", "service")},
    phrases={
        "speed": says("{}", "", "is {}"),
        "from": says("", "from {}", "leaves from {};starts at {}"),
        "to": says("", "to {}", "goes to {};ends in {}", "the last stop is {}"),
        "leaves": says("", "at {}", "leaves at {};departs at {}", "the departure is at {}"),
        "via": says("", "via {}", "passes {};stops near {}"),
        **named(COST_SLOTS, COST),
    },
    openings=(
        Opening("{name} is {a} {noun} {after}", 4, adjectives=1, after=2),
        Opening("The {noun} {name} {verbs}", 4, adjectives=1, verbs=2),
        Opening("There is {a} {noun} called {name} {after}", 1, adjectives=1, after=2),
        Opening("Take {name} , {a} {noun} {after}", 2, adjectives=1, after=2),
    ),
)
