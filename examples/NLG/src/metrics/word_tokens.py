"""Words as WebNLG's evaluation cuts them: nltk's ``word_tokenize``, or razdel for Russian; nothing is downloaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from examples.common.errors import UserError, warn

LANGUAGES = ("en", "ru")
PUNKT = "tokenizers/punkt_tab/english/"
# Only a full stop is treated in another way at the end of a sentence: there it becomes a word of its own. Where none
# is attached to a word inside the text, cutting into sentences first changes nothing.
INNER_FULL_STOP = re.compile("[^.\\s]\\.[\\])}>\"'»”\u2019]*\\s+\\S")

# Stands in for that model where it is not installed: a sentence ends before a capital, a digit, a quote or a bracket,
# but not after an initial ("J. Smith") or a title.
TITLES = (
    "Mr",
    "Mrs",
    "Ms",
    "Dr",
    "Prof",
    "St",
    "Gen",
    "Col",
    "Capt",
    "Lt",
    "Sgt",
    "Rev",
    "Gov",
    "Sen",
    "Mt",
    "Ft",
    "No",
)
_NO_TITLE = "".join(rf"(?<!\b{title}\.)" for title in TITLES)
SENTENCE_GAP = re.compile(rf"(?<=[.?!])(?<![A-Z]\.){_NO_TITLE}\s+(?=[A-Z0-9\"(])")


def tokenize_words(texts: Sequence[str], *, language: str = "en") -> list[list[str]]:
    """Words of each text.

    Text written by ``gpt2_decode.py --tokenize --lower`` needs no sentence splitter. Other text may; where nltk's
    model for it (punkt_tab) is not installed, such lines are cut by a simple rule, and one warning says so.

    Raises:
        UserError: another language, or its tokeniser is not installed.
    """
    if language == "ru":
        return _tokenize_russian(texts)
    if language != "en":
        raise UserError(f"language {language!r} is unknown; choose one of {', '.join(LANGUAGES)}")
    require_package("nltk")
    from nltk.tokenize import NLTKWordTokenizer

    tokenize = NLTKWordTokenizer().tokenize
    n_inner = sum(bool(INNER_FULL_STOP.search(text)) for text in texts)
    if not n_inner:
        return [tokenize(text) for text in texts]
    split = _sentence_splitter()
    if split is None:
        warn(
            f"{n_inner} of {len(texts)} lines have a full stop inside, where nltk's sentence splitter would decide; "
            "its model punkt_tab is not installed and a simple rule decides instead: BLEU NLTK, METEOR and TER "
            "are not exactly those of the released program"
        )
        split = SENTENCE_GAP.split
    return [
        [word for sentence in split(text) for word in tokenize(sentence)]
        if INNER_FULL_STOP.search(text)
        else tokenize(text)
        for text in texts
    ]


def has_sentence_splitter() -> bool:
    """Whether nltk's model of English sentence ends lies on this machine."""
    return _sentence_splitter() is not None


def require_package(name: str) -> None:
    """Raises a ``UserError`` that says what to install where a package of the scores is missing."""
    if find_spec(name) is None:
        raise UserError(f"the package {name} is not installed; `pip install {name}`")


def _sentence_splitter() -> Callable[[str], list[str]] | None:
    import nltk

    try:
        nltk.data.find(PUNKT)
    except LookupError:
        return None
    from nltk.tokenize import PunktTokenizer

    return PunktTokenizer("english").tokenize


def _tokenize_russian(texts: Sequence[str]) -> list[list[str]]:
    require_package("razdel")
    from razdel import tokenize

    return [[token.text for token in tokenize(text)] for text in texts]
