"""Flags for model, data and training under today's names and those of 2021; imports neither torch nor transformers."""

# No `from __future__ import annotations`: transformers' parser reads the types of these fields.

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from examples.common.errors import UserError, warn
from examples.common.trainer_flags import TrainerParser, flag
from glue.flags_2021 import modernise
from glue.tasks import find_task


@dataclass
class ModelArguments:
    """Which model, and what of it is trained."""

    _argument_group_name = "model"

    model_name_or_path: str = field(metadata={"help": "base model: folder or name on the hub"})
    config_name: str | None = flag(None, "config, if not that of the model")
    tokenizer_name: str | None = flag(None, "tokenizer, if not that of the model")
    cache_dir: str | None = flag(None, "where downloads are kept")
    use_fast_tokenizer: bool = flag(True, "use the Rust tokenizer")
    model_revision: str = flag("main", "branch, tag or commit on the hub")
    use_auth_token: bool = flag(False, "use the token of the hub's login")
    apply_lora: bool = flag(False, "LoRA on query and value projections")
    lora_targets: list[str] | None = field(
        default=None, metadata={"help": "LoRA on modules of these names instead, or on all-linear"}
    )
    lora_alpha: float | None = flag(None, "the update is scaled by lora_alpha / lora_r")
    lora_r: int | None = flag(None, "rank")
    lora_path: str | None = flag(None, "LoRA and head to start from: file, or folder of a run")
    apply_adapter: bool = flag(False, "adapters in every layer (BERT, RoBERTa, ELECTRA, DeBERTa)")
    adapter_path: str | None = flag(
        None, "adapters, biases or head alone to start from: folder of a run or of the adapter hub"
    )
    adapter_type: str = flag("houlsby", "houlsby or pfeiffer")
    adapter_size: int = flag(64, "bottleneck features, as 8, 16, 32, 64")
    apply_bitfit: bool = flag(False, "train the biases")
    train_head_only: bool = flag(False, "train the head alone, the base model stays as it is")
    reg_loss_wgt: float = flag(0.0, "weight of the consistency loss (R-Drop; cutoff with --masking_prob)")
    masking_prob: float = flag(0.0, "probability of cutting a token in the second pass")

    def __post_init__(self) -> None:
        for name in ("lora_path", "lora_targets"):
            if getattr(self, name) and not self.apply_lora:
                raise UserError(f"--{name} has an effect only with --apply_lora")
        if self.train_head_only and (self.apply_lora or self.apply_adapter or self.apply_bitfit):
            raise UserError("--train_head_only excludes --apply_lora, --apply_adapter and --apply_bitfit")
        if self.adapter_path and not (self.apply_adapter or self.apply_bitfit or self.train_head_only):
            raise UserError(
                "--adapter_path has an effect only with --apply_adapter, --apply_bitfit or --train_head_only"
            )


@dataclass
class DataArguments:
    """Which examples: a GLUE task from the hub or from ``--data_dir``, or files of one's own."""

    _argument_group_name = "data"

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


@dataclass
class TrainingFlags:
    """What transformers' Trainer does not have, or has with other defaults."""

    _argument_group_name = "training"

    optim: str = flag("adamw_torch", "optimizer")
    report_to: list[str] = field(
        default_factory=lambda: ["none"], metadata={"help": "one or more of tensorboard, wandb, ...; all; none"}
    )
    cls_dropout: float | None = flag(None, "dropout before DeBERTa's classifier")
    use_deterministic_algorithms: bool = flag(False, "torch.use_deterministic_algorithms")
    overwrite_output_dir: bool = flag(False, "start anew in a folder that is not empty")
    logging_dir: str | None = flag(None, "folder of TensorBoard's logs")
    save_full_model: bool = flag(False, "also save base + LoRA + head in each checkpoint, as released")
    export_merged: str | None = flag(None, "folder for a stock transformers model with LoRA merged in")


class GlueParser(TrainerParser):
    """Takes names of 2021, or one JSON file instead of flags."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        words = modernise(sys.argv[1:] if args is None else args, say=(lambda text: None) if self.is_outline else warn)
        return super().parse_known_args(words, namespace)


def build_parser(training: type | None = None) -> GlueParser:
    """Parser of all flags; see ``TrainerParser``."""
    return GlueParser(
        (ModelArguments, DataArguments, TrainingFlags),
        training,
        usage="run_glue.py FLAGS, or run_glue.py FLAGS.json",
        description="Fine-tunes BERT, RoBERTa, DeBERTa and others on GLUE: LoRA, adapters, BitFit or all weights.",
    )
