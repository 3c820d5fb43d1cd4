"""What the tests of training share: the tiny model, its files, and a way to run the program."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import torch
from gpt2.checkpoint import load_into
from gpt2.config import GPT2Config, LoRAConfig
from gpt2.model import GPT2LMModel
from safetensors.torch import load_file, save_file

import loralib as lora
from tests.shared_data import GOLDEN, REPOSITORY
from tests.warm_python import PYTHON

NLG = GOLDEN / "nlg"
SRC = REPOSITORY / "examples" / "NLG" / "src"
FINE_TUNE = SRC / "gpt2_ft.py"
TINY_TRAIN = NLG / "tiny_train.jsonl"
TINY = {"vocab_size": 101, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
# The flags of the recorded program runs, but for the length of training
RECORDED = shlex.split(
    "--platform local --random_seed 110 --lr 0.01 --correct_bias --adam_beta2 0.999 --warmup_step 3 "
    "--train_batch_size 5 --valid_batch_size 2 --seq_len 24 --log_interval 2 --eval_interval 5 --save_interval 4 "
    "--lora_dim 4 --lora_alpha 32 --label_smooth 0.1"
)


def write_tiny_files(folder: Path) -> None:
    """``tiny.json``, ``base.safetensors`` (pretrained, no LoRA) and ``valid.jsonl`` as in the recorded program runs.

    Those validated on seven rows in batches of two, and filled up with a second copy of row 3.
    """
    (folder / "tiny.json").write_text(json.dumps(TINY))
    weights = load_file(NLG / "tiny_beam_gpt2.safetensors")
    save_file({name: t for name, t in weights.items() if "lora_" not in name}, folder / "base.safetensors")
    rows = TINY_TRAIN.read_text().splitlines(keepends=True)
    (folder / "valid.jsonl").write_text("".join([*rows[:7], rows[3]]))


def tiny_flags(**changed: object) -> list[str]:
    """Flags of the recorded runs on the files of ``write_tiny_files``; ``name=None`` drops a flag, True sets it."""
    given: dict[str, object] = {
        "train_data": TINY_TRAIN,
        "valid_data": "valid.jsonl",
        "model_card": "tiny.json",
        "init_checkpoint": "base.safetensors",
        **changed,
    }
    flags = list(RECORDED)
    for name, value in given.items():
        if f"--{name}" in flags:
            at = flags.index(f"--{name}")
            del flags[at : at + (1 if name == "correct_bias" else 2)]
        if value is True:
            flags.append(f"--{name}")
        elif value is not None:
            flags += [f"--{name}", str(value)]
    return flags


def environment(**more: str) -> dict[str, str]:
    """Of a subprocess: one thread, and nothing left of a launcher."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "MASTER_")) and k != "PT_OUTPUT_DIR"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        kept.pop(name, None)
    path = os.pathsep.join([str(REPOSITORY), str(SRC), *filter(None, [kept.get("PYTHONPATH")])])
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PYTHON_EXEC": PYTHON, **more}


def start_program(
    folder: Path, flags: list[str], launcher: list[str] | None = None, program: Path = FINE_TUNE, **env: str
) -> subprocess.Popen:
    """Starts ``gpt2_ft.py`` in ``folder``; ``launcher`` are the arguments of python before the script."""
    command = [PYTHON, *(launcher or []), str(program), *flags]
    return subprocess.Popen(
        command, cwd=folder, env=environment(**env), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run_program(
    folder: Path, flags: list[str], launcher: list[str] | None = None, **env: str
) -> subprocess.CompletedProcess:
    """Runs ``gpt2_ft.py`` to its end."""
    program = start_program(folder, flags, launcher, **env)
    out, err = program.communicate(timeout=240)
    return subprocess.CompletedProcess(program.args, program.returncode, out, err)


def torchrun(processes: int) -> list[str]:
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]


def golden_model(*, r: int = 4, dropout: float = 0.0) -> GPT2LMModel:
    """The tiny model of the recorded numbers, ready to be trained."""
    model = GPT2LMModel(GPT2Config(**TINY), LoRAConfig(r=r, alpha=32, dropout=dropout))
    weights = load_file(NLG / "tiny_gpt2.safetensors")
    if r:
        load_into(model, NLG / "tiny_gpt2.safetensors")
        lora.mark_only_lora_as_trainable(model)
    else:
        base = {name: t for name, t in weights.items() if "lora_" not in name}
        model.transformer.load_state_dict(base)
        model.requires_grad_(True)
    return model


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model_state_dict"]
