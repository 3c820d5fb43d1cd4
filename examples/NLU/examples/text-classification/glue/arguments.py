"""The flags of ``run_glue.py`` with all that transformers' training arguments do, checked."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from examples.common.errors import UserError
from examples.common.training import CheckedTrainingArguments, parse_flags
from glue.flags import DataArguments, ModelArguments, TrainingFlags, build_parser


@dataclass
class GlueTrainingArguments(TrainingFlags, CheckedTrainingArguments):  # type: ignore[misc]  # report_to is a list here
    """Transformers' arguments, and those of 2021 that it no longer has."""

    def __post_init__(self) -> None:
        if self.logging_dir:
            os.environ["TENSORBOARD_LOGGING_DIR"] = self.logging_dir
            if self.report_to == ["none"]:
                self.report_to = ["tensorboard"]
        super().__post_init__()


def parse(argv: Sequence[str] | None = None) -> tuple[ModelArguments, DataArguments, GlueTrainingArguments]:
    """Parses and checks.

    Raises:
        UserError: an unknown flag, or values that do not go together.
    """
    model, data, training = parse_flags(build_parser(GlueTrainingArguments), argv)
    if training.fsdp and training.export_merged:
        raise UserError("--export_merged in a run with --fsdp: run again with --do_eval --lora_path, without --fsdp")
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
