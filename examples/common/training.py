"""What the programs around transformers' Trainer share: its arguments on any machine, and how their flags are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import HfArgumentParser, TrainingArguments

from examples.common.errors import UserError, warn
from examples.common.fsdp import check_flags
from examples.common.record import SLOW_BFLOAT16, computes_bfloat16


@dataclass
class CheckedTrainingArguments(TrainingArguments):
    """Transformers' arguments, of a run that has something to do and a place for it."""

    def __post_init__(self) -> None:
        if self.output_dir is None:
            raise UserError("--output_dir is missing")
        if not (self.do_train or self.do_eval or self.do_predict):
            raise UserError("nothing to do: give --do_train, --do_eval or --do_predict")
        if not torch.accelerator.is_available():
            self.use_cpu = True  # without it, processes on a CPU would each train alone
        super().__post_init__()


def parse_flags(parser: HfArgumentParser, argv: Sequence[str] | None) -> tuple[Any, ...]:
    """The dataclasses of a parser, the last one ``CheckedTrainingArguments``.

    Raises:
        UserError: an unknown flag, or values that do not go together or not with this machine.
    """
    try:
        found = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    except (ValueError, ImportError) as error:  # how transformers refuses values
        raise UserError(str(error)) from None
    except OverflowError:  # it makes integers of them
        raise UserError("--logging_steps, --eval_steps and --save_steps must be finite") from None
    training = found[-1]
    if training.device.type == "cpu":
        if training.fp16:
            raise UserError("--fp16 needs a GPU; leave it out (--bf16 works on newer CPUs)")
        if training.bf16 and not computes_bfloat16():
            warn(f"--bf16: {SLOW_BFLOAT16}")
    check_flags(training)
    return found
