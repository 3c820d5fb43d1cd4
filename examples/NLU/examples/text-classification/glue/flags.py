"""Flags for model and data, and a help page of what most runs need; neither imports torch or transformers.

``--help`` answers at once; ``--help-all`` lists every flag, with the hundred of transformers' Trainer.
"""

# No `from __future__ import annotations`: transformers' parser reads the types of these fields.

import argparse
import sys
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from examples.common.errors import UserError, need_docstrings, run_main
from glue.tasks import find_task

WIDTH = 100
# of the Trainer's flags, those that the recipes set or that people ask for: (value, what it says)
TRAINING = {
    "output_dir": ("DIR", "where everything is written"),
    "do_train": ("", "train"),
    "do_eval": ("", "score the validation split"),
    "do_predict": ("", "label the test split"),
    "per_device_train_batch_size": ("N", "examples on a device at once (default: 8)"),
    "gradient_accumulation_steps": ("N", "batches of one optimiser step (default: 1)"),
    "learning_rate": ("RATE", "highest rate, of AdamW with a linear schedule (default: 5e-5)"),
    "num_train_epochs": ("N", "passes over the training split (default: 3)"),
    "max_steps": ("N", "optimiser steps instead"),
    "warmup_ratio": ("SHARE", "share of the steps in which the rate rises; or --warmup_steps"),
    "weight_decay": ("X", "(default: 0)"),
    "seed": ("N", "(default: 42)"),
    "evaluation_strategy": ("WHEN", "evaluate in training: no, steps (--eval_steps) or epoch"),
    "save_strategy": ("WHEN", "checkpoints: no, steps (--save_steps) or epoch; a stopped run goes on from the last"),
    "overwrite_output_dir": ("", "start anew in a folder that is not empty"),
    "cls_dropout": ("P", "dropout before DeBERTa-v2's classifier"),
    "use_deterministic_algorithms": ("", "torch.use_deterministic_algorithms"),
    "fp16": ("", "half precision on GPUs; --bf16 on newer CPUs too"),
    "save_full_model": ("", "also save base + LoRA + head in each checkpoint, as released"),
    "export_merged": ("DIR", "a stock transformers model with LoRA merged in"),
}


def flag(default: Any, help: str) -> Any:
    """A field of a dataclass of flags."""
    return field(default=default, metadata={"help": help})


@dataclass
class ModelArguments:
    """Which model, and what of it is trained."""

    model_name_or_path: str = field(metadata={"help": "base model: folder or name on the hub"})
    config_name: str | None = flag(None, "config, if not that of the model")
    tokenizer_name: str | None = flag(None, "tokenizer, if not that of the model")
    cache_dir: str | None = flag(None, "where downloads are kept")
    use_fast_tokenizer: bool = flag(True, "use the Rust tokenizer")
    model_revision: str = flag("main", "branch, tag or commit on the hub")
    use_auth_token: bool = flag(False, "use the token of the hub's login")
    apply_lora: bool = flag(False, "LoRA on query and value projections")
    lora_alpha: float | None = flag(None, "the update is scaled by lora_alpha / lora_r")
    lora_r: int | None = flag(None, "rank")
    lora_path: str | None = flag(None, "LoRA and head to start from: file, or folder of a run")
    apply_adapter: bool = flag(False, "adapters in every layer (RoBERTa)")
    adapter_path: str | None = flag(
        None, "adapters or biases, and head, to start from: folder of a run or of the adapter hub"
    )
    adapter_type: str = flag("houlsby", "houlsby or pfeiffer")
    adapter_size: int = flag(64, "bottleneck features, as 8, 16, 32, 64")
    apply_bitfit: bool = flag(False, "train the biases")
    reg_loss_wgt: float = flag(0.0, "weight of the consistency loss (R-Drop; cutoff with --masking_prob)")
    masking_prob: float = flag(0.0, "probability of cutting a token in the second pass")

    def __post_init__(self) -> None:
        if self.lora_path and not self.apply_lora:
            raise UserError("--lora_path has an effect only with --apply_lora")
        if self.adapter_path and not (self.apply_adapter or self.apply_bitfit):
            raise UserError("--adapter_path has an effect only with --apply_adapter or --apply_bitfit")


