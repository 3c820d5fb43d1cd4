"""From the flags of ``gpt2_ft.py`` to a trainer that is ready to run."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

import loralib as lora
from gpt2.checkpoint import BaseFile, load_into
from gpt2.cli import UserError, warn
from gpt2.config import LoRAConfig, load_model_card
from gpt2.data import FT_Dataset
from gpt2.distributed import Process, barrier
from gpt2.files import make_folder
from gpt2.flags import add_dead_flag
from gpt2.model import GPT2LMModel
from gpt2.optim import AdamW, parameter_groups
from gpt2.order import WINDOW, num_batches
from gpt2.runs import Run
from gpt2.schedule import Scheduler, make_rate
from gpt2.train_loop import Trainer
from gpt2.train_step import TrainStep

LORA_INITS = ("released", "independent", *(name for name in lora.INITIALIZERS if name != "released"))


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the released ``gpt2_ft.py`` in its order; intervals count micro-batches."""
    add = parser.add_argument
    add("--train_data", required=True, help="token ids as gpt2_encode.py writes them")
    add("--valid_data", required=True, help="the same for validation")
    add("--train_batch_size", type=int, default=8, help="rows per process and micro-batch (default: 8)")
    add("--valid_batch_size", type=int, default=4, help="rows per process (default: 4)")
    add("--grad_acc", type=int, default=1, help="micro-batches per update (default: 1)")
    add("--clip", type=float, default=0.0, help="bound of the gradient norm; 0: none (default)")
    add("--seq_len", type=int, default=512, help="longer rows lose their end (default: 512)")
    add("--model_card", default="gpt2.md", help="gpt2.sm, gpt2.md, gpt2.lg, or a JSON file (default: gpt2.md)")
    add("--init_checkpoint", default=None, help="pretrained weights, or a checkpoint to start from")
    add("--fp16", action="store_true", help="float16 matrix products with loss scaling (GPU)")
    add("--log_interval", type=int, default=100, help="(default: 100)")
    add("--eval_interval", type=int, default=2000, help="(default: 2000)")
    add("--save_interval", type=int, default=500, help="LoRA-only checkpoint and resumable state (default: 500)")
    add("--work_dir", default=os.getenv("PT_OUTPUT_DIR", "gpt2_model"), help="output folder (default: gpt2_model)")
    add("--lora_dim", type=int, default=0, help="rank r; 0: full fine-tuning (default)")
    add("--lora_alpha", type=int, default=128, help="scaling is alpha / r (default: 128)")
    add("--obj", default="clm", choices=["jlm", "clm"], help="loss on the completion (clm) or all (default: clm)")
    add("--lora_dropout", type=float, default=0.0, help="(default: 0)")
    add("--label_smooth", type=float, default=0.0, help="of the training loss (default: 0)")
    add_dead_flag(parser, "--roll_interval", type=int, default=-1)
    add_dead_flag(parser, "--roll_lr", type=float, default=1e-5)
    add_dead_flag(parser, "--roll_step", type=int, default=100)
    add_dead_flag(parser, "--eval_epoch", type=int, default=1)
    new = parser.add_argument_group("not in the released code")
    new.add_argument(
        "--lora_init",
        default="released",
        choices=LORA_INITS,
        help="released: one draw of A for all blocks, B zero; independent: a draw for each block (default: released)",
    )
    new.add_argument("--base_checkpoint", default=None, help="pretrained file under an --init_checkpoint of LoRA only")
    new.add_argument("--bf16", action="store_true", help="bfloat16 matrix products, weights stay float32")
    new.add_argument("--tf32", action="store_true", help="TF32 matrix products on GPUs that have them")
    new.add_argument(
        "--bucket_by_length",
        action="store_true",
        help="rows of near length share a batch, for less padding: other batches than the released code's "
        f"(the rows of {WINDOW} batches are sorted, then all batches shuffled)",
    )
    new.add_argument(
        "--gradient_checkpointing",
        action="store_true",
        help="keep only the inputs of the blocks and compute each block twice: less memory, equal gradients",
    )
    new.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile for the blocks, once for all lengths (needs a C++ compiler or a GPU with Triton)",
    )
    new.add_argument("--resume", action="store_true", help="go on exactly from training_state.pt in --work_dir")
    new.add_argument("--lora_only_checkpoints", action="store_true", help="no complete checkpoint at epoch ends")
    new.add_argument("--eval_each_epoch", action="store_true", help="also evaluate at the end of each epoch")
    new.add_argument("--tensorboard", action="store_true", help="write TensorBoard events to --work_dir")


