"""The flags of ``gpt2_ft.py`` and which values it refuses; needs no torch, so that ``--help`` comes at once."""

from __future__ import annotations

import argparse
import os

from examples.common.errors import UserError
from train.flags import add_dead_flag

# Names of loralib.INITIALIZERS, and one for a draw of its own in each block.
LORA_INITS = ("released", "independent", "paper", "paper_era", "gaussian_a_over_r", "gaussian_ab_over_r")


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
    add("--work_dir", default=os.getenv("PT_OUTPUT_DIR", "gpt2_model"), help="of one run (default: gpt2_model)")
    add("--lora_dim", type=int, default=0, help="rank r; 0: full fine-tuning (default)")
    add("--lora_alpha", type=int, default=128, help="scaling is alpha / r (default: 128)")
    add(
        "--obj",
        default="clm",
        choices=["jlm", "clm"],
        help="train on completions (clm) or whole rows (default: clm)",
    )
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
        "--fast_cpu_products",
        default="true",
        choices=["true", "false"],
        help="large float32 products by oneDNN on CPUs with AVX-512; equal up to rounding (default: true)",
    )
    new.add_argument(
        "--bucket_by_length",
        action="store_true",
        help="rows of near length share a batch, for less padding: other batches than the released code's "
        "(rows are sorted within windows of batches, then the batches of the epoch shuffled)",
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
