"""Command-line flags that training and decoding share, under the names of the released code."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from examples.common.errors import warn

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


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses, and warns once of the flags without effect that the user gave."""
    args = parser.parse_args(argv)
    dead = list(getattr(args, "_dead", ()))
    if str(args.device).isdigit():
        dead.append("--device")
        args.device = "auto"
    if dead:
        warn(f"no effect, as in the released code: {' '.join(sorted(dead))}")
    return args


def print_args(args: argparse.Namespace) -> None:
    """Prints every argument in the order of the parser, as the released programs do."""
    print(RULER)
    for name, value in vars(args).items():
        if not name.startswith("_"):
            print(f"        - {name} : {value}")
    print(RULER, flush=True)
