"""TER as WebNLG's evaluation computes it (the definition of pyter): shifts by a greedy search, mean over items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from examples.common.errors import UserError

Tokens = Sequence[str]
# Shifts to try x words, over all turns of a search: some 20 seconds. Two words in turn, 150 of them, make 29 million.
MOST_STEPS = 30_000_000


def ter(hypothesis: Tokens, reference: Tokens) -> float:
    """(shifts + edit distance) / words of the reference, above 1 for a long bad hypothesis.

    Each shift moves the longest run of words that the hypothesis at i and the reference at j != i have in common,
    so that it begins at j of the remaining words. Of all (i, j) the one with the shortest edit distance is taken; a
    tie goes to the lexicographically largest list of words. The search ends where no shift lowers the distance.
    There are none of tercom's limits on the length or the distance of a shift.

    Source: Snover et al. 2006, "A Study of Translation Edit Rate", with the search of pyter3 0.3, whose doubles
    this gives.

    Raises:
        ValueError: the reference is empty.
        UserError: the search would take long, which only many equal words in a long text can bring about.
    """
    if not reference:
        raise ValueError("TER divides by the length of the reference, which is empty")
    return _Pair(hypothesis, reference).edits(allowed=float("inf")) / len(reference)


def item_ter(hypothesis: Tokens, references: Sequence[Tokens]) -> float:
    """Lowest TER over the references of an item; against an empty reference it is 1, which so becomes a ceiling."""
    distinct = list(dict.fromkeys(map(tuple, references)))  # LoRA fills up with copies of the first reference
    best = min((1.0 for reference in distinct if not reference), default=float("inf"))
    pairs = [_Pair(hypothesis, reference) for reference in distinct if reference]
    for pair in sorted(pairs, key=lambda pair: pair.lower_bound / pair.n_reference):
        # int / int is rounded correctly, so a bound on the edits is one on the double too
        if pair.lower_bound / pair.n_reference < best:
            best = min(best, pair.edits(allowed=best * pair.n_reference + 1) / pair.n_reference)
    return best


class _Pair:
    """A hypothesis and a non-empty reference, words as numbers in the order of the words."""

    def __init__(self, hypothesis: Tokens, reference: Tokens) -> None:
        rank = {word: number for number, word in enumerate(sorted({*hypothesis, *reference}))}
        self.words = [rank[word] for word in hypothesis]
        self.reference = [rank[word] for word in reference]
        self.n_reference = len(reference)
        counts = Counter(self.reference)
        n_common = (Counter(self.words) & counts).total()
        self.n_candidates, self.n_steps = sum(counts[word] for word in self.words), 0
        # no shift changes which words there are, so no edit distance gets below this
        self.lower_bound = max(len(self.words), self.n_reference) - n_common
        self.everywhere = (1 << self.n_reference) - 1
        self.where = [0] * len(rank)  # bit j of where[word]: the word is at j of the reference
        for position, word in enumerate(self.reference):
            self.where[word] |= 1 << position

    def edits(self, *, allowed: float) -> float:
        """Shifts plus final edit distance; or infinity, as soon as that cannot be below ``allowed``."""
        words, n_shifts = self.words, 0
        columns = self._columns(words)
        distance = _last_row(columns[-1], len(words))
        while distance > self.lower_bound:
            if n_shifts + self.lower_bound >= allowed:
                return float("inf")
            self._count_turn()
            shifted, shifted_distance = words, distance
            for start, candidate in self._shifts(words):
                found = self._distance(candidate, columns, start)
                if found < shifted_distance or (found == shifted_distance and candidate > shifted):
                    shifted, shifted_distance = candidate, found
            if shifted_distance == distance:
                break
            words, distance, n_shifts = shifted, shifted_distance, n_shifts + 1
            columns = self._columns(words)
        return n_shifts + distance

    def _count_turn(self) -> None:
        """Refuses a search that gets too long, mostly at its first turn."""
        self.n_steps += self.n_candidates * len(self.words)
        if self.n_steps > MOST_STEPS:
            raise UserError(
                f"TER of a hypothesis of {len(self.words)} words against a reference of {self.n_reference}, with "
                f"{self.n_candidates} shifts to try at each turn, takes too long; leave such an item or the metric out"
            )

    def _shifts(self, words: list[int]) -> Iterator[tuple[int, list[int]]]:
        """Yields (where it begins to differ from ``words``, words after one shift)."""
        positions: dict[int, list[int]] = {}
        for j, word in enumerate(self.reference):
            positions.setdefault(word, []).append(j)
        n_words, n_reference, reference = len(words), self.n_reference, self.reference
        for i, word in enumerate(words):
            for j in positions.get(word, ()):
                if i == j:
                    continue
                length = 1
                while i + length < n_words and j + length < n_reference and words[i + length] == reference[j + length]:
                    length += 1
                run, rest = words[i : i + length], words[:i] + words[i + length :]
                yield min(i, j), rest[:j] + run + rest[j:]

    def _columns(self, words: list[int]) -> list[tuple[int, int]]:
        """State of the edit distance after each number of words, from 0 on."""
        columns = [(self.everywhere, 0)]
        for word in words:
            columns.append(_step(*columns[-1], self.where[word], self.everywhere))
        return columns

    def _distance(self, words: list[int], columns: list[tuple[int, int]], start: int) -> int:
        """Edit distance of ``words``, whose first ``start`` words are those that ``columns`` were made of."""
        rises, falls = columns[min(start, len(words))]
        where, everywhere = self.where, self.everywhere
        for word in words[start:]:
            rises, falls = _step(rises, falls, where[word], everywhere)
        return _last_row((rises, falls), len(words))


def _step(rises: int, falls: int, equal: int, everywhere: int) -> tuple[int, int]:
    """One column of the edit-distance matrix further: a bit for each row whose value is 1 above (below) the last one's.

    Source: Myers 1999, "A fast bit-vector algorithm for approximate string matching", as rewritten by Hyyrö 2003;
    a Python integer is as many bits wide as the reference is long.
    """
    diagonal = (((equal & rises) + rises) ^ rises) | equal | falls
    right_rises = ((falls | ~(diagonal | rises)) << 1) | 1  # row 0 of the matrix rises by 1 at each word
    right_falls = (rises & diagonal) << 1
    return (right_falls | ~(diagonal | right_rises)) & everywhere, diagonal & right_rises & everywhere


def _last_row(column: tuple[int, int], n_words: int) -> int:
    rises, falls = column
    return n_words + rises.bit_count() - falls.bit_count()
