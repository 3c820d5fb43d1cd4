"""All flags of ``run_glue.py``: those for model and data, and transformers' training arguments."""

# No `from __future__ import annotations`: transformers' parser reads the types of these fields.

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.training_args import ParallelMode

from examples.common.errors import UserError
from glue.flags import DataArguments, HelpPage, ModelArguments, flag
from glue.flags_2021 import modernise


@dataclass
class GlueTrainingArguments(TrainingArguments):
    """Transformers' arguments, and those of 2021 that it no longer has."""

    optim: str = flag("adamw_torch", "optimizer")
    report_to: list[str] = field(
        default_factory=lambda: ["none"], metadata={"help": "one or more of tensorboard, wandb, ...; all; none"}
    )
    cls_dropout: float | None = flag(None, "dropout before DeBERTa-v2's classifier")
    use_deterministic_algorithms: bool = flag(False, "torch.use_deterministic_algorithms")
    overwrite_output_dir: bool = flag(False, "start anew in a folder that is not empty")
    logging_dir: str | None = flag(None, "folder of TensorBoard's logs")
    save_full_model: bool = flag(False, "also save base + LoRA + head in each checkpoint, as released")
    export_merged: str | None = flag(None, "folder for a stock transformers model with LoRA merged in")

    def __post_init__(self) -> None:
        if self.output_dir is None:
            raise UserError("--output_dir is missing")
        if self.logging_dir:
            os.environ["TENSORBOARD_LOGGING_DIR"] = self.logging_dir
            if self.report_to == ["none"]:
                self.report_to = ["tensorboard"]
        if not (self.do_train or self.do_eval or self.do_predict):
            raise UserError("nothing to do: give --do_train, --do_eval or --do_predict")
        if not torch.accelerator.is_available():
            self.use_cpu = True  # without it, processes on a CPU would each train alone
        super().__post_init__()


class GlueParser(HfArgumentParser):
    """Takes names of 2021, or one JSON file instead of flags; a wrong flag is a ``UserError``."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        return super().parse_known_args(modernise(sys.argv[1:] if args is None else args), namespace)

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def build_parser() -> GlueParser:
    """Parser of all flags."""
    kinds: Any = (ModelArguments, DataArguments, GlueTrainingArguments)
    parser = GlueParser(kinds, description="GLUE with LoRA", formatter_class=HelpPage, usage="run_glue.py FLAGS")
    parser.add_argument("--help-all", "--help_all", action="help", help="this list")
    for action in parser._actions:
        if action.choices:  # argparse prints them in one line, of up to 400 columns
            action.metavar = "VALUE"
            action.help = f"{action.help or ''} (one of {', '.join(map(str, action.choices))})"
    return parser


def parse(argv: Sequence[str] | None = None) -> tuple[ModelArguments, DataArguments, GlueTrainingArguments]:
    """Parses and checks.

    Raises:
        UserError: an unknown flag, or values that do not go together.
    """
    try:
        model, data, training = build_parser().parse_args_into_dataclasses(argv, look_for_args_file=False)
    except (ValueError, ImportError) as error:  # how transformers refuses values
        raise UserError(str(error)) from None
    if training.fp16 and training.device.type == "cpu":
        raise UserError("--fp16 needs a GPU; leave it out (--bf16 works on newer CPUs)")
    if training.fsdp:
        if training.parallel_mode != ParallelMode.DISTRIBUTED:
            raise UserError("--fsdp spreads the weights over processes: start them with torchrun")
        if not training.do_train:
            raise UserError("--fsdp is for training; evaluate what it saved without it")
        if training.export_merged:
            raise UserError(
                "--export_merged in a run with --fsdp: run again with --do_eval --lora_path, without --fsdp"
            )
    if training.do_train and data.files and "train" not in data.files:
        raise UserError("--do_train needs --train_file")
    evaluates = training.do_eval or training.eval_strategy != "no"
    if evaluates and data.files and "validation" not in data.files:
        raise UserError("--do_eval and --evaluation_strategy need --validation_file")
    if training.do_predict and data.files and "test" not in data.files:
        raise UserError("--do_predict needs --test_file")
    if training.export_merged and (model.apply_adapter or not model.apply_lora):
        raise UserError("--export_merged needs --apply_lora and cannot merge adapters")
    return model, data, training
