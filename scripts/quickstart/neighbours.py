"""The neighbouring domains that the base model learns from: hotels, museums, shops, people, trains and plain sentences.

They teach what a pretrained model brings along: copying names it has never seen, saying a list of attributes in
sentences, and the words that restaurants need, here in other roles. No meaning representation of a restaurant is
among them; some slots have E2E's names, most have others, and things are said in other words and other shares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scripts.quickstart.grammar import Dice, Domain, Facts
from scripts.quickstart.neighbour_phrases import (
    BESIDE_SLOTS,
    CHILDREN_SLOTS,
    COST_SLOTS,
    HOTELS,
    MEAL_SLOTS,
    PEOPLE,
    SCORE_SLOTS,
    SHOPS,
    SIGHTS,
    TRAINS,
    WHERE_SLOTS,
)

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


@dataclass(frozen=True)
class Neighbour:
    """A domain, how the values of its slots are drawn, and its weight among the domains.

    A key of ``values`` may list several names of one slot, separated by "/". ``most`` bounds the slots beside the name.
    """

    domain: Domain
    values: dict[str, Draw]
    weight: float
    most: int = 6

    def draw_facts(self, dice: Dice) -> Facts:
        must = {self.domain.name_slot}
        optional = [slot for slot in self.values if slot not in must]
        most = min(self.most, len(optional))
        kept = must | set(dice.shuffled(optional)[: 2 + dice.below(most - 1)])
        return {dice.pick(slot.split("/")): draw(dice) for slot, draw in self.values.items() if slot in kept}


QUARTERS = (*words_of("harbour riverside market station university castle"), "old town", "north side", "city centre")
CUISINES = ("Italian", "French", "Chinese", "Indian", "Japanese", "English", "Spanish")
ABOUT_PLACES: dict[str, Draw] = {
    SCORE_SLOTS: one_of(
        "excellent",
        "high",
        "fair",
        "average",
        "poor",
        "low",
        "5 stars",
        "3 stars",
        "1 star",
        "5 out of 5",
        "3 out of 5",
        "1 out of 5",
        "2 out of 5",
        "4 out of 5",
        "6 out of 6",
        "2 out of 6",
    ),
    COST_SLOTS: one_of(
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
    ),
    WHERE_SLOTS: one_of(*QUARTERS),
    CHILDREN_SLOTS: one_of("yes", "no"),
    BESIDE_SLOTS: place_name,
}
COST = ABOUT_PLACES[COST_SLOTS]

NEIGHBOURS = (
    Neighbour(
        HOTELS,
        {
            "title": place_name,
            "kind": one_of("hotel", "guest house", "hostel", "inn"),
            MEAL_SLOTS: one_of(*CUISINES),
            "rooms": lambda dice: str(4 + dice.below(60)),
            **ABOUT_PLACES,
        },
        weight=4,
    ),
    Neighbour(
        SIGHTS,
        {
            "sort": one_of("museum", "park", "theatre", "castle"),
            "sight": place_name,
            "style": one_of(*CUISINES, "modern", "old"),
            **ABOUT_PLACES,
            "built": lambda dice: str(1500 + dice.below(520)),
        },
        weight=3,
    ),
    Neighbour(
        SHOPS,
        {
            **ABOUT_PLACES,
            "goods": one_of("books", "shoes", "flowers", "coffee beans", "toys", "cheese", "lamps"),
            "shop": place_name,
            "opens": lambda dice: f"{6 + dice.below(6)} am",
            "customers": one_of("happy", "unhappy"),
        },
        weight=2,
    ),
    Neighbour(
        PEOPLE,
        {
            "person": person_name,
            "nation": one_of(*CUISINES),
            "age": lambda dice: str(20 + dice.below(60)),
            "job": one_of("cook", "painter", "teacher", "writer", "waiter", "customer"),
            "home": surname,
            "eats": one_of(*CUISINES, "fast"),
            "works at": place_name,
        },
        weight=1.5,
    ),
    Neighbour(
        TRAINS,
        {
            "speed": one_of("fast", "slow"),
            COST_SLOTS: COST,
            "train": place_name,
            "from": surname,
            "to": surname,
            "via": place_name,
            "leaves": lambda dice: f"{1 + dice.below(12)} {dice.pick(('am', 'pm'))}",
        },
        weight=0.5,
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
        ("dinner", f"Fast food is served at the coffee shop next to {who} ."),
        ("news", f"There is a {food} restaurant , a pub and a coffee shop near {who} ."),
        ("travel", f"The city is by the river and {who} is in the centre of it ."),
        ("travel", f"If you want a cheap place with an average rating , go to {who} ."),
    )
    return dice.pick(options)
