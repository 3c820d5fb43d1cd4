"""Flags of programs around transformers' Trainer, whose ``--help`` and wrong flags are answered at once.

transformers takes ten seconds to import its training arguments. Here their names, types and texts are read from its
source, and its parser is loaded by itself, which needs nothing else of the package.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import importlib.util
from collections.abc import Sequence
from dataclasses import field, fields, make_dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from examples.common.errors import UserError
from examples.common.help import HelpFormatter

TRANSFORMERS = Path(importlib.util.find_spec("transformers").submodule_search_locations[0])  # type: ignore
DEFINING = ("training_args", "trainer_utils", "debug_utils")  # modules with the enumerations that flags are of
# of the Trainer's flags, those that ``--help`` shows
USUAL = (
    *("output_dir", "do_train", "do_eval", "do_predict", "per_device_train_batch_size", "per_device_eval_batch_size"),
    *("gradient_accumulation_steps", "learning_rate", "num_train_epochs", "max_steps", "warmup_steps", "weight_decay"),
    *("seed", "eval_strategy", "eval_steps", "save_strategy", "save_steps", "save_total_limit", "fp16", "bf16", "fsdp"),
)

if TYPE_CHECKING:
    from transformers import HfArgumentParser
else:
    _spec = importlib.util.spec_from_file_location("hf_argparser", TRANSFORMERS / "hf_argparser.py")
    _module = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_module)
    HfArgumentParser = _module.HfArgumentParser


def flag(default: Any, help: str) -> Any:
    """A field of a dataclass of flags."""
    return field(default=default, metadata={"help": help})


class HelpPage(HelpFormatter):
    """A flag under its first name alone, with its choices, and its default where that says something."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{action.option_strings[0]} {self._format_args(action, 'VALUE')}"

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Any:
        return lambda size: (default_metavar,) * size

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.choices and "Options" not in text:
            text += f" One of {', '.join(map(str, action.choices))}."
        told = action.default in (None, False, "", argparse.SUPPRESS) or "default" in text
        return text if told else f"{text} (default: %(default)s)"


class _HelpAll(argparse.Action):
    def __call__(self, parser: Any, *_: Any) -> None:
        for action, text in parser.hidden.items():
            action.help = text
        parser.print_help()
        parser.exit()


class TrainerParser(HfArgumentParser):
    """transformers' parser. A wrong flag is a ``UserError``; ``--help`` shows what most runs need.

    Args:
        kinds: dataclasses of a program's own flags, those of the training last.
        training: what the last is to be in fact, a ``TrainingArguments``; None: an outline, to see whether flags are
            right.
        **options: of ``ArgumentParser``.
    """

    def __init__(self, kinds: Sequence[type], training: type | None = None, **options: Any) -> None:
        self.is_outline = training is None
        own = {item.name for kind in kinds for item in fields(kind)}
        last = training or make_dataclass("Outline", [], bases=(kinds[-1], trainer_flags()))
        super().__init__((*kinds[:-1], last), formatter_class=HelpPage, **options)  # type: ignore[arg-type]
        names = {item.name for item in fields(trainer_flags())} - own - {*USUAL}
        self.hidden = {action: action.help for action in self._actions if action.dest in names}
        for action in self.hidden:
            action.help = argparse.SUPPRESS
        nowhere: Any = {"nargs": 0, "dest": argparse.SUPPRESS, "default": argparse.SUPPRESS}
        self.add_argument("--help-all", "--help_all", action=_HelpAll, help="every flag of the Trainer, too", **nowhere)

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


@lru_cache
def trainer_flags() -> type:
    """A dataclass with the fields of ``TrainingArguments``, and none of its behaviour."""
    names = _Names()
    found = []
    for node in names.classes["TrainingArguments"].body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call)):
            continue
        said = {keyword.arg: keyword.value for keyword in node.value.keywords}
        given: Any = said["metadata"]
        metadata = {_literal(name): _literal(value) for name, value in zip(given.keys, given.values)}
        how: dict[str, Any] = {"metadata": {name: value for name, value in metadata.items() if value is not None}}
        how |= {"default_factory": list} if "default_factory" in said else {"default": _literal(said["default"])}
        # the types of transformers' own code, which the program imports later on
        kind = eval(ast.unparse(node.annotation), {"__builtins__": {}}, names)
        found.append((ast.unparse(node.target), kind, field(**how)))
    return make_dataclass("TrainerFlags", found)


class _Names(dict[str, Any]):
    """What names in annotations stand for: types of Python, enumerations of strings, and any other a text."""

    def __init__(self) -> None:
        super().__init__({**vars(builtins), "Any": Any, "Literal": Literal})
        trees = [ast.parse((TRANSFORMERS / f"{name}.py").read_text(encoding="utf-8")) for name in DEFINING]
        self.classes = {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}

    def __missing__(self, name: str) -> type:
        body = self.classes[name].body if name in self.classes else []
        pairs = [(ast.unparse(n.targets[0]), _literal(n.value)) for n in body if isinstance(n, ast.Assign)]
        return Enum(name, pairs) if pairs else str  # type: ignore[return-value]


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:  # something computed
        return None
