"""Flags of ``run_clm.py`` for model, data and training; imports neither torch nor transformers."""

# No `from __future__ import annotations`: transformers' parser reads the types of these fields.

from dataclasses import dataclass, field
from typing import Any

from clm.tasks import METHODS, TASKS
from examples.common.errors import UserError
from examples.common.trainer_flags import TrainerParser, flag

DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class ModelArguments:
    """Which model, and what of it is trained."""

    _argument_group_name = "model"

    model_name_or_path: str = flag("gpt2", "base model: folder or name on the hub")
    tokenizer_name: str | None = flag(None, "tokenizer, if not that of the model")
    cache_dir: str | None = flag(None, "where downloads are kept")
    model_revision: str = flag("main", "branch, tag or commit on the hub")
    base_dtype: str = flag("float32", f"precision of the frozen base: {', '.join(DTYPES)}; LoRA stays float32")
    load_in_4bit: bool = flag(False, "keep the base in 4 bits (NF4); needs bitsandbytes and --method lora")
    method: str = flag("lora", f"what is trained: {', '.join(METHODS)}")
    train_blocks: int | None = flag(None, "only the last N blocks, with lora, full or bias")
    lora_targets: list[str] | None = field(
        default=None, metadata={"help": "names of modules, all-linear; default: query and value projections"}
    )
    lora_r: int = flag(8, "rank")
    lora_alpha: float = flag(16.0, "the update is scaled by lora_alpha / lora_r")
    lora_dropout: float = flag(0.0, "dropout of the input of the update")
    lora_init: str = flag("released", "how the factors start: a name in loralib.INITIALIZERS, such as paper")
    lora_path: str | None = flag(None, "adapter folder to start from; rank, alpha and targets are its own")
    cls_dropout: float = flag(0.1, "dropout before the classifier of --task cls")
    cls_bias: bool = flag(False, "a bias in the classifier of --task cls, which stock transformers classes lack")
    eos_token: str | None = flag(None, "end token, where the tokenizer names none or a wrong one")
    add_tokens: list[str] | None = field(
        default=None, metadata={"help": "new special tokens; their embeddings start as the mean of all"}
    )
    train_added_tokens: bool = flag(False, "train the embeddings of added tokens; else they stay as they start")

    def __post_init__(self) -> None:
        choose("--method", self.method, METHODS)
        choose("--base_dtype", self.base_dtype, DTYPES)
        from loralib import INITIALIZERS  # imports torch

        choose("--lora_init", self.lora_init, INITIALIZERS)
        if self.method != "lora":
            for name in ("lora_targets", "lora_path"):
                if getattr(self, name):
                    raise UserError(f"--{name} has an effect only with --method lora, not {self.method}")
            if self.load_in_4bit or self.base_dtype != "float32":
                raise UserError(f"--method {self.method} trains weights of the base, which must be float32")
        if self.train_blocks is not None and self.method not in ("lora", "full", "bias"):
            raise UserError(f"--train_blocks goes with --method lora, full or bias, not {self.method}")
        if self.train_blocks is not None and self.train_blocks < 1:
            raise UserError(f"--train_blocks must be at least 1, got {self.train_blocks}")
        if self.train_added_tokens and not self.add_tokens:
            raise UserError("--train_added_tokens needs --add_tokens")
        if self.lora_r < 1 or self.lora_alpha <= 0 or not 0 <= self.lora_dropout < 1 or not 0 <= self.cls_dropout < 1:
            raise UserError(
                "expected --lora_r >= 1, --lora_alpha > 0, --lora_dropout and --cls_dropout in [0, 1); got "
                f"{self.lora_r}, {self.lora_alpha}, {self.lora_dropout}, {self.cls_dropout}"
            )


@dataclass
class DataArguments:
    """Which examples, and how a row becomes text."""

    _argument_group_name = "data"

    task: str = flag("sft", f"{', '.join(f'{name}: {what}' for name, what in TASKS.items())}")
    train_file: str | None = flag(None, "JSON lines, JSON, CSV, TSV or TXT")
    validation_file: str | None = flag(None, "the same, to evaluate on")
    test_file: str | None = flag(None, "the same, to label with --do_predict (cls, cloze)")
    max_seq_length: int = flag(512, "tokens; longer texts are cut, those of --task lm into several")
    packing: bool = flag(False, "put several training examples into a row; none sees another")
    separator: str = flag("\n", "behind a prompt that does not end in white space; default: a line end")
    chat: bool = flag(False, "put prompt and response into the tokenizer's chat template")
    loss_on_prompt: bool = flag(False, "count the prompt's tokens in the loss of --task sft too")
    loss_on_padding: bool = flag(
        False, "fill the rows of --task sft and lm up to --max_seq_length with end tokens, which count in the loss"
    )
    template: str = flag("{text}", "text of a row of --task cls or cloze, with its fields in braces")
    lowercase: bool = flag(False, "lower-case the text of --task cls or cloze")
    columns: list[str] | None = field(
        default=None, metadata={"help": "names of the columns of a CSV or TSV file without a header line"}
    )
    text_column: str | None = flag(None, "field with the text; default: text or sentence")
    label_column: str | None = flag(None, "field with the label; default: label")
    label_words: list[str] | None = field(
        default=None, metadata={"help": "cloze: LABEL=WORD, what the model is to say; default: the label itself"}
    )
    max_train_samples: int | None = flag(None, "use only the first examples")
    max_eval_samples: int | None = flag(None, "use only the first examples")

    def __post_init__(self) -> None:
        choose("--task", self.task, TASKS)
        if self.max_seq_length < 2:
            raise UserError(f"--max_seq_length must be at least 2, got {self.max_seq_length}")
        for name in ("max_train_samples", "max_eval_samples"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, got {getattr(self, name)}")
        for name in ("packing", "loss_on_padding"):
            if getattr(self, name) and self.task not in ("sft", "lm"):
                raise UserError(f"--{name} is for --task sft and lm, not {self.task}")
        if self.packing and self.loss_on_padding:
            raise UserError("--packing leaves no padding for --loss_on_padding")
        if self.chat and self.task != "sft":
            raise UserError(f"--chat is for --task sft, not {self.task}")


@dataclass
class TrainingFlags:
    """What transformers' Trainer does not have, or has with other defaults."""

    _argument_group_name = "training"

    report_to: list[str] = field(
        default_factory=lambda: ["none"], metadata={"help": "one or more of tensorboard, wandb, ...; all; none"}
    )
    remove_unused_columns: bool = flag(False, "of transformers; the collator makes just what the model takes")
    overwrite_output_dir: bool = flag(False, "start anew in a folder that is not empty")
    early_stopping_patience: int | None = flag(
        None, "stop after N evaluations without a better --metric_for_best_model, and restore the best weights"
    )
    early_stopping_threshold: float = flag(0.0, "how much better counts")


def build_parser(training: type | None = None) -> TrainerParser:
    """Parser of all flags; see ``TrainerParser``."""
    return TrainerParser(
        (ModelArguments, DataArguments, TrainingFlags),
        training,
        usage="run_clm.py FLAGS",
        description="Fine-tunes a causal language model: LoRA, all weights, head, biases or blocks",
        allow_abbrev=False,
    )


def choose(name: str, value: str, choices: Any) -> None:
    """Raises a ``UserError`` that lists the choices."""
    if value not in choices:
        raise UserError(f"{name} {value}: expected one of {', '.join(choices)}")
