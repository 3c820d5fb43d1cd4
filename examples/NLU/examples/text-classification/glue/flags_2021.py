"""Flags under their names of 2021 (transformers 4.4) turned into those of today."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from examples.common.errors import UserError, warn
from examples.common.files import read_json

RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "no_cuda": "use_cpu",
}
# switch: what it stands for
REPLACED = {
    "group_by_length": ["--train_sampling_strategy", "group_by_length"],
    "adafactor": ["--optim", "adafactor"],
    "no_pad_to_max_length": ["--pad_to_max_length", "false"],
}
# flags whose readers are gone: accepted with their values, and said so
DEAD = {
    "fp16_backend",
    "fp16_opt_level",
    "sharded_ddp",
    "past_index",
    "tpu_num_cores",
    "tpu_metrics_debug",
    "mp_parameters",
    "overwrite_cache",
}
_FALSE = ("false", "no", "f", "n", "0")
_BOOLEAN = (*_FALSE, "true", "yes", "t", "y", "1")


def modernise(argv: Sequence[str], say: Callable[[str], None] = warn) -> list[str]:
    """Arguments with today's names.

    A single ``.json`` file stands for the flags that it holds. ``--warmup_ratio`` becomes ``--warmup_steps``, which
    takes ratios below 1 now; where steps are given too they win, as before.

    Raises:
        UserError: a JSON file that is missing or no object; a ratio outside [0, 1).
    """
    if len(argv) == 1 and argv[0].endswith(".json"):
        argv = _from_json(Path(argv[0]))
    groups = _grouped(argv)
    steps_win = any(name == "warmup_steps" and not _is_zero(values) for name, values in groups)
    result: list[str] = []
    dead = []
    for name, values in groups:
        if name is None:
            result += values
        elif name in DEAD:
            dead.append(f"--{name}")
        elif name == "debug" and (not values or values[0].lower() in _BOOLEAN):
            dead.append("--debug")  # a switch for TPUs then, names of checks now
        elif name in REPLACED:
            result += [] if _is_off(values) else REPLACED[name]
        elif name == "warmup_ratio":
            result += [] if steps_win else ["--warmup_steps", _ratio(values)]
        elif name == "warmup_steps" and not steps_win and any(other == "warmup_ratio" for other, _ in groups):
            continue  # --warmup_steps 0 is the old default, beside a ratio
        else:
            result += [f"--{RENAMED.get(name, name)}", *values]
    if dead:
        say(f"no effect any more: {' '.join(sorted(set(dead)))}")
    return result


def _grouped(argv: Sequence[str]) -> list[tuple[str | None, list[str]]]:
    """(flag name without dashes and with underscores, its values); None for values before the first flag."""
    groups: list[tuple[str | None, list[str]]] = []
    for word in argv:
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            groups.append((name.replace("-", "_"), [value] if equals else []))
        elif groups:
            groups[-1][1].append(word)
        else:
            groups.append((None, [word]))
    return groups


def _is_off(values: list[str]) -> bool:
    return bool(values) and values[0].lower() in _FALSE


def _is_zero(values: list[str]) -> bool:
    return bool(values) and re.fullmatch(r"0*\.?0*", values[0]) is not None


def _ratio(values: list[str]) -> str:
    try:
        ratio = float(values[0])
    except (IndexError, ValueError):
        raise UserError(f"--warmup_ratio {' '.join(values)}: expected a number in [0, 1)") from None
    if not 0 <= ratio < 1:
        raise UserError(f"--warmup_ratio {values[0]}: expected a number in [0, 1)")
    return values[0]


def _from_json(path: Path) -> list[str]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object of flags, got {type(content).__name__}")
    words: list[str] = []
    for name, value in content.items():
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        texts = [json.dumps(item) if isinstance(item, dict | bool) else str(item) for item in values]
        words += [f"--{name}", *texts]
    return words
