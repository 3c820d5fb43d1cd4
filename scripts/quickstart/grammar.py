"""A small compositional grammar: phrases that each say one attribute are packed into sentences about one thing.

A text is not filled into a whole-sentence template. Its sentences are planned first (what the opening says, what
follows, in which order), every attribute then becomes an adjective, a phrase after the noun, a verb phrase or a clause
of its own, and neighbours are joined. ``Text.trace`` keeps which phrase said which attribute.

Texts are tokenised as in the released E2E files: blanks around punctuation, ``family - friendly``, ``£ 20 - 25``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")
Kind = Literal["adjective", "after", "verb", "clause"]
Facts = dict[str, str]  # slot name -> value, in the order of the meaning representation


class Dice:
    """Seeded draws that are the same on every Python: of ``random.Random`` only ``random()`` promises its sequence."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def below(self, n: int) -> int:
        """An integer in [0, n)."""
        return int(self._random() * n)

    def chance(self, p: float) -> bool:
        return self._random() < p

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def weighted(self, items: Sequence[T], weights: Iterable[float]) -> T:
        """One of ``items``; weights are not negative and need not sum to 1."""
        weights = list(weights)
        point = self._random() * sum(weights)
        for item, weight in zip(items, weights):
            point -= weight
            if point < 0:
                return item
        return items[-1]

    def shuffled(self, items: Iterable[T]) -> list[T]:
        out = list(items)
        for i in range(len(out) - 1, 0, -1):
            j = self.below(i + 1)
            out[i], out[j] = out[j], out[i]
        return out


@dataclass(frozen=True)
class Phrase:
    """One way to say one attribute.

    ``pattern`` holds ``{}`` where the value goes. ``values`` limits it to some values (empty: to any).
    ``tone`` is +1 for praise and -1 for blame, so that "but" can join the two.
    """

    kind: Kind
    pattern: str
    weight: float = 1.0
    values: tuple[str, ...] = ()
    tone: int = 0

    def fits(self, value: str) -> bool:
        return not self.values or value in self.values


@dataclass(frozen=True)
class Opening:
    """Shape of the first sentence and how much it takes.

    ``pattern`` knows ``{name}``, ``{noun}`` (with its adjectives before it), ``{after}`` (phrases after the noun),
    ``{front}`` (one such phrase at the start), ``{verbs}`` and ``{a}`` (a or an, whichever the next word needs).
    """

    pattern: str
    weight: float = 1.0
    adjectives: int = 0
    after: int = 0
    verbs: int = 0

    @property
    def front(self) -> bool:
        return "{front}" in self.pattern

    @property
    def says_noun(self) -> bool:
        return "{noun}" in self.pattern


@dataclass(frozen=True)
class Domain:
    """What can be said about one kind of thing.

    Args:
        name_slot: the slot that holds the name of the thing.
        noun_slot: the slot whose value is the noun ("pub"), if there is one.
        nouns: value of ``noun_slot`` to its nouns; the key "" holds the nouns that say nothing more ("place").
        phrases: slot to the ways of saying it.
        fronted: slots whose "after" phrases may also open a sentence ("Near the mill , ...").
        pronoun: subject of later sentences.
        more_at_once: verb phrases in one later sentence, at most.
    """

    name_slot: str
    noun_slot: str | None
    nouns: dict[str, tuple[str, ...]]
    phrases: dict[str, tuple[Phrase, ...]]
    openings: tuple[Opening, ...]
    fronted: tuple[str, ...] = ()
    pronoun: str = "It"
    more_at_once: int = 3


@dataclass(frozen=True)
class Said:
    """One attribute and the words that say it, as they stand in the text."""

    slot: str
    value: str
    words: str


@dataclass(frozen=True)
class Text:
    text: str
    trace: tuple[Said, ...]


@dataclass(frozen=True)
class _Part:
    slot: str
    words: str
    tone: int


def realise(domain: Domain, facts: Facts, dice: Dice) -> Text:
    """Says every fact once, and nothing else.

    Raises:
        ValueError: a fact for which the domain has no verb phrase or clause (it could then not always be said).
    """
    return _Writer(domain, facts, dice).write()


