"""Adapter beside whole checkpoint: bytes, time to write and read; and what starting a program costs beyond torch."""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import harness
import torch
from gpt2.checkpoint import load_into, save_full, save_trained
from gpt2.config import LoRAConfig
from gpt2.model import GPT2LMModel
from gpt2.weights import read_checkpoint
from harness.costs import MIB
from harness.peers import SIZES, seeded_model
from harness.rows import Bench, Row, begin, bench_parser, exact
from harness.timing import Times, ratio, side_by_side, spread
from safetensors.torch import load_file, save_file
from torch import Tensor

from examples.common.errors import UserError, run_main
from examples.common.files import read_sha256

LORA = LoRAConfig(r=4, alpha=32)
IMPORTS = {
    "loralib": "import loralib",
    "peft": "import peft",
    "transformers' GPT-2": "from transformers import GPT2LMHeadModel",
}
NLG, NLU = "examples/NLG", "examples/NLU"
PROGRAMS = (
    f"{NLG}/src/gpt2_ft.py",
    f"{NLG}/src/gpt2_beam.py",
    f"{NLG}/src/gpt2_encode.py",
    f"{NLG}/src/gpt2_decode.py",
    f"{NLG}/eval/e2e/measure_scores.py",
    f"{NLG}/eval/GenerationEval/eval.py",
    f"{NLU}/utils/split_lora.py",
    f"{NLU}/examples/text-classification/run_glue.py",
)


def build_parser() -> Any:
    return bench_parser(__doc__, rounds=7)


def main() -> None:
    bench = begin("checkpoint", build_parser())
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for size in ("sm",) if bench.args.quick else ("sm", "md"):
            measure_files(bench, size, Path(folder))
    measure_start(bench)
    bench.write()


def measure_files(bench: Bench, size: str, folder: Path) -> None:
    """Rows of one model: bytes, then writing and reading."""
    model = seeded_model(SIZES[size], LORA)
    case = f"GPT-2 {size}, r {LORA.r}"
    files = {name: folder / f"{size}_{name}" for name in ("adapter.pt", "whole.pt", "adapter.st", "whole.st")}
    adapter, whole = adapter_of(model), base_of(model)
    writers: dict[str, Callable[[], object]] = {
        "adapter .pt": lambda: save_trained(files["adapter.pt"], model, None, 0),
        "adapter .safetensors": lambda: save_file(adapter, files["adapter.st"]),
        "whole .pt": lambda: save_full(files["whole.pt"], model, None, 0),
        "whole .safetensors": lambda: save_file(whole | adapter, files["whole.st"]),
    }
    times = side_by_side(writers, rounds=bench.args.rounds)
    sizes = {name: file.stat().st_size for name, file in files.items()}
    trained, every = (sum(map(Tensor.nelement, tensors.values())) for tensors in (adapter, whole | adapter))
    bench.add(
        Row(
            case,
            "bytes, whole checkpoint / adapter (.pt)",
            exact(sizes["whole.pt"] / sizes["adapter.pt"]),
            note=f"{sizes['whole.pt'] / MIB:.1f} MiB and {sizes['adapter.pt'] / 1024:.0f} KiB; parameters "
            f"{every:,} and {trained:,}: {every / trained:.0f} times",
        )
    )
    overhead = sizes["adapter.st"] / (4 * trained)
    bench.add(Row(case, "bytes, adapter .safetensors / its numbers", exact(overhead), note=f"{sizes['adapter.st']:,}"))
    for name in (".pt", ".safetensors"):
        add_times(bench, f"{case}, {name}", "write", times, f"whole {name}", f"adapter {name}")
    read_rows(bench, case, files, model.config)


