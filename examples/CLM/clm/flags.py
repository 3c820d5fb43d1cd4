"""All flags of ``run_clm.py``: model, data, and transformers' training arguments."""

# No `from __future__ import annotations`: transformers' parser reads the types of these fields.

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from transformers import HfArgumentParser, TrainingArguments

from clm.tasks import METHODS, TASKS
from examples.common.errors import UserError
from loralib import INITIALIZERS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def flag(default: Any, help: str) -> Any:
    """A field of a dataclass of flags."""
    return field(default=default, metadata={"help": help})


@dataclass
class ModelArguments:
    """Which model, and what of it is trained."""

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
    lora_init: str = flag("released", f"how the factors start: {', '.join(INITIALIZERS)}")
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

    task: str = flag("sft", f"{', '.join(f'{name}: {what}' for name, what in TASKS.items())}")
    train_file: str | None = flag(None, "JSON lines, JSON, CSV, TSV or TXT")
    validation_file: str | None = flag(None, "the same, to evaluate on")
    test_file: str | None = flag(None, "the same, to label with --do_predict (cls, cloze)")
    max_seq_length: int = flag(512, "tokens; longer texts are cut, those of --task lm into several")
    packing: bool = flag(False, "put several training examples into a row; none sees another")
    separator: str = flag("\n", "between prompt and response where the prompt does not end in white space")
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
class ClmTrainingArguments(TrainingArguments):
    """Transformers' arguments, and early stopping."""

    report_to: list[str] = field(
        default_factory=lambda: ["none"], metadata={"help": "one or more of tensorboard, wandb, ...; all; none"}
    )
    remove_unused_columns: bool = flag(False, "of transformers; the collator makes just what the model takes")
    overwrite_output_dir: bool = flag(False, "start anew in a folder that is not empty")
    early_stopping_patience: int | None = flag(
        None, "stop after N evaluations without a better --metric_for_best_model, and restore the best weights"
    )
    early_stopping_threshold: float = flag(0.0, "how much better counts")

    def __post_init__(self) -> None:
        if self.output_dir is None:
            raise UserError("--output_dir is missing")
        if not (self.do_train or self.do_eval or self.do_predict):
            raise UserError("nothing to do: give --do_train, --do_eval or --do_predict")
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
            if self.eval_strategy == "steps" and self.save_steps % (self.eval_steps or self.logging_steps):
                self.save_steps = self.eval_steps or self.logging_steps
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # every trained parameter is used in every step
        if not torch.accelerator.is_available():
            self.use_cpu = True  # without it, processes on a CPU would each train alone
        super().__post_init__()


class ClmParser(HfArgumentParser):
    """A wrong flag is a ``UserError``."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def build_parser() -> ClmParser:
    """Parser of all flags."""
    kinds: Any = (ModelArguments, DataArguments, ClmTrainingArguments)
    description = "Fine-tunes a causal language model: LoRA, all weights, head, biases or blocks"
    return ClmParser(kinds, description=description, allow_abbrev=False)


def parse(argv: Sequence[str] | None = None) -> tuple[ModelArguments, DataArguments, ClmTrainingArguments]:
    """Parses and checks.

    Raises:
        UserError: an unknown flag, or values that do not go together.
    """
    try:
        model, data, training = build_parser().parse_args_into_dataclasses(
            sys.argv[1:] if argv is None else argv, look_for_args_file=False
        )
    except (ValueError, ImportError) as error:  # how transformers refuses values
        raise UserError(str(error)) from None
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
    if training.fp16 and training.device.type == "cpu":
        raise UserError("--fp16 needs a GPU; leave it out (--bf16 works on newer CPUs)")
    if training.fsdp:
        raise UserError("--fsdp: LoRA folders are not gathered from shards here; use torchrun without it (DDP)")
    known = TASKS[data.task].figures
    if training.load_best_model_at_end and training.metric_for_best_model not in known:
        raise UserError(f"--metric_for_best_model {training.metric_for_best_model}: expected one of {', '.join(known)}")
    return model, data, training


def choose(name: str, value: str, choices: Any) -> None:
    """Raises a ``UserError`` that lists the choices."""
    if value not in choices:
        raise UserError(f"{name} {value}: expected one of {', '.join(choices)}")
