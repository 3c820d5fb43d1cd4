"""The neighbouring domains that the base model learns from: hotels, museums, shops, people, trains and plain sentences.

They teach what a pretrained model brings along: copying names it has never seen, saying a list of attributes in
sentences, and the words that restaurants need, here in other roles. No meaning representation of a restaurant is
among them, and the slots have other names than E2E's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from quickstart.grammar import Dice, Domain, Facts, Kind, Opening, Phrase

Draw = Callable[[Dice], str]


def words_of(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST = words_of(
    "Copper Silver Golden Old Blue Red Quiet Green White Iron Little Royal Saffron Juniper Olive Maple Harvest "
    "Willow Orchard River Harbour Lantern Cedar Amber Linden Fox Oak Salt Mill Bella Casa Queen Station Park "
    "Grand North South West East Castle Bridge Market Rose Corner City Abbey Crown Marble Black Stone Winter "
    "Summer Upper Long Star Swan Lake Hill Forest Ember"
)
SECOND = words_of(
    "Kettle Lantern Orchard Heron Anchor Barn Fox Gate Harbour Bridge Garden Oak House Table Corner Kitchen "
    "Lane Barrel Thyme Meadow Vista Verde Lotus Elephant Pan Museum Hotel Theatre Market Hall Street Square "
    "Library Park Arcade Bakery Station Shop Mill Lodge Tower Court Rooms Gallery Palace Yard Well Field View"
)
ONSET = words_of("B Br C Ch D Dr F G Gr H J K L M N P R S St T Tr V W")
VOWEL = words_of("a e i o u ar el in on os il am")
CODA = (*words_of("n ra lo mer ton da ley ka tis ber na ro sa vin"), "")


def surname(dice: Dice) -> str:
    """An invented proper noun such as "Trelton"."""
    middle = dice.pick(("", "", "b", "d", "l", "m", "r", "t", "v"))
    ending = dice.pick(VOWEL) if middle else ""
    return dice.pick(ONSET) + dice.pick(VOWEL) + middle + ending + dice.pick(CODA)


def place_name(dice: Dice) -> str:
    """The name of a house, shop or sight, in any of the shapes that names have."""
    first, second = dice.pick(FIRST), dice.pick(SECOND)
    shapes = (
        f"The {first} {second}",
        f"{first} {second}",
        f"{first} {second}",
        f"{surname(dice)} {second}",
        f"{surname(dice)} 's",
        f"{surname(dice)} 's {second}",
        f"{first} & {second}",
        f"Café {surname(dice)}",
        surname(dice),
        f"The {surname(dice)}",
    )
    return dice.pick(shapes)


def person_name(dice: Dice) -> str:
    return f"{surname(dice)} {surname(dice)}"


def one_of(*values: str) -> Draw:
    return lambda dice: dice.pick(values)


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


@dataclass(frozen=True)
class Neighbour:
    """A domain, how its values are drawn, and how many optional slots a meaning representation may leave out."""

    domain: Domain
    values: dict[str, Draw]
    weight: float

    def draw_facts(self, dice: Dice) -> Facts:
        must = {self.domain.name_slot}
        optional = [slot for slot in self.values if slot not in must]
        kept = must | set(dice.shuffled(optional)[: 2 + dice.below(len(optional) - 1)])
        return {slot: draw(dice) for slot, draw in self.values.items() if slot in kept}


PLACE_OPENINGS = (
    Opening("{name} is {a} {noun} {after}", 4, adjectives=2, after=2),
    Opening("{name} , {a} {noun} , {verbs}", 2, adjectives=1, verbs=2),
    Opening("The {noun} {after} is called {name}", 2, adjectives=1, after=1),
    Opening("This {noun} is {name} and it {verbs}", 2, adjectives=1, verbs=2),
    Opening("Visitors {front} will find {name} , {a} {noun} {after}", 2, adjectives=1, after=1),
    Opening("{front} there is {name} , {a} {noun} {after}", 2, adjectives=2, after=1),
    Opening("You can visit {name} , {a} {noun} {after}", 1, adjectives=1, after=2),
)
QUARTERS = (
    "old town",
    "harbour",
    "north side",
    "market quarter",
    "university quarter",
    "city centre",
    "riverside",
    "station quarter",
)
CUISINES = ("Italian", "French", "Chinese", "Indian", "Japanese", "English", "Spanish", "fast food")

WHERE = says(
    after="in the {};at the edge of the {};in the {} of the city",
    verb="stands in the {};is in the {};is located in the {} area;can be found in the {}",
)
BESIDE = says(
    after="beside {};across from {};near {};close to {};next to {}",
    verb="faces {};is beside {};is near {};lies close to {};is located across from {}",
    clause="{} is nearby;{} is on the other side of the street",
)
SCORE = (
    *says(
        "top;highly rated",
        "with a high score",
        "is liked by its guests;has a high rating",
        "guests love it",
        +1,
        values="excellent;5 stars",
    ),
    *says("5 star", "with 5 stars", "has 5 stars;is rated 5 stars", values="5 stars", tone=+1),
    *says("average", "with an average score", "has an average rating", "guests find it average", values="fair;3 stars"),
    *says("3 star", "with 3 stars", "has 3 stars;is rated 3 stars", values="3 stars"),
    *says(
        "low rated;poor",
        "with a low score",
        "is not liked;has a low rating",
        "guests complain about it",
        -1,
        values="poor;1 star",
    ),
    *says("1 star", "with 1 star", "has 1 star;is rated 1 star", values="1 star", tone=-1),
    *says(
        "",
        "with {} out of 10 points",
        "gets {} out of 10;is rated {} out of 10",
        "the guests give it {} out of 10",
        values="4;5;6;7;8;9",
    ),
)
SCORES = one_of("excellent", "fair", "poor", "5 stars", "3 stars", "1 star", "4", "5", "6", "7", "8", "9")
COST = (
    *says("cheap;low - cost", "with low prices", "is cheap;costs little", "the prices are low", +1, values="cheap"),
    *says(
        "moderate;mid - priced;moderately priced",
        "with moderate prices",
        "is moderately priced",
        "the prices are moderate",
        values="moderate",
    ),
    *says(
        "expensive;high - priced",
        "with high prices",
        "is expensive;asks a high price",
        "the prices are high",
        -1,
        values="high",
    ),
    *says(
        "",
        "for {};in the {} range;with a price of {}",
        "costs {};asks {} for a visit",
        "the price is {};you pay {}",
        values="less than £ 10;less than £ 20;£ 10 - 15;£ 20 - 25;more than £ 30;more than £ 50;£ 40 - 50",
    ),
)
COSTS = one_of(
    "cheap",
    "moderate",
    "high",
    "less than £ 10",
    "less than £ 20",
    "£ 10 - 15",
    "£ 20 - 25",
    "more than £ 30",
    "more than £ 50",
    "£ 40 - 50",
)
CHILDREN = (
    *says(
        "child - friendly;family",
        "for families",
        "is good for children;is family friendly;welcomes children",
        "families are welcome",
        +1,
        values="yes",
    ),
    *says(
        "adults - only",
        "for adults",
        "is not for children;is not suitable for families;does not allow children",
        "children cannot come in",
        -1,
        values="no",
    ),
)
YES_NO = one_of("yes", "no")

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
    phrases={
        "score": SCORE,
        "cost": COST,
        "children": CHILDREN,
        "quarter": WHERE,
        "beside": BESIDE,
        "meals": says(
            "",
            "with {} meals;with {} food",
            "has a restaurant for {} food;serves {} dishes;provides {} meals",
            "the kitchen is {};its restaurant is {}",
        ),
        "rooms": says("{} - room", "with {} rooms", "has {} rooms;offers {} rooms"),
    },
    openings=PLACE_OPENINGS,
    fronted=("quarter", "beside"),
)
SIGHTS = Domain(
    name_slot="sight",
    noun_slot="sort",
    nouns={
        "": ("sight",),
        "museum": ("museum", "collection"),
        "park": ("park",),
        "theatre": ("theatre",),
        "castle": ("castle",),
    },
    phrases={
        "opinion": SCORE,
        "entry": COST,
        "kids": CHILDREN,
        "district": WHERE,
        "opposite": BESIDE,
        "style": says(
            "{}",
            "in {} style;that shows {} art",
            "shows {} art;offers {} music;is known for {} art",
            "the style is {};{} art is shown",
        ),
        "built": says("", "from {};built in {}", "was built in {};dates from {}", "it opened in {}"),
    },
    openings=PLACE_OPENINGS,
    fronted=("district", "opposite"),
)
SHOPS = Domain(
    name_slot="shop",
    noun_slot=None,
    nouns={"": ("shop", "store")},
    phrases={
        "customers": (
            *says(
                "popular;well liked",
                "with happy customers",
                "is well liked by customers;has a high customer score",
                "customers like it",
                +1,
                values="happy",
            ),
            *says(
                "",
                "with unhappy customers",
                "is not liked much by customers;has a low customer score",
                "its customers are unhappy",
                -1,
                values="unhappy",
            ),
            *says(
                "",
                "with a customer score of {}",
                "has a customer score of {};is rated {}",
                "its score is {};customers give it {}",
                values="1 out of 5;2 out of 5;3 out of 5;4 out of 5;5 out of 5;2 out of 3;1 out of 3",
            ),
        ),
        "goods": says(
            "{}",
            "for {};that sells {};selling {}",
            "sells {};offers {};specialises in {};provides {}",
            "{} are sold here",
        ),
        "opens": says("", "open from {}", "opens at {};is open from {}", "the doors open at {}"),
        "prices": COST,
        "at": BESIDE,
        "part of town": WHERE,
    },
    openings=PLACE_OPENINGS,
    fronted=("at", "part of town"),
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
        "fare": COST,
        "via": says("", "via {}", "passes {};stops near {}"),
    },
    openings=(
        Opening("{name} is {a} {noun} {after}", 4, adjectives=1, after=2),
        Opening("The {noun} {name} {verbs}", 4, adjectives=1, verbs=2),
        Opening("There is {a} {noun} called {name} {after}", 1, adjectives=1, after=2),
        Opening("Take {name} , {a} {noun} {after}", 2, adjectives=1, after=2),
    ),
)

NEIGHBOURS = (
    Neighbour(
        HOTELS,
        {
            "title": place_name,
            "kind": one_of("hotel", "guest house", "hostel", "inn"),
            "score": SCORES,
            "cost": COSTS,
            "rooms": lambda dice: str(4 + dice.below(60)),
            "meals": one_of(*CUISINES[:-1]),
            "quarter": one_of(*QUARTERS),
            "children": YES_NO,
            "beside": place_name,
        },
        3,
    ),
    Neighbour(
        SIGHTS,
        {
            "sort": one_of("museum", "park", "theatre", "castle"),
            "sight": place_name,
            "opposite": place_name,
            "kids": YES_NO,
            "style": one_of(*CUISINES[:-1], "modern", "old"),
            "built": lambda dice: str(1500 + dice.below(520)),
            "entry": COSTS,
            "district": one_of(*QUARTERS),
            "opinion": SCORES,
        },
        3,
    ),
    Neighbour(
        SHOPS,
        {
            "part of town": one_of(*QUARTERS),
            "goods": one_of("books", "shoes", "flowers", "coffee beans", "toys", "cheese", "lamps"),
            "shop": place_name,
            "opens": lambda dice: f"{6 + dice.below(6)} am",
            "prices": COSTS,
            "at": place_name,
            "customers": one_of(
                "happy",
                "unhappy",
                "1 out of 5",
                "2 out of 5",
                "3 out of 5",
                "4 out of 5",
                "5 out of 5",
                "2 out of 3",
                "1 out of 3",
            ),
        },
        3,
    ),
    Neighbour(
        PEOPLE,
        {
            "person": person_name,
            "nation": one_of(*CUISINES[:-1]),
            "age": lambda dice: str(20 + dice.below(60)),
            "job": one_of("cook", "painter", "teacher", "writer", "waiter", "customer"),
            "home": surname,
            "eats": one_of(*CUISINES[:-1], "fast"),
            "works at": place_name,
        },
        2,
    ),
    Neighbour(
        TRAINS,
        {
            "speed": one_of("fast", "slow"),
            "fare": COSTS,
            "train": place_name,
            "from": surname,
            "to": surname,
            "via": place_name,
            "leaves": lambda dice: f"{1 + dice.below(12)} {dice.pick(('am', 'pm'))}",
        },
        1,
    ),
)


def plain_sentence(dice: Dice) -> tuple[str, str]:
    """(topic, sentence) of everyday text with no list of attributes behind it."""
    who, where = place_name(dice), dice.pick(QUARTERS)
    food, amount = dice.pick(CUISINES), dice.pick(("£ 10", "£ 20", "£ 30", "£ 25"))
    options = (
        ("weather", f"It rained in the {where} , but the coffee was hot ."),
        ("dinner", f"We had dinner at a restaurant near {who} ."),
        ("dinner", "Children like fast food , adults often do not ."),
        ("dinner", f"After work they went to a pub in the {where} for {food} dishes ."),
        ("dinner", f"The meals cost more than {amount} and the customers were not happy ."),
        ("market", f"{food} food is served at the market near {who} ."),
        ("market", f"The price range is moderate , from {amount} up , and the food is cheap ."),
        ("news", f"A coffee shop called {who} opened in the {where} this week ."),
        ("news", f"The customer rating of {who} is low , although the venue is family friendly ."),
        ("news", f"{who} is a place for families , with a high customer rating ."),
        ("travel", f"The city is by the river and {who} is in the centre of it ."),
        ("travel", f"If you want a cheap place with an average rating , go to {who} ."),
    )
    return dice.pick(options)
