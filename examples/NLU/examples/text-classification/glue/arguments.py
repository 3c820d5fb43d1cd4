"""The flags of ``run_glue.py``: transformers' training arguments, and the 2021 ones for model and data."""

# No `from __future__ import annotations`: transformers' parser reads the types of these fields.

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.training_args import ParallelMode

from glue.cli import UserError
from glue.flags_2021 import modernise
from glue.tasks import find_task


def _flag(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class ModelArguments:
    """Which model, and what of it is trained."""

    model_name_or_path: str = field(metadata={"help": "base model: folder or name on the hub"})
    config_name: str | None = _flag(None, "config, if not that of the model")
    tokenizer_name: str | None = _flag(None, "tokenizer, if not that of the model")
    cache_dir: str | None = _flag(None, "where downloads are kept")
    use_fast_tokenizer: bool = _flag(True, "use the Rust tokenizer")
    model_revision: str = _flag("main", "branch, tag or commit on the hub")
    use_auth_token: bool = _flag(False, "use the token of the hub's login")
    apply_lora: bool = _flag(False, "LoRA on query and value projections")
    lora_alpha: float | None = _flag(None, "the update is scaled by lora_alpha / lora_r")
    lora_r: int | None = _flag(None, "rank")
    lora_path: str | None = _flag(None, "LoRA and head to start from: file, or folder of a run")
    apply_adapter: bool = _flag(False, "adapters in every layer (RoBERTa)")
    adapter_path: str | None = _flag(
        None, "adapters or biases, and head, to start from: folder of a run or of the adapter hub"
    )
    adapter_type: str = _flag("houlsby", "houlsby or pfeiffer")
    adapter_size: int = _flag(64, "bottleneck features, as 8, 16, 32, 64")
    apply_bitfit: bool = _flag(False, "train the biases")
    reg_loss_wgt: float = _flag(0.0, "weight of the consistency loss (R-Drop; cutoff with --masking_prob)")
    masking_prob: float = _flag(0.0, "probability of cutting a token in the second pass")

    def __post_init__(self) -> None:
        if self.lora_path and not self.apply_lora:
            raise UserError("--lora_path has an effect only with --apply_lora")
        if self.adapter_path and not (self.apply_adapter or self.apply_bitfit):
            raise UserError("--adapter_path has an effect only with --apply_adapter or --apply_bitfit")


@dataclass
class DataArguments:
    """Which examples: a GLUE task from the hub or from ``--data_dir``, or files of one's own."""

    task_name: str | None = _flag(None, "cola, mnli, mrpc, qnli, qqp, rte, sst2, stsb or wnli")
    data_dir: str | None = _flag(None, "folder of the official GLUE download (TSV); default: the hub")
    max_seq_length: int = _flag(128, "tokens; longer examples are truncated")
    pad_to_max_length: bool = _flag(False, "pad to --max_seq_length as in 2021, instead of to the batch; same results")
    max_train_samples: int | None = _flag(None, "use only the first examples")
    max_val_samples: int | None = _flag(None, "use only the first examples, of each validation split")
    max_test_samples: int | None = _flag(None, "use only the first examples, of each test split")
    train_file: str | None = _flag(None, "CSV, TSV or JSON lines")
    validation_file: str | None = _flag(None, "CSV, TSV or JSON lines")
    test_file: str | None = _flag(None, "CSV, TSV or JSON lines")

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


@dataclass
class GlueTrainingArguments(TrainingArguments):
    """Transformers' arguments, and those of 2021 that it no longer has."""

    optim: str = _flag("adamw_torch", "optimizer")
    report_to: list[str] = field(
        default_factory=lambda: ["none"], metadata={"help": "one or more of tensorboard, wandb, ...; all; none"}
    )
    cls_dropout: float | None = _flag(None, "dropout before DeBERTa-v2's classifier")
    use_deterministic_algorithms: bool = _flag(False, "torch.use_deterministic_algorithms")
    overwrite_output_dir: bool = _flag(False, "start anew in a folder that is not empty")
    logging_dir: str | None = _flag(None, "folder of TensorBoard's logs")
    save_full_model: bool = _flag(False, "also save base + LoRA + head in each checkpoint, as released")
    export_merged: str | None = _flag(None, "folder for a stock transformers model with LoRA merged in")

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
    return GlueParser((ModelArguments, DataArguments, GlueTrainingArguments), description="GLUE with LoRA")  # type: ignore[arg-type]


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
