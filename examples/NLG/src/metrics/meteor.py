"""METEOR 1.5 by its own jar, the one inside pycocoevalcap: ``-l en -norm``, one JVM for a whole system output."""

from __future__ import annotations

from collections.abc import Sequence

from metrics.java import TIMEOUT_S, JavaError, Jvm, bundled_jar
from metrics.tokenizers import LINE_ENDS

METEOR_JAR = "meteor/meteor-1.5.jar"


class Meteor(Jvm):
    """A running METEOR. Start it early: it reads its paraphrase table (seconds) while the caller does other work.

    Source: Denkowski and Lavie 2014, "Meteor Universal". A blank reference never wins; a blank hypothesis scores 0.
    """

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        arguments = ["-jar", str(bundled_jar(METEOR_JAR)), "-", "-", "-stdio", "-l", "en", "-norm"]
        super().__init__("METEOR", arguments, timeout_s=timeout_s)

    def score(self, references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> tuple[float, list[float]]:
        """Corpus score (from summed statistics, not the mean) and the score of each item, in [0, 1].

        Args:
            references: one list of texts per item, of any lengths.
            hypotheses: one text per item.

        Raises:
            JavaError: the program ended, took too long, or answered something else than numbers.
        """
        return self.combine(self.statistics(references, hypotheses))

    def statistics(self, references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> list[str]:
        """Counts of each item, one line of numbers; any choice of them gives ``combine`` a score."""
        questions = [_score_line(texts, hypothesis) for texts, hypothesis in zip(references, hypotheses)]
        statistics = self.ask(questions, n_answers=len(questions))
        # a line that is no list of numbers would end the program at EVAL, without a word about the item
        for number, line in enumerate(statistics, start=1):
            _numbers(line, f"item {number}")
        return statistics

    def combine(self, statistics: Sequence[str]) -> tuple[float, list[float]]:
        """Score of the items together and of each one, as ``score`` returns them."""
        if not statistics:
            return 0.0, []
        answers = self.ask([" ||| ".join(["EVAL", *statistics])], n_answers=len(statistics) + 1)
        scores = [_numbers(line, "EVAL")[0] for line in answers]
        return scores[-1], scores[:-1]


def _score_line(references: Sequence[str], hypothesis: str) -> str:
    """A question about one item. The best reference counts, so copies (LoRA fills up with the first) only cost time."""
    references = list(dict.fromkeys(references))
    texts = [LINE_ENDS.sub(" ", text).replace("|||", "") for text in (*references, hypothesis)]
    return " ||| ".join(["SCORE", *texts])


def _numbers(line: str, where: str) -> list[float]:
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        values = []
    if not values:
        raise JavaError(f"METEOR answered {line!r} to {where}, numbers were expected")
    return values
