"""Token ids and labels of an example, cut to the length limit; what counts in the loss is decided here.

``labels[t]`` is the token at t where it counts and -100 elsewhere; a model predicts it from the tokens before t. The
first token of a text is never counted, since nothing stands before it; the end token always is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from transformers import PreTrainedTokenizerBase

from clm.texts import Dialogue, Labelled
from examples.common.errors import UserError, warn

IGNORED = -100
Feature: TypeAlias = dict[str, list[int]]


class Tokens:
    """Makes features with one tokenizer and one length limit, and counts what it had to cut.

    Args:
        tokenizer: has an end token.
        max_length: most tokens of a row.
        fill: fill the rows of language models up to that length with end tokens, which count as well.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, fill: bool = False) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.fill = fill
        self.eos: int = tokenizer.eos_token_id
        self.cut = 0

    def of_dialogue(self, example: Dialogue, loss_on_prompt: bool = False) -> Feature:
        """Prompt, response and end token; the last two count. Of a chat, every turn of the assistant counts.

        Raises:
            UserError: the prompt leaves no room for a response.
        """
        if example.messages:
            ids, labels = self._chat(example)
        else:
            prompt = self.start(example.prompt)
            response = [*self._ids(example.response or ""), self.eos]
            ids, labels = prompt + response, [IGNORED] * len(prompt) + response
        first = next(index for index, label in enumerate(labels) if label != IGNORED)
        if first >= self.max_length:
            raise UserError(
                f"{example.where}: the prompt has {first} tokens and leaves no room for a response within "
                f"{self.max_length}; raise --max_seq_length or shorten it"
            )
        return self._feature(ids, ids if loss_on_prompt else labels)

    def of_text(self, text: str, where: str) -> list[Feature]:
        """A whole text with its end token; one that is longer than the limit gives several features, none left out."""
        ids = [*self.start(text), self.eos]
        if len(ids) < 2:
            raise UserError(f"{where}: the text is empty")
        # each part but the first begins with the last token of the one before, which is counted there
        step = self.max_length - 1
        parts = [ids[begin : begin + self.max_length] for begin in range(0, max(1, len(ids) - 1), step)]
        return [self._feature(part, part) for part in parts]

    def of_label(self, example: Labelled, labels: Sequence[str], keep_end: bool) -> Feature:
        """A text and the number of its label, behind a place that Trainer would skip in counting: [-100, number].

        Args:
            keep_end: whether a text that is too long loses its start (the end asks the question) or its end.

        Raises:
            UserError: a label that is none of ``labels``, or a text without tokens.
        """
        ids = self.start(example.text)
        if not ids:
            raise UserError(f"{example.where}: the text has no tokens")
        if len(ids) > self.max_length:
            self.cut += 1
            ids = ids[-self.max_length :] if keep_end else ids[: self.max_length]
        if example.label is None:
            return {"input_ids": ids}
        if example.label not in labels:
            raise UserError(f"{example.where}: unknown label {example.label!r}, expected one of {', '.join(labels)}")
        return {"input_ids": ids, "labels": [IGNORED, labels.index(example.label)]}

    def start(self, text: str) -> list[int]:
        """Ids of a text with what the tokenizer puts before it (a start token), but no end token."""
        ids = list(self.tokenizer(text)["input_ids"])
        while ids and ids[-1] == self.eos and not text.endswith(str(self.tokenizer.eos_token)):
            ids.pop()
        return ids

    def prompt_of(self, example: Dialogue) -> list[int]:
        """Ids that a model continues: the prompt, or the chat up to the start of the assistant's next turn."""
        messages = list(example.messages)
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        return self._template(messages, True) if messages else self.start(example.prompt)

    def report(self, split: str) -> None:
        """Says how many rows were cut, and counts anew."""
        if self.cut:
            warn(f"{split}: {self.cut} rows are longer than {self.max_length} tokens and were cut")
        self.cut = 0

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _feature(self, ids: list[int], labels: list[int]) -> Feature:
        if len(ids) > self.max_length:
            self.cut += 1
            ids, labels = ids[: self.max_length], labels[: self.max_length]
        if self.fill:
            padding = [self.eos] * (self.max_length - len(ids))
            ids, labels = ids + padding, labels + padding
        return {"input_ids": ids, "labels": [IGNORED, *labels[1:]]}

    def _template(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool) -> list[int]:
        try:
            found: Any = self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=add_generation_prompt, return_dict=False
            )
        except Exception as error:  # a template is a program and may raise anything
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"the tokenizer's chat template does not take these messages: {reason}") from None
        return list(found)

    def _chat(self, example: Dialogue) -> tuple[list[int], list[int]]:
        """Ids of the whole chat; in the labels the assistant's turns, each up to its end token."""
        ids = self._template(example.messages, False)
        labels = [IGNORED] * len(ids)
        for number, turn in enumerate(example.messages):
            if turn["role"] != "assistant":
                continue
            before = self._template(example.messages[:number], True)
            until = self._template(example.messages[: number + 1], False)
            if ids[: len(before)] != before or ids[: len(until)] != until:
                raise UserError(
                    f"{example.where}: the chat template rewrites earlier turns, so they cannot be told apart"
                )
            end = until.index(self.eos, len(before)) + 1 if self.eos in until[len(before) :] else len(until)
            labels[len(before) : end] = ids[len(before) : end]
        if example.messages[-1]["role"] == "assistant" and self.eos not in ids[len(before) :]:
            ids, labels = [*ids, self.eos], [*labels, self.eos]  # the template marks no end
        return ids, labels


def pack(features: Sequence[Feature], max_length: int) -> list[Feature]:
    """Puts features into rows of at most ``max_length`` tokens, each into the first of the last 100 rows with room.

    Returns:
        Features with ``position_ids``, which start at 0 for each example: by them attention is kept apart.
    """
    rows: list[Feature] = []
    open_rows: list[Feature] = []
    for feature in features:
        n = len(feature["input_ids"])
        row = next((row for row in open_rows if len(row["input_ids"]) + n <= max_length), None)
        if row is None:
            row = {"input_ids": [], "labels": [], "position_ids": []}
            rows.append(row)
            open_rows = [*open_rows[-99:], row]
        row["input_ids"] += feature["input_ids"]
        row["labels"] += feature["labels"]
        row["position_ids"] += range(n)
    return rows
