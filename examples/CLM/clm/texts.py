"""From the fields of a row to what a model reads: prompt and response, a chat, a text, a text and its label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from clm.sources import Row
from examples.common.errors import UserError, warn

RESPONSES = {"prompt": "response", "context": "completion", "instruction": "output"}
TEXTS = ("text", "sentence")
ROLES = ("system", "user", "assistant")

# Alpaca's prompt (Taori et al. 2023), the field Input only where a row has one.
_ALPACA = (
    "Below is an instruction that describes a task{paired}. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n{input}### Response:\n"
)


@dataclass(frozen=True)
class Dialogue:
    """Turns of a chat, or one prompt and its response; ``response`` is None where the model is to write it."""

    where: str
    prompt: str = ""
    response: str | None = None
    messages: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True)
class Labelled:
    """A text and the name of its label; None for a text without one."""

    where: str
    text: str
    label: str | None


def dialogue(row: Row, *, separator: str = "\n", chat: bool = False, needs_response: bool = True) -> Dialogue:
    """The dialogue of a row that has ``messages``, ``prompt``, ``context`` or Alpaca's ``instruction``.

    Args:
        separator: put behind a prompt that does not end in white space.
        chat: make messages of prompt and response.
        needs_response: whether a row without one is an error.

    Raises:
        UserError: fields that are missing or no texts.
    """
    fields = row.fields
    if "messages" in fields:
        return Dialogue(row.where, messages=_messages(row, needs_response))
    prompt_name = next((name for name in RESPONSES if name in fields), None)
    if prompt_name is None:
        expected = "messages, prompt and response, context and completion, or instruction and output"
        raise UserError(f"{row.where}: expected {expected}; found {', '.join(fields) or 'nothing'}")
    prompt, response_name = _text(row, prompt_name), RESPONSES[prompt_name]
    if prompt_name == "instruction":
        prompt = alpaca_prompt(prompt, fields.get("input") or "", chat)
    response = _text(row, response_name) if needs_response or response_name in fields else None
    if response is not None and not response.strip():
        raise UserError(f"{row.where}: {response_name} is empty")
    if chat:
        turns = [{"role": "user", "content": prompt}]
        turns += [{"role": "assistant", "content": response}] if response is not None else []
        return Dialogue(row.where, messages=tuple(turns))
    if prompt and not prompt[-1].isspace():
        prompt += separator
    return Dialogue(row.where, prompt, response)


def alpaca_prompt(instruction: str, input: str = "", chat: bool = False) -> str:
    """Alpaca's prompt; for a chat model the instruction alone, and the input below it."""
    if chat:
        return f"{instruction}\n\n{input}" if input else instruction
    paired = ", paired with an input that provides further context" if input else ""
    return _ALPACA.format(paired=paired, instruction=instruction, input=f"### Input:\n{input}\n\n" if input else "")


def plain_text(row: Row, column: str | None = None) -> str:
    """The text of a row of ``--task lm``."""
    return _text(row, column or _first(row, TEXTS))


def labelled(
    rows: Sequence[Row],
    *,
    template: str,
    text_column: str | None,
    label_column: str | None,
    lowercase: bool = False,
    needs_label: bool = True,
) -> list[Labelled]:
    """Texts and labels; rows of a table whose label or text is an empty cell are left out, counted and named.

    Raises:
        UserError: a field that is missing, or no row that is complete.
    """
    names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    found, left_out = [], []
    for row in rows:
        fields = dict(row.fields)
        if "text" in names and "text" not in fields:
            fields["text"] = fields.get(text_column or _first(row, TEXTS))
        label_name = label_column or "label"
        for name in [*names, *([label_name] if needs_label else [])]:
            if name not in fields:
                raise UserError(f"{row.where}: field {name!r} is missing; found {', '.join(row.fields)}")
        label = fields.get(label_name) if needs_label else None
        if any(fields[name] in ("", None) for name in names) or (needs_label and label in ("", None)):
            left_out.append(row.where)
            continue
        text = template.format(**{name: str(fields[name]).strip() for name in names})
        found.append(Labelled(row.where, text.lower() if lowercase else text, None if label is None else str(label)))
    if left_out:
        more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
        warn(f"{len(left_out)} rows lack a text or a label and are left out: {', '.join(left_out[:5])}{more}")
    if not found:
        raise UserError(f"{rows[0].where} and all others lack a text or a label")
    return found


def label_names(examples: Sequence[Labelled]) -> tuple[str, ...]:
    """The labels that occur, numbers by size and names by the alphabet."""
    names = {example.label for example in examples if example.label is not None}
    try:
        return tuple(sorted(names, key=float))
    except ValueError:
        return tuple(sorted(names))


def _messages(row: Row, needs_response: bool) -> tuple[dict[str, str], ...]:
    turns = row.fields["messages"]
    if not isinstance(turns, list) or not turns:
        raise UserError(f"{row.where}: messages must be a list of turns with role and content")
    for number, turn in enumerate(turns, start=1):
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if role not in ROLES or not isinstance(content, str):
            raise UserError(f"{row.where}: turn {number} needs a role ({', '.join(ROLES)}) and a content that is text")
    if needs_response and not any(turn["role"] == "assistant" for turn in turns):
        raise UserError(f"{row.where}: no turn of the assistant, hence nothing to learn")
    return tuple({"role": turn["role"], "content": turn["content"]} for turn in turns)


def _first(row: Row, names: Sequence[str]) -> str:
    name = next((name for name in names if name in row.fields), None)
    if name is None:
        raise UserError(f"{row.where}: field {names[0]!r} is missing; found {', '.join(row.fields)}")
    return name


def _text(row: Row, name: str) -> str:
    value: Any = row.fields.get(name)
    if not isinstance(value, str):
        found = f"found {', '.join(row.fields)}" if name not in row.fields else f"it is {type(value).__name__}"
        raise UserError(f"{row.where}: field {name!r} must be a text; {found}")
    return value
