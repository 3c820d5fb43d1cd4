"""Slot errors of E2E texts: values that a text leaves out, gets wrong, or adds to its meaning representation.

By rules over words: a text mentions a value where one of the value's patterns occurs. Values that mean the same to a
reader (``cheap`` and ``less than £20``; ``high`` and ``5 out of 5``) count as one. The kinds of error are those of
Dusek, Howcroft and Rieser (2019), "Semantic Noise Matters for Neural Natural Language Generation"; the patterns are
ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from examples.common.errors import UserError

KINDS = ("missing", "wrong", "added")
MR = re.compile(r"\s*([^\[\],]+?)\[([^\]]*)\]")
SLOTS = {"type": "eatType", "price": "priceRange", "family friendly": "familyFriendly", "customer rating": "rating"}
VALUES = {
    "eatType": {"pub": "pub", "coffee shop": "coffee shop", "restaurant": "restaurant"},
    "food": {f: f for f in ("chinese", "english", "fast food", "french", "indian", "italian", "japanese")},
    "priceRange": {
        **dict.fromkeys(("cheap", "less than £20"), "low"),
        **dict.fromkeys(("moderate", "£20-25"), "moderate"),
        **dict.fromkeys(("high", "more than £30"), "high"),
    },
    "rating": {
        **dict.fromkeys(("low", "1 out of 5"), "low"),
        **dict.fromkeys(("average", "3 out of 5"), "average"),
        **dict.fromkeys(("high", "5 out of 5"), "high"),
    },
    "area": {"city centre": "city centre", "riverside": "riverside"},
    "familyFriendly": {"yes": "yes", "no": "no"},
}
RATED = r"(?:customer |consumer |customers' )?(?:rat|review|satisf|scor|feedback)"
RATING_IS = r"(?:rat(?:ed|es?|ings?)|reviews?|scores?|satisfaction)(?: (?!pric)\w+){0,3} "
OUT_OF = r"(?: stars?)?(?: out)?(?: of | on |/)(?:a possible )?(?:5|five)\b|[- ]stars?\b"
PRICE = r"[- ]{0,2}(?:in )?(?:pric|costs?\b|costing)"
PRICE_IS = r"\b(?:pric(?:es?|ed|ing)|costs?)(?: (?:ranges?|is|are|of|in|the|a|that|being|rather|quite|fairly|very))* "
POUNDS = r" ?(?:than )?(?:£|pounds?)? ?"
# What is matched, in lower case, once the names of venues are taken out
PATTERNS = {
    "eatType": {"pub": r"\bpubs?\b", "coffee shop": r"\bcoffee|\bcaf[eé]", "restaurant": r"\brestaurant"},
    "food": {
        "chinese": r"\bchinese",
        "english": r"\benglish|\bbritish",
        "fast food": r"\bfast[- ]?food",
        "french": r"\bfrench",
        "indian": r"\bindian",
        "italian": r"\bitalian|\bpasta|\bpizza|\bspaghetti",
        "japanese": r"\bjapanese|\bsushi",
    },
    "priceRange": {
        "low": rf"\bcheap|\binexpensive|\baffordabl|\bbudget|\blow(?:er|ly)?{PRICE}|{PRICE_IS}low\b"
        rf"|(?:less|under|below|lower){POUNDS}20|\b20 (?:pounds )?or (?:less|under)",
        "moderate": rf"\bmoderate(?:ly)?\b(?! {RATED})|\bmid(?:dle)?[- ]?(?:range|{PRICE})|\baverage(?:ly)?{PRICE}"
        rf"|\breasonabl[ey]{PRICE}|{PRICE_IS}(?:average|reasonable)|\b20 ?(?:-|–|to|and) ?£? ?25",
        "high": rf"(?<!in)expensive|\bhigh(?:er|ly|ish)?(?:[- ]end)?{PRICE}|\bprice?y\b|{PRICE_IS}(?:high|higher)\b"
        rf"|\bupscale|\bcostly|(?:more|over|above){POUNDS}30|\b30 (?:pounds )?(?:or more|plus)|30\+",
    },
    "rating": {
        "low": rf"\b(?:1|one)(?:{OUT_OF})|\b(?:low|poor|bad)(?:er|ly|est)?[- ]{RATED}"
        rf"|{RATING_IS}(?:low|poor|bad)(?:ly)?\b",
        "average": rf"\b(?:3|three)(?:{OUT_OF})|\b(?:average|moderate|decent|mediocre|fair|ok|okay)(?:ly)?[- ]{RATED}"
        rf"|{RATING_IS}(?:average|moderate|decent|mediocre|ok|okay)\b",
        "high": rf"\b(?:5|five)(?:{OUT_OF})"
        rf"|\b(?:high|excellent|good|great|top|best|outstanding|well)(?:er|ly|est)?[- ]{RATED}"
        rf"|{RATING_IS}(?:high|excellent|great|good|perfect|well)(?:ly)?\b",
    },
    "area": {
        "city centre": r"\b(?:city|town)'?s?[- ]?cent(?:re|er)|\bcent(?:re|er) of (?:the )?(?:city|town)|\bdowntown"
        r"|\bin the cent(?:re|er)",
        "riverside": r"\briver|\bwaterfront|\bby the water",
    },
}
FAMILY = r"(?:famil|kid|child)"
NEGATED = re.compile(
    rf"(?:\b(?:no|not(?! only)|non|never|nor|isn|aren|doesn|don|without|lacks)\b|n't\b|\bnon[- ]?|\bun\w+)"
    rf"[^.;,]{{0,40}}?{FAMILY}"
    rf"|{FAMILY}\w*(?:[- ]\w+)?[^.;,]{{0,20}}\b(?:not|isn't|aren't|unfriendly|no)\b"
    r"|\badults?[- ]only|\bonly (?:for )?adults?"
)


@dataclass(frozen=True)
class SlotErrors:
    """Slots of one text: how many its meaning representation has, and the names of those that are not right."""

    slots: int
    missing: tuple[str, ...]
    wrong: tuple[str, ...]
    added: tuple[str, ...]


def parse_mr(mr: str) -> dict[str, str]:
    """Slots of a meaning representation, ``name[X], food[Y]`` or ``name : X | food : Y``.

    Raises:
        UserError: no slots, or a value that E2E does not have.
    """
    pairs = MR.findall(mr) if "[" in mr else [part.split(" : ", 1) for part in mr.split("|")]
    if not all(len(pair) == 2 for pair in pairs) or not pairs:
        raise UserError(f"expected a meaning representation of E2E, got {mr[:60]!r}")
    found = {SLOTS.get(name.strip().lower(), name.strip()): " ".join(value.split()) for name, value in pairs}
    for name, value in found.items():
        if name not in VALUES and name not in ("name", "near"):
            raise UserError(f"{mr[:60]!r}: E2E has no slot {name!r}")
        if name in VALUES and _value(value) not in VALUES[name]:
            raise UserError(f"{mr[:60]!r}: E2E has no value {value!r} of {name}")
    return found


def _value(text: str) -> str:
    return text.lower().replace("£ ", "£").replace(" - ", "-")


def mentions(text: str, venues: Iterable[str]) -> dict[str, set[str]]:
    """Values that a text mentions, by slot; of ``venues``, those whose names occur in it, under ``venues``."""
    text = " ".join(text.lower().replace("’", "'").split())
    found: dict[str, set[str]] = {"venues": set()}
    for venue in sorted({venue.lower() for venue in venues}, key=len, reverse=True):
        pattern = rf"(?<!\w)(?:the )?{re.escape(venue.removeprefix('the '))}(?!\w)".replace("é", "[eé]")
        text, times = re.subn(pattern, "it", text)
        if times:
            found["venues"].add(venue)
    for slot, patterns in PATTERNS.items():
        found[slot] = {value for value, pattern in patterns.items() if re.search(pattern, text)}
    family = bool(re.search(rf"\b{FAMILY}", text))
    negated = bool(NEGATED.search(text))
    found["familyFriendly"] = {"no"} if negated else {"yes"} if family else set()
    return found


def slot_errors(mr: str, text: str, venues: Iterable[str] = ()) -> SlotErrors:
    """What a text says beside its meaning representation.

    A slot is wrong where the text mentions another of its values instead. Of slots that the meaning representation
    lacks, any mention is added, but "restaurant" is not, which texts call every venue.

    Args:
        venues: all names that a text could add, of the whole test set; those of ``mr`` need not be among them.
    """
    wanted = parse_mr(mr)
    own = {wanted[slot].lower(): slot for slot in ("near", "name") if slot in wanted}
    found = mentions(text, {*venues, *own})
    missing: list[str] = [slot for venue, slot in own.items() if venue not in found["venues"]]
    wrong: list[str] = []
    added = ["near" if "near" not in wanted else "venue"] if found["venues"] - set(own) else []
    for slot, values in VALUES.items():
        if slot not in wanted:
            if found[slot] - ({"restaurant"} if slot == "eatType" else set()):
                added.append(slot)
        elif not found[slot]:
            missing.append(slot)
        elif values[_value(wanted[slot])] not in found[slot]:
            wrong.append(slot)
    return SlotErrors(len(wanted), tuple(missing), tuple(wrong), tuple(added))


def score_slots(mrs: Sequence[str], texts: Sequence[str]) -> tuple[dict[str, float | int], list[SlotErrors]]:
    """Counts over a test set, with their share of all slots of its meaning representations; and those of each text."""
    venues = {value for mr in mrs for slot, value in parse_mr(mr).items() if slot in ("name", "near")}
    errors = [slot_errors(mr, text, venues) for mr, text in zip(mrs, texts, strict=True)]
    total: dict[str, float | int] = {"slots": sum(error.slots for error in errors)}
    for kind in KINDS:
        total[kind] = sum(len(getattr(error, kind)) for error in errors)
    total["slot_error_rate"] = sum(total[kind] for kind in KINDS) / total["slots"]
    total["texts_without_errors"] = sum(not any(getattr(error, kind) for kind in KINDS) for error in errors)
    return total, errors
