"""Which modules of a model a pattern names: whole components of dotted names, never a part of a word."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

ALL_LINEAR = "all-linear"
_HEADS = ("classifier", "score")  # transformers' names for heads that get_output_embeddings does not know
_T = TypeVar("_T")
Pattern = str | re.Pattern[str]
_NAME = re.compile(r"[\w.-]+")


def matches(pattern: Pattern, name: str) -> bool:
    """Whether ``pattern`` is the end of ``name``, or all of it, cut at a dot.

    ``query`` and ``self.query`` match ``layer.0.self.query``, but not ``layer.0.self.query_proj`` or ``myquery``. A
    string with other characters than those of names (letters, digits, ``_``, ``-``, ``.``) is a regular expression for
    such an end: ``layer\\.[0-5]\\..*(query|value)``. PEFT reads the keys of its ``rank_pattern`` in the same way.

    Raises:
        TypeError: neither a string nor a compiled pattern.
        ValueError: empty, or no regular expression.
    """
    compiled = _compiled(pattern)
    starts = [0, *(i + 1 for i, character in enumerate(name) if character == ".")]
    return any(compiled.fullmatch(name, start) for start in starts)


def as_patterns(argument: str, patterns: Pattern | Sequence[Pattern]) -> list[Pattern]:
    """One pattern or several as a list, each checked; ``argument`` is the name for error messages."""
    listed = [patterns] if isinstance(patterns, (str, re.Pattern)) else list(patterns)
    for pattern in listed:
        try:
            _compiled(pattern)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{argument}: {error}") from None
    return listed


def all_linear(model: nn.Module, heads: Sequence[Pattern]) -> list[Pattern]:
    """Patterns for every linear layer of a model but its output head, as PEFT's ``all-linear`` has it.

    The head is what ``get_output_embeddings`` of a transformers model returns, a module of the model called
    ``classifier`` or ``score``, and whatever ``heads`` names. Output projections of ``nn.MultiheadAttention`` stay out,
    since that attention is a target of its own.
    """
    get_output: Any = getattr(model, "get_output_embeddings", None)
    output = get_output() if get_output is not None else None
    names = []
    for name, module in model.named_modules(remove_duplicate=False):
        parts = name.split(".")
        around = [".".join(parts[: i + 1]) for i in range(len(parts))]  # the module and all that contain it
        in_head = parts[0] in _HEADS or any(matches(head, part) for head in heads for part in around)
        in_attention = isinstance(model.get_submodule(".".join(parts[:-1])), nn.MultiheadAttention)
        is_linear = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        if is_linear and module is not output and not in_head and not in_attention:
            names.append(name)
    if not names:
        raise ValueError("the model has no linear layer beside its head")
    return [re.compile(rf"^{re.escape(name)}$") for name in names]


def select(names: Sequence[str], targets: Sequence[Pattern], exclude: Sequence[Pattern]) -> list[str]:
    """The names that a target matches and no exclusion does, in their order.

    Raises:
        ValueError: no targets; a target without a match, or with excluded ones alone; an exclusion that excludes none.
    """
    if not targets:
        raise ValueError("targets is empty; give at least one name, such as 'query'")
    named = {name for target in targets for name in matching(names, target, "target")}
    for pattern in exclude:
        if not any(matches(pattern, name) for name in named):
            raise ValueError(f"exclude={text_of(pattern)!r} matches none of the targets; leave it out or correct it")
    kept = [name for name in names if name in named and not any(matches(pattern, name) for pattern in exclude)]
    for target in targets:
        if not any(matches(target, name) for name in kept):
            raise ValueError(f"target {text_of(target)!r} matches only modules that exclude takes away")
    return kept


def matching(names: Sequence[str], pattern: Pattern, role: str) -> list[str]:
    """The names that a pattern matches.

    Raises:
        ValueError: none; the message begins with ``role`` and lists near names.
    """
    found = [name for name in names if matches(pattern, name)]
    if not found:
        raise ValueError(f"{role} {text_of(pattern)!r} matches no module; {_near(text_of(pattern), names)}")
    return found


def first_match(patterns: Mapping[str, _T] | None, name: str, default: _T) -> _T:
    """Value of the first key that matches ``name``, else ``default``."""
    return next((value for key, value in (patterns or {}).items() if matches(key, name)), default)


def check_keys_are_used(argument: str, patterns: Iterable[str], names: Sequence[str]) -> None:
    """Refuses a key of a per-pattern argument that matches none of the adapted modules, which would hide a typo."""
    for pattern in as_patterns(argument, list(patterns)):
        if not any(matches(pattern, name) for name in names):
            raise ValueError(f"{argument} key {text_of(pattern)!r} matches none of the targets: {listed(names)}")


def text_of(pattern: Pattern) -> str:
    """The pattern as its author wrote it."""
    return pattern if isinstance(pattern, str) else pattern.pattern


def listed(names: Sequence[str], limit: int = 5) -> str:
    """A few names for a message, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _compiled(pattern: Pattern) -> re.Pattern[str]:
    if isinstance(pattern, re.Pattern):
        return pattern
    if not isinstance(pattern, str):
        raise TypeError(f"expected a name or a regular expression, got {pattern!r}")
    if not pattern:
        raise ValueError("an empty name matches no module")
    try:
        return re.compile(re.escape(pattern) if _NAME.fullmatch(pattern) else pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None


def _near(target: str, names: Sequence[str]) -> str:
    size = target.count(".") + 1
    ends = dict.fromkeys(".".join(name.split(".")[-size:]) for name in names if name)
    near = difflib.get_close_matches(target, ends, n=4)
    words = [end for end in dict.fromkeys(name.rpartition(".")[2] for name in names) if end and not end.isdigit()]
    return f"did you mean {', '.join(near)}?" if near else f"the modules are called {listed(words, 20)}"
