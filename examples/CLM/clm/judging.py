"""Scores from 0 to 100 by a language model, several for each text, kept in a file as they come."""

from __future__ import annotations

import hashlib
import json
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clm.sources import Row
from clm.text_scores import REFERENCE
from clm.texts import alpaca_prompt
from examples.common.errors import UserError
from examples.common.journal import add_line, whole_lines

ANSWER_TOKENS = 8
CHARACTERS_A_TOKEN = 4  # of English, about
# input, correct output, response, then the request: the order of the CS7643 study's prompt
PROMPT = (
    "Here are the input to a language model, a correct output, and the model's response.\n\n"
    "Input:\n{input}\n\nCorrect output:\n{reference}\n\nResponse:\n{response}\n\n"
    "Score the response on a scale from 0 to 100, where 100 is the best score. Respond with the integer number only."
)


@dataclass(frozen=True)
class Question:
    """What is asked about one text; ``digest`` tells questions of other texts or models apart."""

    where: str
    prompt: str
    digest: str


def question(row: Row, model: str) -> Question:
    """The question about a row of ``generate.py`` that still has its target.

    Raises:
        UserError: a row without ``generated``, target or prompt.
    """
    fields = row.fields
    target = next((name for name in REFERENCE if isinstance(fields.get(name), str)), None)
    asked = _asked(fields)
    if not isinstance(fields.get("generated"), str) or target is None or asked is None:
        raise UserError(
            f"{row.where}: expected a prompt (prompt, context, instruction or messages), {' or '.join(REFERENCE)}, and "
            f"generated; found {', '.join(fields)}"
        )
    prompt = PROMPT.format(input=asked, reference=fields[target], response=fields["generated"])
    return Question(row.where, prompt, hashlib.sha256(f"{model}\n{prompt}".encode()).hexdigest()[:16])


def parse_score(answer: str) -> int | None:
    """The integer that an answer consists of; None for anything else, such as 85/100, 8.5 or a sentence."""
    text = answer.strip()
    return int(text) if re.fullmatch(r"[0-9]{1,3}", text, re.ASCII) and int(text) <= 100 else None


def estimate(questions: Sequence[Question], repeats: int) -> tuple[int, int]:
    """About how many tokens go in and come out, at four characters a token."""
    read = sum(len(question.prompt) for question in questions) * repeats // CHARACTERS_A_TOKEN
    return read, len(questions) * repeats * ANSWER_TOKENS


class Answers:
    """A file of answers, one line each, that is only ever added to; a line cut by a kill is asked for again.

    Raises:
        UserError: the file has answers about other texts, or from another model.
    """

    def __init__(self, path: str | Path, questions: Sequence[Question]) -> None:
        self.path = Path(path)
        self.scores: dict[tuple[int, int], int | None] = {}
        self._read(questions)

    def add(self, index: int, repeat: int, digest: str, answer: str) -> None:
        """Keeps one answer; it is on the disk when this returns."""
        score = parse_score(answer)
        line = {"index": index, "repeat": repeat, "question": digest, "score": score, "answer": answer[:200]}
        add_line(self.path, line)
        self.scores[index, repeat] = score

    def missing(self, n: int, repeats: int) -> Iterator[tuple[int, int]]:
        """(index, repeat) of what has not been answered, all texts once before any twice."""
        return (
            (index, repeat) for repeat in range(repeats) for index in range(n) if (index, repeat) not in self.scores
        )

    def summary(self, n: int, repeats: int) -> dict[str, Any]:
        """Mean over the texts of each text's mean; standard deviations of these and, on average, within a text."""
        kept = [[self.scores[i, k] for k in range(repeats) if self.scores.get((i, k)) is not None] for i in range(n)]
        texts = [[score for score in scores if score is not None] for scores in kept if scores]
        means = [statistics.fmean(scores) for scores in texts]
        within = [statistics.stdev(scores) for scores in texts if len(scores) > 1]
        return {
            "score": statistics.fmean(means) if means else None,
            "sd_between_texts": statistics.stdev(means) if len(means) > 1 else None,
            "mean_sd_within_a_text": statistics.fmean(within) if within else None,
            "texts": len(means),
            "repeats": repeats,
            "answers_that_are_no_score": sum(score is None for score in self.scores.values()),
        }

    def _read(self, questions: Sequence[Question]) -> None:
        for number, line in enumerate(whole_lines(self.path), start=1):
            try:
                found = json.loads(line)
                index, repeat, digest, score = (found[name] for name in ("index", "repeat", "question", "score"))
                numbers = (index, repeat, 0 if score is None else score)
                if not all(type(number) is int for number in numbers):
                    raise TypeError
            except (ValueError, LookupError, TypeError, RecursionError):
                raise UserError(f"{self.path} line {number}: not an answer of this program") from None
            if not 0 <= index < len(questions) or questions[index].digest != digest:
                raise UserError(f"{self.path} line {number}: about another text or by another model; name another file")
            self.scores[index, repeat] = score


def _asked(fields: dict[str, Any]) -> str | None:
    if isinstance(fields.get("instruction"), str):
        return alpaca_prompt(fields["instruction"], fields.get("input") or "", chat=True)
    if isinstance(fields.get("messages"), list):
        turns = [turn for turn in fields["messages"] if isinstance(turn, dict) and turn.get("role") != "assistant"]
        return "\n".join(str(turn.get("content")) for turn in turns) or None
    return next((fields[name] for name in ("prompt", "context") if isinstance(fields.get(name), str)), None)