def check_flags(args: argparse.Namespace) -> None:
    """Refuses values that cannot work, before anything is read.

    Raises:
        UserError: names flag and value.
    """
    at_least_one = ["train_batch_size", "valid_batch_size", "grad_acc", "log_interval", "eval_interval"]
    for name in [*at_least_one, "save_interval", "lora_alpha", "seq_len"]:
        if getattr(args, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(args, name)}")
    for name in ("max_step", "max_epoch"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(args, name)}")
    for name in ("lora_dim", "warmup_step", "clip", "lr", "weight_decay", "adam_epislon"):
        if not getattr(args, name) >= 0:  # also refuses NaN
            raise UserError(f"--{name} must not be negative, got {getattr(args, name)}")
    for name in ("lora_dropout", "label_smooth", "adam_beta1", "adam_beta2"):
        if not 0 <= getattr(args, name) < 1:
            raise UserError(f"--{name} must be at least 0 and below 1, got {getattr(args, name)}")
    if args.max_step is None and args.max_epoch is None and args.scheduler != "cycle":
        raise UserError("when should training end? give --max_epoch or --max_step")
    if args.fp16 and args.bf16:
        raise UserError("--fp16 and --bf16 exclude each other")


def build_trainer(args: argparse.Namespace, process: Process, run: Run, n_earlier: int) -> Trainer:
    """Reads data and weights, and puts model, optimizer and schedule together.

    Draws from the random generators in the order of the released code, so that a seed gives the same ``lora_A``.
    Sets ``args.max_step`` where it follows from ``max_epoch``.

    Args:
        n_earlier: checkpoints that already lie in the work folder.

    Raises:
        UserError: unusable data, checkpoint or combination of flags.
    """
    if args.fp16 and process.device.type == "cpu":
        raise UserError("--fp16 needs a GPU; on a CPU use --bf16, or neither")
    torch.set_float32_matmul_precision("high" if args.tf32 else "highest")
    config = load_model_card(args.model_card)
    if args.seq_len > config.n_positions:
        raise UserError(f"--seq_len {args.seq_len} exceeds the {config.n_positions} positions of {args.model_card}")
    sizes = {"vocab_size": config.vocab_size, "joint_lm": args.obj == "jlm", "quiet": not process.is_first}
    train_data = FT_Dataset(args.train_data, args.train_batch_size, args.seq_len, **sizes)
    valid_data = FT_Dataset(args.valid_data, args.valid_batch_size, args.seq_len, **sizes)
    model = GPT2LMModel(config, LoRAConfig(args.lora_dim, args.lora_alpha, args.lora_dropout, args.lora_init))
    base = _load_weights(args, model, process)
    if args.lora_dim > 0:
        lora.mark_only_lora_as_trainable(model)
    else:
        model.requires_grad_(True)
    model.to(process.device)
    model.transformer.gradient_checkpointing = args.gradient_checkpointing
    if args.compile:
        model.transformer.compile_blocks()
    if args.max_step is None and args.max_epoch is not None:
        args.max_step = args.max_epoch * num_batches(train_data.n_rows, process.world * args.train_batch_size)
        print(f"set max_step: {args.max_step}", flush=True)
    train = _train_step(args, model, process)
    if process.rank > 0:  # each process its own dropout; the first keeps the stream of a run of one process
        torch.manual_seed(args.random_seed + process.rank)
    trainer = Trainer(
        args,
        process,
        train,
        train_data=train_data,
        valid_data=valid_data,
        files={role: file["sha256"] for role, file in run.files.items()},
        base=base,
    )
    if process.is_first:
        _say_how_it_starts(args, trainer, n_earlier)
    return trainer


def make_work_dir(args: argparse.Namespace, process: Process) -> int:
    """Creates the folder on the first process, says where it is, and counts the checkpoints already there."""
    if process.is_first:
        make_folder(args.work_dir)
        print(f"Experiment dir : {args.work_dir}", flush=True)
    barrier(process)
    return sum(1 for _ in Path(args.work_dir).glob("model.*.pt"))


def _load_weights(args: argparse.Namespace, model: GPT2LMModel, process: Process) -> BaseFile | None:
    if args.init_checkpoint is None:
        if args.base_checkpoint is not None:
            raise UserError("--base_checkpoint belongs to an --init_checkpoint of LoRA only; use --init_checkpoint")
        if process.is_first:
            warn("no --init_checkpoint: training starts from random weights")
        return None
    print("loading model pretrained weight.", flush=True)
    return load_into(model, args.init_checkpoint, base_checkpoint=args.base_checkpoint)


def _train_step(args: argparse.Namespace, model: GPT2LMModel, process: Process) -> TrainStep:
    optimizer = AdamW(
        parameter_groups(model, args.weight_decay, args.no_decay_bias),
        lr=args.lr,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epislon,
        correct_bias=args.correct_bias,
    )
    return TrainStep(
        model,
        optimizer,
        Scheduler(optimizer, make_rate(args)),
        process,
        grad_acc=args.grad_acc,
        clip=args.clip,
        label_smooth=args.label_smooth,
        amp_dtype=torch.float16 if args.fp16 else torch.bfloat16 if args.bf16 else None,
    )


def _say_how_it_starts(args: argparse.Namespace, trainer: Trainer, n_earlier: int) -> None:
    if trainer.resumed:
        print(f"resuming after step {trainer.progress.step} in epoch {trainer.progress.epoch}", flush=True)
    elif args.resume:
        warn(f"--resume: {args.work_dir} holds no training state; training starts from the beginning")
    elif n_earlier:
        warn(f"{args.work_dir} holds {n_earlier} checkpoints of an earlier run; those of equal names are replaced")
