"""The flags of ``run_clm.py`` with all that transformers' training arguments do, checked."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from clm.flags import DataArguments, ModelArguments, TrainingFlags, build_parser
from clm.tasks import TASKS
from examples.common.errors import UserError
from examples.common.training import CheckedTrainingArguments, parse_flags


@dataclass
class ClmTrainingArguments(TrainingFlags, CheckedTrainingArguments):  # type: ignore[misc]  # report_to is a list here
    """Transformers' arguments, and early stopping."""

    def __post_init__(self) -> None:
        if self.early_stopping_patience is not None:
            if self.early_stopping_patience < 1:
                raise UserError(f"--early_stopping_patience must be at least 1, got {self.early_stopping_patience}")
            self.load_best_model_at_end = True
            self.restore_callback_states_from_checkpoint = True  # how often the figure was no better so far
        if self.load_best_model_at_end:
            if self.eval_strategy == "no":
                raise UserError("the best weights are known from evaluations: give --eval_strategy steps or epoch")
            self.metric_for_best_model = (self.metric_for_best_model or "loss").removeprefix("eval_")
            if self.greater_is_better is None:
                self.greater_is_better = self.metric_for_best_model not in ("loss", "perplexity")
            if self.save_strategy != "best":  # transformers wants both equal; so nobody needs to say it twice
                self.save_strategy = self.eval_strategy
            if self.eval_strategy == "steps":  # weights that are not saved when they are evaluated cannot be restored
                self.save_steps = self.eval_steps or self.logging_steps
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # every trained parameter is used in every step
        super().__post_init__()


def parse(argv: Sequence[str] | None = None) -> tuple[ModelArguments, DataArguments, ClmTrainingArguments]:
    """Parses and checks.

    Raises:
        UserError: an unknown flag, or values that do not go together.
    """
    model, data, training = parse_flags(build_parser(ClmTrainingArguments), sys.argv[1:] if argv is None else argv)
    needed = {
        "train_file": training.do_train,
        "validation_file": training.do_eval or training.eval_strategy != "no",
        "test_file": training.do_predict,
    }
    for name, is_needed in needed.items():
        if is_needed and not getattr(data, name):
            raise UserError(f"--{name} is missing")
    if training.do_predict and data.task in ("sft", "lm"):
        raise UserError(f"--do_predict labels texts (cls, cloze); for --task {data.task} use generate.py")
    if training.fsdp and (model.train_added_tokens or model.load_in_4bit):
        raise UserError("--fsdp goes neither with --train_added_tokens nor with --load_in_4bit")
    known = TASKS[data.task].figures
    if training.load_best_model_at_end and training.metric_for_best_model not in known:
        raise UserError(f"--metric_for_best_model {training.metric_for_best_model}: expected one of {', '.join(known)}")
    return model, data, training
