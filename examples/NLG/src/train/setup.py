"""From the flags of ``gpt2_ft.py`` to a trainer that is ready to run."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from gpt2 import fast_linear
from gpt2.checkpoint import BaseFile, load_into
from gpt2.config import LoRAConfig, load_model_card
from gpt2.model import GPT2LMModel

import loralib as lora
from examples.common.errors import UserError, warn
from examples.common.record import Run
from train.data import FT_Dataset
from train.distributed import Process
from train.loop import Trainer
from train.optimizer import AdamW, parameter_groups
from train.sampler import num_batches
from train.schedule import Scheduler, make_rate
from train.step import TrainStep


def build_trainer(args: argparse.Namespace, process: Process, run: Run) -> Trainer:
    """Reads data and weights, and puts model, optimizer and schedule together.

    Draws from the random generators in the order of the released code, so that a seed gives the same ``lora_A``.
    Sets ``args.max_step`` where it follows from ``max_epoch``.

    Raises:
        UserError: unusable data, checkpoint or combination of flags.
    """
    if args.fp16 and process.device.type == "cpu":
        raise UserError("--fp16 needs a GPU; on a CPU use --bf16, or neither")
    torch.set_float32_matmul_precision("high" if args.tf32 else "highest")
    fast_linear.ENABLED = args.fast_cpu_products == "true"
    config = load_model_card(args.model_card)
    if args.seq_len > config.n_positions:
        raise UserError(f"--seq_len {args.seq_len} exceeds the {config.n_positions} positions of {args.model_card}")
    sizes: dict[str, Any] = {"vocab_size": config.vocab_size, "quiet": not process.is_first}
    joint_lm = args.obj == "jlm"  # as released: of training alone, validation counts completions
    train_data = FT_Dataset(args.train_data, args.train_batch_size, args.seq_len, joint_lm=joint_lm, **sizes)
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
        trained, total = (sum(p.numel() for p in some) for some in (train.trainable, model.parameters()))
        print(f"trainable parameters: {trained:,} of {total:,}", flush=True)
        _say_how_it_starts(args, trainer)
    return trainer


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


def _say_how_it_starts(args: argparse.Namespace, trainer: Trainer) -> None:
    if trainer.resumed:
        print(f"resuming after step {trainer.progress.step} in epoch {trainer.progress.epoch}", flush=True)
    elif args.resume:
        warn(f"--resume: {args.work_dir} holds no training state; training starts from the beginning")
