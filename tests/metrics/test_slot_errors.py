"""Slot errors by rule: on texts of our own, and on the challenge's sentences where these are at hand."""

import csv
import gzip

import pytest
from metrics.slot_errors import mentions, parse_mr, score_slots, slot_errors

from examples.common.errors import UserError
from tests.shared_data import shared_path

MR = (
    "name[The Mill], eatType[pub], food[English], priceRange[cheap], customer rating[5 out of 5], "
    "area[city centre], familyFriendly[no], near[Café Brazil]"
)
TEXT = (
    "The Mill is a low-priced pub near Cafe Brazil in the city center. It serves British food, is highly rated, "
    "and is not suitable for children."
)


def test_a_text_that_says_everything_in_other_words_has_no_errors():
    errors = slot_errors(MR, TEXT)
    assert (errors.slots, errors.missing, errors.wrong, errors.added) == (8, (), (), ())


@pytest.mark.parametrize(
    ("old", "new", "missing", "wrong", "added"),
    [
        ("The Mill", "It", ("name",), (), ()),
        (" near Cafe Brazil", "", ("near",), (), ()),
        ("near Cafe Brazil", "near The Eagle", ("near",), (), ("venue",)),
        ("low-priced pub", "pub", ("priceRange",), (), ()),
        ("low-priced", "moderately priced", (), ("priceRange",), ()),
        ("low-priced", "pricey", (), ("priceRange",), ()),
        ("pub", "coffee shop", (), ("eatType",), ()),
        ("pub", "place", ("eatType",), (), ()),
        ("British", "Indian", (), ("food",), ()),
        ("highly rated", "rated 1 out of 5", (), ("rating",), ()),
        ("is highly rated", "has an average customer rating", (), ("rating",), ()),
        ("in the city center", "by the river", (), ("area",), ()),
        ("not suitable for children", "family-friendly", (), ("familyFriendly",), ()),
        (", and is not suitable for children", "", ("familyFriendly",), (), ()),
    ],
)
def test_each_kind_of_error_is_seen(old, new, missing, wrong, added):
    assert old in TEXT
    errors = slot_errors(MR, TEXT.replace(old, new), venues=["The Eagle"])
    assert (errors.missing, errors.wrong, errors.added) == (missing, wrong, added)


@pytest.mark.parametrize(
    ("text", "added"),
    [
        ("The Mill is a restaurant.", ()),
        ("The Mill is a cheap restaurant.", ("priceRange",)),
        ("The Mill serves Chinese food for families.", ("food", "familyFriendly")),
        ("The Mill is a coffee shop with good reviews.", ("eatType", "rating")),
        ("The Mill is near the Indian Queen by the riverside.", ("near", "area")),
    ],
)
def test_what_the_input_does_not_say_is_added(text, added):
    assert slot_errors("name[The Mill]", text, ["The Indian Queen"]).added == added


def test_names_are_no_values():
    text = "Raja Indian Cuisine is near The Waterside Café."
    assert slot_errors("name[Raja Indian Cuisine], near[The Waterside Café]", text).added == ()


@pytest.mark.parametrize(
    ("text", "slot", "values"),
    [
        ("Prices are less than 20 pounds.", "priceRange", {"low"}),
        ("Meals cost £20-25.", "priceRange", {"moderate"}),
        ("The price range is high and the customer rating is average.", "priceRange", {"high"}),
        ("The price range is high and the customer rating is average.", "rating", {"average"}),
        ("It has a moderate customer rating.", "priceRange", set()),
        ("It is inexpensive.", "priceRange", {"low"}),
        ("It got five stars.", "rating", {"high"}),
        ("It is not only kid friendly.", "familyFriendly", {"yes"}),
        ("It isn't kid friendly.", "familyFriendly", {"no"}),
        ("Children are not welcome.", "familyFriendly", {"no"}),
    ],
)
def test_phrases(text, slot, values):
    assert mentions(text, [])[slot] == values


def test_both_ways_to_write_an_input_and_what_is_none():
    ours = "name : The Mill | Type : pub | price : £ 20 - 25 | family friendly : yes | customer rating : low"
    assert parse_mr(ours) == parse_mr(
        "name[The Mill], eatType[pub], priceRange[£ 20 - 25], familyFriendly[yes], customer rating[low]"
    )
    for wrong in ("The Mill", "name[The Mill], colour[blue]", "name[The Mill], area[Paris]", ""):
        with pytest.raises(UserError):
            parse_mr(wrong)


def test_a_test_set_is_summed_up():
    total, errors = score_slots(["name[A], area[riverside]", "name[B]"], ["A is a pub.", "B."])
    assert total == {
        "slots": 3,
        "missing": 1,
        "wrong": 0,
        "added": 1,
        "slot_error_rate": pytest.approx(2 / 3),
        "texts_without_errors": 1,
    }
    assert errors[0].missing == ("area",) and errors[0].added == ("eatType",)


@pytest.mark.slow
def test_on_sentences_whose_inputs_were_corrected_the_rule_finds_almost_nothing():
    """The cleaned set's inputs were rewritten to say what the sentences say, by somebody else's rules."""
    with gzip.open(shared_path("data/e2e/cleaned/devel-fixed.no-ol.csv.gz"), "rt", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    mrs, texts = [row["mr"] for row in rows], [row["ref"] for row in rows]
    assert score_slots(mrs, texts)[0]["slot_error_rate"] < 0.025
    shifted, _ = score_slots(mrs, texts[1000:] + texts[:1000])
    assert shifted["slot_error_rate"] > 0.4
