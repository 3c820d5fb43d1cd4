"""The generator's promises: the same bytes everywhere, every fact said and no other, splits that do not overlap."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from scripts.quickstart import corpus, neighbours, restaurant
from scripts.quickstart.grammar import Dice, Domain, Opening, Phrase, realise

ROOT = Path(__file__).resolve().parents[2]
PYTHONPATH = os.pathsep.join([str(ROOT / "scripts"), str(ROOT / "examples/NLG/src")])


@pytest.fixture(scope="module")
def restaurants():
    return corpus.restaurant_rows(seed=11)


@pytest.fixture(scope="module")
def general(module_small):
    return corpus.general_rows(seed=11)


@pytest.fixture(scope="module")
def module_small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "GENERAL_ROWS", {"train": 1500, "valid": 50})
        yield


def run_corpus(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, str(ROOT / "scripts/quickstart/corpus.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_the_same_seed_writes_the_same_bytes_whatever_the_hash_seed(tmp_path):
    digests = []
    for hash_seed in ("0", "12345"):
        out = tmp_path / hash_seed
        assert run_corpus(str(out), hash_seed=hash_seed).returncode == 0
        files = sorted(out.rglob("*.txt"))
        assert [file.relative_to(out).as_posix() for file in files] == [
            "e2e/test.txt",
            "e2e/train.txt",
            "e2e/valid.txt",
            "general/train.txt",
            "general/valid.txt",
        ]
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_another_seed_writes_another_corpus(restaurants):
    other = corpus.restaurant_rows(seed=12)
    assert {row.context for row in restaurants["train"]} != {row.context for row in other["train"]}


def test_dice_give_the_sequence_that_python_promises_for_random():
    dice = Dice(0)
    # random.Random(0).random() begins 0.8444..., 0.7579..., 0.4205...: documented never to change
    assert [dice.below(100) for _ in range(3)] == [84, 75, 42]


def test_splits_share_no_meaning_representation(restaurants):
    contexts = {split: {row.context for row in rows} for split, rows in restaurants.items()}
    assert {split: len(of_split) for split, of_split in contexts.items()} == corpus.SPLITS
    assert len(set().union(*contexts.values())) == sum(corpus.SPLITS.values())


def test_references_of_one_meaning_representation_stand_together(restaurants):
    for rows in restaurants.values():
        changes = sum(a.context != b.context for a, b in pairwise(rows))
        assert changes + 1 == len({row.context for row in rows})


def test_representations_have_3_to_8_slots_in_the_order_of_e2e(restaurants):
    seen = set()
    for rows in restaurants.values():
        for row in rows:
            slots = list(row.facts)
            assert 3 <= len(slots) <= 8
            assert slots == [slot for slot in restaurant.SLOTS if slot in row.facts]
            seen.update(slots)
    assert seen == set(restaurant.SLOTS)


def test_most_representations_have_several_different_references(restaurants):
    rows = restaurants["train"]
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row.context, []).append(row.text.text)
    assert all(len(set(texts)) == len(texts) >= 2 for texts in groups.values())
    assert 3 < len(rows) / len(groups) < 5
    assert 3000 <= len(rows) <= 4000


def test_the_test_split_has_names_and_neighbours_that_training_has_not(restaurants):
    for slot, share in (("name", corpus.UNSEEN_NAME), ("near", corpus.UNSEEN_NEIGHBOUR)):
        known = {row.facts[slot] for row in restaurants["train"] if slot in row.facts}
        asked = {row.context: row.facts[slot] for row in restaurants["test"] if slot in row.facts}
        unseen = sum(value not in known for value in asked.values()) / len(asked)
        assert share - 0.15 < unseen < share + 0.15


def test_no_test_reference_is_a_copy_of_a_training_reference(restaurants):
    train, test = restaurants["train"], restaurants["test"]
    assert corpus.share_seen(train, test) < 0.01
    # the words are known, their long runs are not: there is something to compose
    assert corpus.share_seen(train, test, order=1) > 0.99
    assert corpus.share_seen(train, test, order=8) < 0.5


def check_trace(row):
    """Exactly the facts are said, each once, and in the words that the text has."""
    assert sorted(said.slot for said in row.text.trace) == sorted(row.facts)
    for said in row.text.trace:
        assert said.value == row.facts[said.slot]
        words = [word for word in said.words.split() if word != "{a}"]
        tokens = row.text.text.lower().split()
        assert all(word.lower() in tokens for word in words if word not in ("is", "with")), (said, row.text.text)


def test_every_reference_says_its_facts_and_no_other(restaurants):
    for rows in restaurants.values():
        for row in rows:
            check_trace(row)


def test_names_stand_in_the_reference_letter_for_letter(restaurants):
    for row in restaurants["test"]:
        assert row.facts["name"] in row.text.text
        assert row.facts.get("near", "") in row.text.text


@pytest.mark.parametrize("slot", list(restaurant.VALUES))
def test_a_value_that_is_not_in_the_facts_is_not_in_the_text(restaurants, slot):
    """Independent of the trace: words that only one slot uses never appear without that slot."""
    telling = {
        "Type": ("restaurant", "pub", "coffee shop"),
        "food": ("Italian", "French", "Chinese", "Indian", "Japanese", "English", "Spanish", "fast food"),
        "price": ("price", "£", "cheap", "expensive", "priced"),
        "customer rating": ("rating", "rated", "customers", "star"),
        "area": ("city", "river", "riverside"),
        "family friendly": ("family", "child", "children", "families", "adults"),
    }[slot]
    checked = 0
    for row in restaurants["train"]:
        if slot in row.facts:
            continue
        rest = row.text.text
        for name in (row.facts["name"], row.facts.get("near", "")):
            rest = rest.replace(name, "") if name else rest
        checked += 1
        assert not any(f" {word} " in f" {rest} ".replace("-", " ") for word in telling), (row.context, row.text.text)
    assert checked > 100


@pytest.mark.slow
def test_texts_are_tokenised_sentences(restaurants, general):
    for rows in (restaurants["train"], general["train"]):
        for row in rows:
            text = row.text.text
            assert text.endswith(" .") and not text[0].islower()
            assert "  " not in text and "{" not in text and "||" not in row.context + text
            assert " , ." not in text and " a a" not in text.replace(" a ada", "")


def test_articles_fit_the_next_word(restaurants):
    for row in restaurants["train"]:
        words = row.text.text.split()
        for article, after in pairwise(words):
            if article in ("a", "A"):
                assert after[0] not in "aeiouAEIOU", row.text.text
            if article in ("an", "An"):
                assert after[0] in "aeiouAEIOU", row.text.text


def test_the_general_corpus_has_no_restaurant_representation(general):
    allowed = {slot for n in neighbours.NEIGHBOURS for slots in n.values for slot in slots.split("/")} | {"topic"}
    assert allowed & set(restaurant.SLOTS) == {"food", "price", "area", "near"}  # no name, no Type, no rating
    for rows in general.values():
        for row in rows:
            assert set(row.facts) <= allowed


def test_general_texts_say_their_facts(general):
    rows = [row for row in general["train"] if "topic" not in row.facts]
    for row in rows:
        check_trace(row)
    assert len({tuple(row.facts) for row in rows}) > 100


@pytest.mark.slow
def test_general_texts_know_the_words_of_restaurants(restaurants):
    general = corpus.general_rows(seed=11)["train"]
    known = {word.lower() for row in general for word in row.text.text.split()}
    needed = {word.lower() for row in restaurants["train"] for word in row.text.text.split()}
    assert len(needed - known) / len(needed) < 0.15


def toy_domain(**phrases: tuple[Phrase, ...]) -> Domain:
    return Domain("name", None, {"": ("thing",)}, phrases, (Opening("{name} is {a} {noun}"),))


def test_a_fact_that_cannot_be_said_is_an_error():
    domain = toy_domain(size=(Phrase("adjective", "{}"),))
    with pytest.raises(ValueError, match="no verb phrase or clause says 'size' = 'big'"):
        realise(domain, {"name": "X", "size": "big"}, Dice(0))


@pytest.mark.parametrize("domain", [restaurant.RESTAURANTS, *(n.domain for n in neighbours.NEIGHBOURS)])
def test_every_value_can_be_said_in_a_later_sentence(domain):
    draws = {slot: list(values) for slot, values in restaurant.VALUES.items()}
    for n in neighbours.NEIGHBOURS:
        if n.domain is domain:
            dice = Dice(0)
            draws = {
                slot: [draw(dice) for _ in range(60)] for slots, draw in n.values.items() for slot in slots.split("/")
            }
    for slot, phrases in domain.phrases.items():
        for value in draws.get(slot, ["anything"]):
            assert any(p.kind in ("verb", "clause") and p.fits(value) for p in phrases), (slot, value)


def test_opposite_tones_can_be_joined_by_but():
    domain = toy_domain(
        price=(Phrase("verb", "is cheap", tone=1),),
        rating=(Phrase("verb", "has a low rating", tone=-1),),
    )
    texts = {realise(domain, {"name": "X", "price": "1", "rating": "1"}, Dice(seed)).text for seed in range(60)}
    assert any(" but " in text for text in texts)
    assert any(text.split(" . ")[1].startswith("Although ") for text in texts)


def test_a_negative_seed_is_refused_in_one_line(tmp_path):
    result = run_corpus(str(tmp_path / "x"), "--seed", "-1")
    assert result.returncode == 2
    assert result.stderr == "error: --seed -1: expected 0 or more\n"
    assert not (tmp_path / "x").exists()
