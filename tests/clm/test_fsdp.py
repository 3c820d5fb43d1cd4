"""FSDP: sharded over two processes a run of ``run_clm.py`` is that of one process, and its files are the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from clm.arguments import ClmTrainingArguments, parse
from safetensors import safe_open
from safetensors.torch import load_file
from transformers.training_args import ParallelMode

from examples.common.errors import UserError
from tests.clm.world import CLM, run, run_two, words
from tests.shared_data import REPOSITORY

ON_CPU = REPOSITORY / "tests/common/fsdp_on_cpu.py"
FSDP = ["--fsdp", "--fsdp_config", REPOSITORY / "examples/common/fsdp.json"]
# plain gradient steps, unclipped, so that the weights show the gradient
PLAIN = ["--optim", "sgd", "--max_grad_norm", 0, "--lr_scheduler_type", "constant", "--learning_rate", 0.1]
PLAIN += ["--logging_steps", 1, "--save_steps", 2, "--cls_dropout", 0]


def run_sharded(world: Path, *flags: object, check: bool = True, **files: str):
    half = ["--per_device_train_batch_size", 2]
    return run_two(ON_CPU, CLM / "run_clm.py", *words(world, *flags, *half, *FSDP, **files), check=check)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    adapter = folder / "adapter_model.safetensors"
    return load_file(adapter if adapter.is_file() else folder / "model.safetensors")


def log_of(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "layer", "task", "flags"),
    [
        ("gpt2", "GPT2Block", "sft", []),  # a fused projection, and an output layer tied to the embedding
        ("llama", "LlamaDecoderLayer", "cls", ["--lora_targets", "all-linear"]),
        ("gpt2", "GPT2Block", "sft", ["--method", "full"]),
    ],
)
def test_two_sharded_processes_give_losses_weights_and_files_of_one(
    kind, layer, task, flags, world, tmp_path, monkeypatch
):
    """Tolerances as between any two orders of a float32 sum."""
    train = {"sft": "pairs.jsonl", "cls": "films.jsonl"}[task]
    flags = ["--task", task, *PLAIN, *flags, "--output_dir"]
    one, two = tmp_path / "one", tmp_path / "two"
    run(world, monkeypatch, *flags, one, base=kind, train=train)
    result = run_sharded(world, *flags, two, base=kind, train=train)
    assert result.stdout.count(f"sharded {layer}\n") == 2 * 3  # in each process, each of the three blocks
    for part in (".", "checkpoint-2"):
        a, b = weights_of(one / part), weights_of(two / part)
        assert list(a) == list(b)
        for name, value in a.items():
            torch.testing.assert_close(
                value, b[name], rtol=0.0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )
    for a, b in zip(log_of(one)[:4], log_of(two), strict=False):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    names = [{path.name for path in folder.iterdir() if path.is_file()} for folder in (one, two)]
    assert names[0] == names[1]
    if "full" not in flags:
        headers = [safe_open(folder / "adapter_model.safetensors", "pt").metadata() for folder in (one, two)]
        assert headers[0] == headers[1] and len(str(headers[0])) > 100  # with digests of the base
        names = [{path.name for path in (folder / "checkpoint-2").iterdir()} for folder in (one, two)]
        assert names[0] ^ names[1] == {
            "optimizer.pt",
            "optimizer.bin",
            "rng_state.pth",
            "rng_state_0.pth",
            "rng_state_1.pth",
        }


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "top2"])
def test_a_sharded_run_goes_on_from_its_checkpoint_to_the_very_same_weights(method, world, tmp_path):
    """With dropout and AdamW: also the moments of the optimizer and the random states come back."""
    flags = ["--task", "cls", "--cls_dropout", 0.3, "--method", method, "--save_steps", 2, "--output_dir"]
    flags = [*(["--lora_dropout", 0.2] if method == "lora" else []), *flags]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_sharded(world, *flags, whole, train="films.jsonl")
    shutil.copytree(whole / "checkpoint-2", cut / "checkpoint-2")
    result = run_sharded(world, *flags, cut, train="films.jsonl")
    assert "going on from" in result.stderr
    a, b = weights_of(whole), weights_of(cut)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert log_of(whole)[-1]["train_loss"] == log_of(cut)[-1]["train_loss"] > 0


@pytest.mark.slow
def test_the_best_weights_of_a_sharded_run_start_another_and_are_evaluated_without_shards(world, tmp_path, monkeypatch):
    out, again, file = tmp_path / "out", tmp_path / "again", world / "pairs_val.jsonl"
    evaluation = ["--do_eval", "--validation_file", file, "--output_dir"]
    best = ["--eval_strategy", "steps", "--eval_steps", 1, "--load_best_model_at_end", "--learning_rate", 0.3]
    best += ["--greater_is_better", "true"]  # so that the best are not the last
    run_sharded(world, *best, *evaluation, out)
    losses = [row["eval_loss"] for row in log_of(out) if "eval_loss" in row]
    assert max(losses) > losses[3] + 1e-3
    scores = json.loads((out / "metrics.json").read_text())["scores"]
    assert scores["eval_loss"] == pytest.approx(max(losses), rel=1e-6)
    run(world, monkeypatch, "--lora_path", out, "--learning_rate", 0, *evaluation, again)
    assert json.loads((again / "metrics.json").read_text())["scores"]["eval_loss"] == pytest.approx(
        max(losses), rel=1e-6
    )


@pytest.mark.slow
def test_a_checkpoint_goes_on_only_the_way_it_was_saved(world, tmp_path, monkeypatch):
    flags = ["--save_steps", 2, "--output_dir", tmp_path]
    run(world, monkeypatch, *flags)
    shutil.rmtree(tmp_path / "checkpoint-4")
    result = run_sharded(world, *flags, check=False)
    assert result.returncode != 0
    assert result.stderr.count("error: ") == 1 and "was saved without --fsdp and goes on only that way" in result.stderr


@pytest.mark.parametrize(
    ("mode", "flags", "message"),
    [
        (ParallelMode.NOT_PARALLEL, [], "start them with torchrun"),
        (ParallelMode.DISTRIBUTED, ["--do_train", "false", "--do_eval", "--validation_file", "x"], "is for training"),
        (ParallelMode.DISTRIBUTED, ["--add_tokens", "x", "--train_added_tokens"], "neither with --train_added_tokens"),
    ],
)
def test_what_fsdp_cannot_do_is_said(mode, flags, message, tmp_path, monkeypatch):
    monkeypatch.setattr(ClmTrainingArguments, "parallel_mode", mode)
    with pytest.raises(UserError, match=message):
        parse(words(tmp_path, "--output_dir", tmp_path, *flags, *FSDP))
