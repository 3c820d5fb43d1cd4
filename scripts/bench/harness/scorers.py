"""Scores by the packages that give them, called the straightforward way, one after the other."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from metrics.java import HEAP, LOCALE_FLAGS, find_java
from metrics.meteor import METEOR_JAR, bundled_jar
from metrics.word_tokens import require_package

from examples.common.errors import UserError
from harness.corpora import Corpus

Words = list[list[str]]


def nltk_words(texts: Sequence[str]) -> Words:
    """nltk's words, which its sentence splitter would not change in texts of LoRA's form."""
    from nltk.tokenize import NLTKWordTokenizer

    tokenize = NLTKWordTokenizer().tokenize
    return [tokenize(text) for text in texts]


def pyter_scores(hypotheses: Words, references: Sequence[Words]) -> list[float]:
    """Lowest TER over the references of each item, every reference by pyter3."""
    require_package("pyter")
    import pyter

    return [min(pyter.ter(hypothesis, text) for text in texts) for hypothesis, texts in zip(hypotheses, references)]


def sacrebleu_percent(corpus: Corpus, *, lowercase: bool = False) -> float:
    """BLEU of sacrebleu in percent: 13a, no smoothing; a missing reference is left out."""
    from sacrebleu.metrics import BLEU

    most = max(map(len, corpus.references))
    padded = [[*texts, *[None] * (most - len(texts))] for texts in corpus.references]
    streams = [list(stream) for stream in zip(*padded)]
    bleu = BLEU(smooth_method="none", force=True, lowercase=lowercase)
    return float(bleu.corpus_score(corpus.hypotheses, streams).score)


def nltk_bleu(hypotheses: Words, references: Sequence[Words]) -> float:
    """nltk's ``corpus_bleu`` with smoothing method 3, as WebNLG's evaluation calls it."""
    from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

    return float(corpus_bleu(references, hypotheses, smoothing_function=SmoothingFunction().method3))


def meteor_jar(hypotheses: Words, references: Sequence[Words]) -> float:
    """METEOR's jar in its batch form, a process for the corpus: two files, ``-l en -norm -r N``, the last line read.

    Raises:
        UserError: the jar gave no score.
    """
    n_references = len(references[0])
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "hypotheses", Path(folder) / "references"
        flat = [text for texts in references for text in texts]
        for file, texts in zip(files, (hypotheses, flat)):
            file.write_text("".join(" ".join(words) + "\n" for words in texts), encoding="utf-8")
        command = [find_java(), f"-Xmx{HEAP}", *LOCALE_FLAGS, "-jar", str(bundled_jar(METEOR_JAR)), *map(str, files)]
        command += ["-l", "en", "-norm", "-r", str(n_references)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1:]
    if done.returncode != 0 or not last or not last[0].startswith("Final score:"):
        raise UserError(f"METEOR gave no score: {done.stderr.strip().splitlines()[-1:] or last}")
    return float(last[0].split(":")[1])


def webnlg_scores(corpus: Corpus) -> dict[str, float]:
    """BLEU twice and METEOR of WebNLG's evaluation; TER is ``pyter_scores``, which takes minutes."""
    words, references = nltk_words(corpus.hypotheses), [nltk_words(texts) for texts in corpus.references]
    return {
        "BLEU": sacrebleu_percent(corpus),
        "BLEU NLTK": nltk_bleu(words, references),
        "METEOR": meteor_jar(words, references),
    }