@dataclass
class DataArguments:
    """Which examples: a GLUE task from the hub or from ``--data_dir``, or files of one's own."""

    task_name: str | None = flag(None, "cola, mnli, mrpc, qnli, qqp, rte, sst2, stsb or wnli")
    data_dir: str | None = flag(None, "folder of the official GLUE download (TSV); default: the hub")
    max_seq_length: int = flag(128, "tokens; longer examples are truncated")
    pad_to_max_length: bool = flag(False, "pad to --max_seq_length as in 2021, instead of to the batch; same results")
    max_train_samples: int | None = flag(None, "use only the first examples")
    max_val_samples: int | None = flag(None, "use only the first examples, of each validation split")
    max_test_samples: int | None = flag(None, "use only the first examples, of each test split")
    train_file: str | None = flag(None, "CSV, TSV or JSON lines")
    validation_file: str | None = flag(None, "CSV, TSV or JSON lines")
    test_file: str | None = flag(None, "CSV, TSV or JSON lines")

    def __post_init__(self) -> None:
        if self.task_name is not None:
            self.task_name = find_task(self.task_name).name
        if self.task_name is None and not self.files:
            raise UserError("give --task_name, or --train_file and --validation_file")
        if self.data_dir and self.files:
            raise UserError("--data_dir and --train_file/--validation_file/--test_file exclude each other")
        if self.data_dir and self.task_name is None:
            raise UserError("--data_dir needs --task_name")
        for name in ("max_train_samples", "max_val_samples", "max_test_samples"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if self.max_seq_length < 3:
            raise UserError(f"--max_seq_length must be at least 3, got {self.max_seq_length}")

    @property
    def files(self) -> dict[str, str]:
        """Given files by split."""
        given = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        return {split: path for split, path in given.items() if path}


class HelpPage(argparse.HelpFormatter):
    """A help page of ``WIDTH`` columns, whatever the terminal's; a flag with a value under its first name alone."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=WIDTH, max_help_position=32)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{action.option_strings[0]} {self._format_args(action, 'VALUE')}"


def short_help() -> argparse.ArgumentParser:
    """A parser that knows nothing but its help page."""
    parser = argparse.ArgumentParser(
        prog="run_glue.py",
        usage="run_glue.py FLAGS, or run_glue.py FLAGS.json",
        description="Fine-tunes RoBERTa, DeBERTa-v2 or GPT-2 on GLUE: LoRA, adapters, BitFit or all weights.",
        formatter_class=HelpPage,
    )
    parser.add_argument("--help-all", action="store_true", help="every flag, with those of transformers' Trainer")
    for title, kind in (("model", ModelArguments), ("data", DataArguments)):
        group = parser.add_argument_group(title)
        for item in fields(kind):
            known = "" if item.default in (None, MISSING, False) else f" (default: {item.default})"
            _add(group, item.name, "" if item.type is bool else "VALUE", item.metadata["help"] + known)
    group = parser.add_argument_group("training")
    for name, (value, text) in TRAINING.items():
        _add(group, name, value, text)
    return parser


def _add(group: Any, name: str, value: str, text: str) -> None:
    options: dict[str, Any] = {"metavar": value} if value else {"action": "store_true"}
    group.add_argument(f"--{name}", help=text, **options)


def answer_help(argv: Sequence[str]) -> None:
    """Prints the short help and ends the program where it is asked for, or where transformers cannot be imported."""
    if {"-h", "--help"} & {*argv}:
        short_help().print_help()
        sys.exit(0)
    if sys.flags.optimize > 1:
        run_main(need_docstrings)