class _Writer:
    def __init__(self, domain: Domain, facts: Facts, dice: Dice) -> None:
        self.domain, self.facts, self.dice = domain, facts, dice
        self.name = facts[domain.name_slot]
        kind = facts.get(domain.noun_slot or "", "")
        self.noun = dice.pick(domain.nouns[kind])
        self.todo = dice.shuffled(slot for slot in facts if slot not in (domain.name_slot, domain.noun_slot))
        self.trace = [Said(domain.name_slot, self.name, self.name)]
        if kind:
            self.trace.append(Said(domain.noun_slot or "", kind, self.noun))

    def write(self) -> Text:
        sentences = [self._opening()]
        named_last = True
        while self.todo:
            sentences.append(self._following(named_last))
            named_last = False
        return Text(" ".join(sentences), tuple(self.trace))

    def _phrases(self, slot: str, kind: Kind) -> list[Phrase]:
        value = self.facts[slot]
        return [p for p in self.domain.phrases[slot] if p.kind == kind and p.fits(value)]

    def _say(self, slot: str, kind: Kind) -> _Part:
        """Chooses a phrase for a slot and takes the slot off the list."""
        options = self._phrases(slot, kind)
        phrase = self.dice.weighted(options, [p.weight for p in options])
        words = phrase.pattern.replace("{}", self.facts[slot])
        self.todo.remove(slot)
        self.trace.append(Said(slot, self.facts[slot], words))
        return _Part(slot, words, phrase.tone)

    def _take(self, kind: Kind, at_most: int, allowed: Callable[[str], bool] = lambda slot: True) -> list[_Part]:
        """Says up to ``at_most`` of the remaining slots as ``kind``, likelier where that kind weighs more."""
        parts: list[_Part] = []
        for slot in list(self.todo):
            if len(parts) == at_most:
                break
            here = sum(p.weight for p in self._phrases(slot, kind))
            total = sum(p.weight for p in self.domain.phrases[slot] if p.fits(self.facts[slot]))
            if here and allowed(slot) and self.dice.chance(0.35 + 0.6 * here / total):
                parts.append(self._say(slot, kind))
        return parts

    def _opening(self) -> str:
        def usable(o: Opening) -> bool:
            can_front = any(self._phrases(s, "after") for s in self.todo if s in self.domain.fronted)
            can_verb = any(self._phrases(s, "verb") for s in self.todo)
            says_kind = o.says_noun or self.domain.noun_slot not in self.facts
            return says_kind and (can_front or not o.front) and (can_verb or not o.verbs)

        options = [o for o in self.domain.openings if usable(o)]
        opening = self.dice.weighted(options, [o.weight for o in options])
        front = ""
        if opening.front:
            slot = next(s for s in self.todo if s in self.domain.fronted and self._phrases(s, "after"))
            front = self._say(slot, "after").words
        verbs: list[_Part] = []
        if opening.verbs:  # such an opening needs one, whatever the dice say about the rest
            first = next(s for s in self.todo if self._phrases(s, "verb"))
            verbs = [self._say(first, "verb"), *self._take("verb", opening.verbs - 1)]
        adjectives = self._take("adjective", opening.adjectives)
        after = self._take("after", opening.after)
        rank = list(self.domain.phrases)  # "a cheap family - friendly Italian pub": the order of the table
        adjectives.sort(key=lambda part: rank.index(part.slot))
        noun = " ".join([*(part.words for part in adjectives), self.noun])
        filled = opening.pattern.format(
            name=self.name, noun=noun, after=_run_on(after), front=front, verbs=_join_verbs(verbs, self.dice), a="{a}"
        )
        return _sentence(filled)

    def _following(self, named_last: bool) -> str:
        options = [s for s in self.todo if self._phrases(s, "clause")]
        if (options and self.dice.chance(0.25)) or not any(self._phrases(s, "verb") for s in self.todo):
            if not options:
                raise ValueError(f"no verb phrase or clause says {self.todo[0]!r} = {self.facts[self.todo[0]]!r}")
            return _sentence(self._say(options[0], "clause").words)
        count = 1 + self.dice.below(self.domain.more_at_once)
        slots = [s for s in self.todo if self._phrases(s, "verb")][:count]
        subjects = (self.domain.pronoun, f"The {self.noun}", self.name)
        subject = self.dice.weighted(subjects, (6, 1.5, 0.5 if named_last else 1.5))
        parts = [self._say(slot, "verb") for slot in slots]
        if len(parts) == 2 and parts[0].tone * parts[1].tone < 0 and self.dice.chance(0.3):
            return _sentence(f"Although {_lower(subject, self.name)} {parts[0].words} , it {parts[1].words}")
        words = f"{subject} {_join_verbs(parts, self.dice)}"
        clauses = [s for s in self.todo if self._phrases(s, "clause")]
        if clauses and self.dice.chance(0.2):
            words += f" and {self._say(clauses[0], 'clause').words}"
        elif subject == "It" and words.startswith("It is ") and self.dice.chance(0.15):
            words = "It 's " + words.removeprefix("It is ")
        return _sentence(words)


def _run_on(parts: Sequence[_Part]) -> str:
    """Phrases after a noun; a second "with ..." is joined to the first by "and"."""
    words = [part.words for part in sorted(parts, key=lambda part: part.words.startswith("with "))]
    out: list[str] = []
    for phrase in words:
        if out and out[-1].startswith("with ") and phrase.startswith("with "):
            phrase = "and " + phrase.removeprefix("with ")
        out.append(phrase)
    return " ".join(out)


def _join_verbs(parts: Sequence[_Part], dice: Dice) -> str:
    words = [part.words for part in parts]
    if len(words) < 2:
        return "".join(words)
    link = "and"
    if len(words) == 2 and parts[0].tone * parts[1].tone < 0 and dice.chance(0.75):
        link = "but"
    if words[-1].startswith("is ") and words[-2].startswith("is ") and dice.chance(0.6):
        words[-1] = words[-1].removeprefix("is ")
    return f"{' , '.join(words[:-1])} {link} {words[-1]}"


def _lower(words: str, name: str) -> str:
    """Lower-cases the first letter unless the words start with the name."""
    return words if words.startswith(name) or not words[:1].isupper() else words[0].lower() + words[1:]


def _sentence(words: str) -> str:
    """Settles a/an, blanks and commas, the capital and the full stop."""
    tokens: list[str] = []
    raw = words.split()
    for here, after in zip(raw, [*raw[1:], "."]):
        if here == "{a}":
            here = "an" if after[0] in "aeiouAEIO8" and not after.startswith(("one", "eu", "uni")) else "a"
        if here == "," and (not tokens or tokens[-1] == ","):
            continue
        tokens.append(here)
    if tokens[-1] == ",":
        tokens.pop()
    text = " ".join(tokens)
    return f"{text[0].upper()}{text[1:]} ."
