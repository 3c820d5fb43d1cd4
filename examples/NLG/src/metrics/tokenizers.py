"""The two tokenisations of the E2E scores: mteval-13a for BLEU and NIST, Penn Treebank for the other three."""

from __future__ import annotations

import re
from collections.abc import Sequence

from metrics.java import TIMEOUT_S, JavaError, Jvm, bundled_jar

PTB_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"
# Tokens that the COCO caption scorer removes. The bracket names are upper case there while the tokens are lower
# case, so brackets stay in the text: part of the official figures.
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
SEPARATOR = "x"  # a word that no abbreviation rule knows
# Everything that the PTB lexer takes for the end of a line; each text must stay one line.
LINE_ENDS = re.compile("[\n\r\v\f\x00\u0085\u2028\u2029]")


def tokenize_13a(texts: Sequence[str]) -> list[list[str]]:
    """Tokens of each text by mteval-v13a's rules, lower-cased after tokenising as the E2E challenge does."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenizer = Tokenizer13a()
    return [tokenizer(text).lower().split() for text in texts]


class PtbTokenizer(Jvm):
    """A running Stanford PTB tokeniser, good for one call. Starting it early hides the start of its JVM."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        arguments = ["-cp", str(bundled_jar(PTB_JAR)), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines"]
        super().__init__("PTB tokeniser", [*arguments, "-lowerCase"], timeout_s=timeout_s)

    def tokenize(self, blocks: Sequence[Sequence[str]]) -> list[list[str]]:
        """Lower-cased tokens without punctuation, joined by blanks.

        The lexer looks at the beginning of the next line where a line ends in an abbreviation ("No." before a
        digit), so texts are sent in their own order, none left out, and blocks are kept apart by a line of their
        own: the result is what the official program gets from one call per block.

        Returns:
            As many blocks of as many texts as were given.

        Raises:
            JavaError: a time-out, or an answer of another length.
        """
        lines: list[str] = []
        for block in blocks:
            lines += [LINE_ENDS.sub(" ", text) for text in block]
            lines.append(SEPARATOR)
        answers = iter(self.ask(lines, n_answers=len(lines), last=True))
        result = []
        for block in blocks:
            result.append([_without_punctuation(next(answers)) for _ in block])
            if (line := next(answers).strip()) != SEPARATOR:
                raise JavaError(f"PTB tokeniser: lines are out of step, {line!r} came between two blocks")
        return result


def _without_punctuation(line: str) -> str:
    return " ".join(token for token in line.rstrip().split(" ") if token not in PUNCTUATION)
