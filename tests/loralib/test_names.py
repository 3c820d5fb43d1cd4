"""Names of modules in patterns and in adapter configs mean exactly the modules that they should."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loralib.files.config import compiled, default_and_pattern, looked_up
from loralib.targets import matches, select

WORDS = st.sampled_from(["h", "0", "1", "query", "query_proj", "myquery", "qXuery", "c-attn"])
NAMES = st.lists(WORDS, min_size=1, max_size=4).map(".".join)
ODD_NAMES = st.lists(WORDS | st.sampled_from(["a(b", "c+", "x y"]), min_size=1, max_size=4).map(".".join)


@given(NAMES, NAMES)
def test_a_plain_name_matches_just_the_names_that_end_in_its_components(pattern, name):
    wanted, components = pattern.split("."), name.split(".")
    assert matches(pattern, name) == (components[-len(wanted) :] == wanted)


@given(NAMES, NAMES)
def test_a_plain_name_and_the_same_as_an_expression_match_alike(pattern, name):
    assert matches(re.compile(re.escape(pattern)), name) == matches(pattern, name)


@pytest.mark.parametrize(
    ("pattern", "name", "match"),
    [
        ("a|b", "x.b", True),
        ("a|b", "x.ab", False),
        ("x.*b", "x.y.b", True),
        ("^x", "x", True),
        ("^x", "y.x", False),
        (re.compile("QUERY", re.IGNORECASE), "h.query", True),
        ("[ab]+", "x.c", False),
    ],
)
def test_expressions_match_the_end_of_a_name_cut_at_a_dot(pattern, name, match):
    assert matches(pattern, name) == match


@pytest.mark.slow
@given(st.lists(NAMES, min_size=1, max_size=8, unique=True), st.data())
def test_what_is_selected_is_what_matches_in_the_order_of_the_model(names, data):
    target = data.draw(st.sampled_from(names))
    assert select(names, [target], []) == [name for name in names if matches(target, name)]


@pytest.mark.slow
@given(st.dictionaries(ODD_NAMES, st.integers(1, 3), min_size=1, max_size=8))
def test_rank_keys_give_each_module_its_value_by_the_rule_of_peft(values):
    default, pattern = default_and_pattern(values)
    assert {name: looked_up(compiled(pattern), name, default) for name in values} == values
    assert len(pattern) < len(values)