def read_rows(bench: Bench, case: str, files: Mapping[str, Path], config: Any) -> None:
    """Reading an adapter against the whole, mapped against copied, checked loading against a deep copy first."""
    readers: dict[str, Callable[[], object]] = {
        "adapter .pt": lambda: read_checkpoint(files["adapter.pt"]),
        "adapter .safetensors": lambda: load_file(files["adapter.st"]),
        "whole .pt, mapped": lambda: torch.load(files["whole.pt"], weights_only=True, mmap=True),
        "whole .pt, read": lambda: torch.load(files["whole.pt"], weights_only=True),
        "whole .safetensors": lambda: load_file(files["whole.st"]),
    }
    times = side_by_side(readers, rounds=bench.args.rounds)
    add_times(bench, f"{case}, .pt", "read", times, "whole .pt, read", "adapter .pt")
    add_times(bench, f"{case}, .safetensors", "open", times, "whole .safetensors", "adapter .safetensors")
    add_times(bench, case, "open", times, "whole .pt, mapped", "whole .pt, read")

    model = GPT2LMModel(config, LORA)
    state = torch.load(files["whole.pt"], weights_only=True)["model_state_dict"]
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    state = {name: tensor for name, tensor in state.items() if not name.endswith("attn.bias")}

    def deep_copy() -> None:
        model.load_state_dict(copy.deepcopy(state), strict=False)

    loaders: dict[str, Callable[[], object]] = {
        "load_into (maps, checks, copies)": lambda: load_into(model, files["whole.pt"]),
        "deep copy, load_state_dict": deep_copy,
        "sha256": lambda: read_sha256(files["whole.pt"]),
    }
    load_into(model, files["whole.pt"])  # the digest is remembered from here on
    times = side_by_side(loaders, rounds=bench.args.rounds)
    ours, copied, hashed = loaders
    add_times(bench, f"{case}, whole", "load", times, ours, copied)
    # a training start read the base file for its digest twice, now once
    add_times(bench, f"{case}, whole", "load", times, hashed, ours)


def measure_start(bench: Bench) -> None:
    """New processes in turn: imports over ``import torch``, ``--help`` over a Python that does nothing."""
    rounds = bench.args.rounds
    imports = {"torch": python("-c", "import torch")}
    chosen = {name: IMPORTS[name] for name in IMPORTS if name == "loralib" or not bench.args.quick}
    imports |= {name: python("-c", code) for name, code in chosen.items()}
    times = side_by_side(imports, rounds=rounds)
    for name in chosen:
        target = "<= 1.05" if name == "loralib" else ""
        row = Row(
            f"import {name}", f"time, {name} / torch", ratio(times, name, "torch"), target, note=both(times, name)
        )
        bench.add(row)
    programs = {"nothing": python("-c", "pass")}
    listed = PROGRAMS[:-1] if bench.args.quick else PROGRAMS
    programs |= {name: python(name, "--help") for name in listed}
    times = side_by_side(programs, rounds=rounds)
    for name in listed:
        seconds = spread(times[name])
        note = f"{seconds.median:.2f} s, python alone {spread(times['nothing']).median:.3f} s"
        quantity = "time, --help / python -c pass"
        bench.add(Row(f"{Path(name).name} --help", quantity, ratio(times, name, "nothing"), note=note))


def python(*arguments: str) -> Callable[[], None]:
    """A new process that must end well.

    Raises:
        UserError: (when called) it did not.
    """

    def run() -> None:
        done = subprocess.run([sys.executable, *arguments], cwd=harness.REPOSITORY, capture_output=True, text=True)
        if done.returncode != 0:
            raise UserError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()[-200:]}")

    return run


def adapter_of(model: GPT2LMModel) -> dict[str, Tensor]:
    """LoRA's tensors; copies, as safetensors refuses shared memory."""
    return {name: t.detach().clone() for name, t in model.state_dict().items() if ".lora_" in name}


def base_of(model: GPT2LMModel) -> dict[str, Tensor]:
    """The other tensors, the tied head once."""
    state = model.state_dict().items()
    return {name: t.detach().clone() for name, t in state if ".lora_" not in name and not name.startswith("lm_head")}


def add_times(bench: Bench, case: str, what: str, times: Times, one: str, other: str) -> None:
    """A row of the time of one over another."""
    bench.add(Row(case, f"time to {what}, {one} / {other}", ratio(times, one, other), note=both(times, one, other)))


def both(times: Times, *names: str) -> str:
    """Median seconds of each."""
    return ", ".join(f"{name} {spread(times[name]).median:.4g} s" for name in names)


if __name__ == "__main__":
    run_main(main)
