"""Command-line flags under the names of the released code; needs no torch, so that ``--help`` comes at once."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from gpt2.config import TARGETS, LoRAConfig, parse_targets
from gpt2.trainable import METHODS, default_method

from examples.common.errors import UserError, warn

PLATFORMS = ("local", "philly", "k8s")
RULER = "=" * 100


class _Dead(argparse.Action):
    """Stores the value of a flag that nothing reads, and remembers that the user gave it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, values)
        given = {*getattr(namespace, "_dead", ()), option_string or self.dest}
        namespace._dead = tuple(sorted(given))


def add_dead_flag(parser: argparse.ArgumentParser, name: str, **options: object) -> None:
    """Accepts a flag of the released code that has no effect; see ``warn_of_dead_flags``."""
    parser.add_argument(name, action=_Dead, help="accepted and ignored, as in the released code", **options)  # type: ignore[arg-type]


def add_platform_flags(parser: argparse.ArgumentParser) -> None:
    """Where and how the processes of a run meet, and the seed."""
    parser.add_argument(
        "--platform",
        default="k8s",
        help=f"one of {', '.join(PLATFORMS)}: torchrun, torch.distributed.launch, OpenMPI and plain python are "
        "recognised by their environment; k8s looks for OpenMPI first, the others for torchrun (default: k8s)",
    )
    parser.add_argument(
        "--local_rank", "--local-rank", type=int, default=0, help="process on this machine; LOCAL_RANK goes first"
    )
    add_dead_flag(parser, "--rank", type=int, default=0)
    parser.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda, or auto: cuda if there is one (a number is ignored, as released)",
    )
    add_dead_flag(parser, "--world_size", type=int, default=0)
    parser.add_argument("--random_seed", type=int, default=10, help="of all random draws (default: 10)")


def add_optimizer_flags(parser: argparse.ArgumentParser) -> None:
    """AdamW and its schedule; ``--max_step`` and ``--warmup_step`` count micro-batches."""
    parser.add_argument("--lr", type=float, default=1e-5, help="peak learning rate (default: 1e-5)")
    parser.add_argument("--weight_decay", type=float, default=0.01, help="decoupled, times the rate (default: 0.01)")
    parser.add_argument("--correct_bias", action="store_true", help="Adam's bias correction")
    parser.add_argument("--adam_epislon", type=float, default=1e-6, help="epsilon of Adam, so spelled (default: 1e-6)")
    parser.add_argument("--no_decay_bias", action="store_true", help="no weight decay on biases")
    parser.add_argument("--adam_beta1", type=float, default=0.9, help="(default: 0.9)")
    parser.add_argument("--adam_beta2", type=float, default=0.98, help="(default: 0.98)")
    parser.add_argument(
        "--scheduler",
        default="linear",
        choices=["cosine", "inv_sqrt", "dev_perf", "constant", "linear", "cycle"],
        help="shape of the learning rate (default: linear)",
    )
    parser.add_argument("--max_step", type=int, default=None, help="end of training, in micro-batches")
    parser.add_argument("--max_epoch", type=int, default=None, help="end of training, in epochs")
    parser.add_argument("--warmup_step", type=int, default=0, help="micro-batches of linear warm-up (default: 0)")
    parser.add_argument("--i_steps", default="0", help="cycle: comma-separated steps (default: 0)")
    parser.add_argument("--i_lrs", default="0.00025", help="cycle: learning rates at these steps (default: 0.00025)")


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
    add("--save_interval", type=int, default=500, help="checkpoint of what trains, resumable state (default: 500)")
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
        "--method",
        default=None,
        choices=METHODS,
        help="what trains: LoRA, all, the biases, or the last two blocks and ln_f (default: lora with --lora_dim above "
        "0, else full)",
    )
    new.add_argument(
        "--lora_targets",
        default=",".join(LoRAConfig.targets),
        help=f"layers with LoRA, separated by commas: {', '.join(TARGETS)}; c_attn is one update of query, key and "
        "value together; all-linear: all, query, key and value each on its own (default: query,value)",
    )
    new.add_argument(
        "--lora_init",
        default="released",
        help="released: one draw of A for all blocks, B zero; independent: a draw for each block; or another name of "
        "loralib.INITIALIZERS, such as paper (default: released)",
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
    new.add_argument("--lora_only_checkpoints", action="store_true", help="what trains alone at epoch ends, too")
    new.add_argument("--eval_each_epoch", action="store_true", help="also evaluate at the end of each epoch")
    new.add_argument(
        "--patience", type=int, default=None, help="end after so many evaluations without a new best (default: never)"
    )
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
    for name in ("max_step", "max_epoch", "patience"):
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
    from loralib import INITIALIZERS  # imports torch, which training cannot do without

    if args.lora_init not in (inits := ("independent", *INITIALIZERS)):
        raise UserError(f"--lora_init {args.lora_init}: choose from {', '.join(inits)}")
    parse_targets(args.lora_targets)
    method = default_method(args.lora_dim) if args.method is None else args.method
    if (method == "lora") != (args.lora_dim > 0):
        raise UserError(f"--method {method} with --lora_dim {args.lora_dim}: lora needs at least 1, the others 0")


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses, and warns once of the flags without effect that the user gave."""
    args = parser.parse_args(argv)
    dead = list(getattr(args, "_dead", ()))
    if args.device.isdigit():
        dead.append("--device")
    if dead:
        warn(f"no effect, as in the released code: {' '.join(sorted(dead))}")
    return args


def print_args(args: argparse.Namespace, **found: object) -> None:
    """Prints every argument in the order of the parser, as the released programs do, and what was found for some."""
    print(RULER)
    for name, value in {**vars(args), **found}.items():
        if not name.startswith("_"):
            print(f"        - {name} : {value}")
    print(RULER, flush=True)
