"""The four tasks and the ways to train, by name."""

from __future__ import annotations

from dataclasses import dataclass

LANGUAGE = ("loss", "perplexity", "token_accuracy")
CLASSES = ("loss", "accuracy", "f1_macro")


@dataclass(frozen=True)
class Task:
    """What a task is, and the figures of its evaluation, the first of which is the default for the best weights."""

    what: str
    figures: tuple[str, ...]

    def __str__(self) -> str:
        return self.what


TASKS = {
    "sft": Task("prompt to response, loss on the response", LANGUAGE),
    "lm": Task("whole texts", LANGUAGE),
    "cls": Task("a classifier on the hidden state of the last token", CLASSES),
    "cloze": Task("labels as next words of the language model", CLASSES),
}
METHODS = ("lora", "full", "head", "bias", "top2")
