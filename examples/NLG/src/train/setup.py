"""From the flags of ``gpt2_ft.py`` to a trainer that is ready to run."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

import torch
from gpt2 import fast_linear
from gpt2.checkpoint import BaseFile, load_into
from gpt2.config import LoRAConfig, load_model_card, parse_targets
from gpt2.model import GPT2LMModel
from gpt2.trainable import choose_trainable, default_method

from examples.common.errors import UserError, warn
from examples.common.record import Run
from train.data import FT_Dataset
from train.distributed import Process
from train.language_modelling import LanguageModelling
from train.loop import Trainer
from train.optimizer import AdamW, parameter_groups
from train.sampler import num_batches
from train.schedule import Scheduler, last_step, make_rate
from train.state import identity
from train.step import TrainStep
from train.task import Task


def build_trainer(args: argparse.Namespace, process: Process, run: Run) -> Trainer:
    """Reads data and weights, and puts task, optimizer and schedule together.

    Draws from the random generators in the order of the released code, so that a seed gives the same ``lora_A``.

    Raises:
        UserError: unusable data, checkpoint or combination of flags.
    """
    if args.fp16 and process.device.type == "cpu":
        raise UserError("--fp16 needs a GPU; on a CPU use --bf16, or neither")
    torch.set_float32_matmul_precision("high" if args.tf32 else "highest")
    fast_linear.ENABLED = args.fast_cpu_products == "true"
    task = _task(args, process)
    settings = settle(args, process, num_batches(task.n_rows, process.world * args.train_batch_size))
    train = _train_step(settings, task, process)
    if process.rank > 0:  # each process its own dropout; the first keeps the stream of a run of one process
        torch.manual_seed(args.random_seed + process.rank)
    files = {role: file["sha256"] for role, file in run.files.items()}
    who = identity(settings, asdict(task.model.config), files, process)
    # at their defaults two flags are left out, so that a run of the time before them can go on
    defaults = {"--method": default_method(args.lora_dim), "--lora_targets": ",".join(LoRAConfig.targets)}
    who = {name: value for name, value in who.items() if name not in defaults or value != defaults[name]}
    trainer = Trainer(settings, process, task, train, who)
    if process.is_first:
        trained, total = (sum(p.numel() for p in some) for some in (train.trainable, task.model.parameters()))
        print(f"trainable parameters: {trained:,} of {total:,}", flush=True)
        _say_how_it_starts(settings, trainer)
    return trainer


def settle(args: argparse.Namespace, process: Process, batches_per_epoch: int) -> argparse.Namespace:
    """The flags, and what follows from them, the machine and the data; ``args`` stay as they were given."""
    method = args.method or default_method(args.lora_dim)
    max_step = last_step(args, batches_per_epoch)
    return argparse.Namespace(**{**vars(args), **process.found(), "method": method, "max_step": max_step})


def _task(args: argparse.Namespace, process: Process) -> LanguageModelling:
    config = load_model_card(args.model_card)
    if args.seq_len > config.n_positions:
        raise UserError(f"--seq_len {args.seq_len} exceeds the {config.n_positions} positions of {args.model_card}")
    sizes: dict[str, Any] = {"vocab_size": config.vocab_size, "quiet": not process.is_first}
    joint_lm = args.obj == "jlm"  # as released: of training alone, validation counts completions
    train_data = FT_Dataset(args.train_data, args.train_batch_size, args.seq_len, joint_lm=joint_lm, **sizes)
    valid_data = FT_Dataset(args.valid_data, args.valid_batch_size, args.seq_len, **sizes)
    targets, method = parse_targets(args.lora_targets), args.method or default_method(args.lora_dim)
    lora = LoRAConfig(args.lora_dim, args.lora_alpha, args.lora_dropout, args.lora_init, targets)
    model = GPT2LMModel(config, lora)
    base = _load_weights(args, model, process)
    choose_trainable(model, method)
    model.to(process.device)
    model.transformer.gradient_checkpointing = args.gradient_checkpointing
    if args.compile:
        model.transformer.compile_blocks()
    return LanguageModelling(
        model,
        train_data,
        valid_data,
        method=method,
        base=base,
        label_smooth=args.label_smooth,
        valid_batch_size=args.valid_batch_size,
        seed=args.random_seed,
    )


def _load_weights(args: argparse.Namespace, model: GPT2LMModel, process: Process) -> BaseFile | None:
    if args.init_checkpoint is None:
        if args.base_checkpoint is not None:
            raise UserError("--base_checkpoint belongs to an --init_checkpoint of LoRA only; use --init_checkpoint")
        if process.is_first:
            warn("no --init_checkpoint: training starts from random weights")
        return None
    print("loading model pretrained weight.", flush=True)
    return load_into(model, args.init_checkpoint, base_checkpoint=args.base_checkpoint)


def _train_step(args: argparse.Namespace, task: Task, process: Process) -> TrainStep:
    optimizer = AdamW(
        parameter_groups(task.model, args.weight_decay, args.no_decay_bias),
        lr=args.lr,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epislon,
        correct_bias=args.correct_bias,
    )
    return TrainStep(
        task,
        optimizer,
        Scheduler(optimizer, make_rate(args)),
        process,
        grad_acc=args.grad_acc,
        clip=args.clip,
        amp_dtype=torch.float16 if args.fp16 else torch.bfloat16 if args.bf16 else None,
    )


def _say_how_it_starts(args: argparse.Namespace, trainer: Trainer) -> None:
    if trainer.resumed:
        print(f"resuming after step {trainer.progress.step} in epoch {trainer.progress.epoch}", flush=True)
    elif args.resume:
        warn(f"--resume: {args.work_dir} holds no training state; training starts from the beginning")
