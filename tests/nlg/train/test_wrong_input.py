"""Every mistake of a user of ``gpt2_ft.py`` ends in one line that says what to do, and leaves good files alone."""

import json
import math
import re
import resource
import subprocess
import sys

import format_converting_dart
import gpt2_ft
import pytest
import torch
from train.step import TrainStep

from examples.common.errors import UserError
from tests.nlg.train.helpers import SRC, TINY, TINY_TRAIN, environment, run_program, tensors_of, tiny_flags


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_epoch": None}, "when should training end. give --max_epoch or --max_step"),
        ({"max_epoch": 0}, "--max_epoch must be at least 1, got 0"),
        ({"train_batch_size": 0}, "--train_batch_size must be at least 1, got 0"),
        ({"grad_acc": 0}, "--grad_acc must be at least 1"),
        ({"log_interval": 0}, "--log_interval must be at least 1"),
        ({"lora_dim": -1}, "--lora_dim must not be negative, got -1"),
        ({"lora_dropout": 1.0}, "--lora_dropout must be at least 0 and below 1, got 1.0"),
        ({"label_smooth": -0.1}, "--label_smooth must be at least 0 and below 1"),
        ({"adam_beta2": 1.0}, "--adam_beta2 must be at least 0 and below 1"),
        ({"lr": -1}, "--lr must not be negative"),
        ({"lr": "nan"}, "--lr must not be negative, got nan"),
        ({"fp16": True, "bf16": True}, "--fp16 and --bf16 exclude each other"),
        ({"fp16": True, "device": "cpu"}, "--fp16 needs a GPU; on a CPU use --bf16"),
        ({"platform": "azure"}, "azure needed Horovod"),
        ({"seq_len": 65}, "--seq_len 65 exceeds the 64 positions of tiny.json"),
        ({"model_card": "gpt2.xl"}, "expected one of gpt2.sm, gpt2.md, gpt2.lg or the path of a JSON file"),
        ({"train_data": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"train_data": "empty.jsonl"}, "empty.jsonl is empty"),
        ({"valid_data": "foreign.jsonl"}, "foreign.jsonl line 2: 'completion' holds the id 101, .* ends at 100"),
        ({"init_checkpoint": "nowhere.bin"}, "checkpoint nowhere.bin does not exist|nowhere.bin"),
        ({"init_checkpoint": "tiny.json"}, "checkpoint tiny.json is .*not a"),
        ({"init_checkpoint": None, "base_checkpoint": "base.safetensors"}, "--base_checkpoint belongs to"),
        ({"scheduler": "cycle", "i_steps": "1,2"}, "2 values, --i_lrs 1"),
        ({"lora_init": "zeros"}, "--lora_init zeros: choose from independent, released, paper, "),
        ({"lora_targets": "c_proj,ffn"}, "'ffn' is none of query, key, value, c_attn, attn.c_proj, .*, all-linear"),
        ({"lora_targets": "query,c_attn"}, "c_attn is one update of query, key and value"),
        ({"method": "bias"}, "--method bias with --lora_dim 4: lora needs at least 1, the others 0"),
        ({"method": "lora", "lora_dim": 0}, "--method lora with --lora_dim 0"),
        ({"patience": 0}, "--patience must be at least 1, got 0"),
        ({"work_dir": "tiny.json"}, "cannot create the folder tiny.json"),
    ],
)
def test_mistakes_are_named(folder, changed, message):
    (folder / "empty.jsonl").write_text("")
    (folder / "foreign.jsonl").write_text(
        '{"context": [1], "completion": [2]}\n{"context": [1], "completion": [101]}\n'
    )
    with pytest.raises((UserError, FileNotFoundError), match=message):
        gpt2_ft.main(tiny_flags(**{"max_epoch": 1, "work_dir": "w", **changed}))
    assert not list(folder.glob("w/model*"))


@pytest.mark.slow
def test_a_mistake_is_one_line_and_exit_code_2(folder):
    for changed in ({"max_epoch": None}, {"train_data": "nowhere.jsonl", "max_epoch": 1}):
        done = run_program(folder, tiny_flags(work_dir="w", **changed))
        assert done.returncode == 2
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_training_set_smaller_than_a_batch_is_filled_up(folder):
    (folder / "one.jsonl").write_text(TINY_TRAIN.read_text().splitlines()[0] + "\n")
    gpt2_ft.main(tiny_flags(max_epoch=2, work_dir="w", train_data="one.jsonl", valid_data="one.jsonl"))
    metrics = json.loads((folder / "w" / "metrics.json").read_text())
    assert metrics["steps"] == 2 and metrics["tokens"] == 2 * 5 * 4  # 5 copies of a row with 4 completion ids


def test_random_weights_are_warned_of(folder, capsys):
    gpt2_ft.main(tiny_flags(max_step=1, work_dir="w", init_checkpoint=None))
    assert "no --init_checkpoint: training starts from random weights" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_training_and_keeps_what_was_saved(folder, monkeypatch):
    train_batch = TrainStep.__call__

    def breaks_in_step_6(self, batch, step):
        loss, tokens = train_batch(self, batch, step)
        return (loss * math.nan if step == 6 else loss), tokens

    monkeypatch.setattr(TrainStep, "__call__", breaks_in_step_6)
    with pytest.raises(UserError, match="training broke down by step 6: the loss or a weight is not finite"):
        gpt2_ft.main(tiny_flags(max_epoch=2, work_dir="w"))
    state = torch.load(folder / "w" / "training_state.pt", weights_only=True)
    assert state["progress"]["step"] == 5
    assert all(weight.isfinite().all() for weight in state["train"]["weights"].values())
    assert not (folder / "w" / "model.8.pt").exists()


def test_a_weight_that_is_not_finite_is_never_saved(folder):
    # beyond float32: the loss of the first micro-batch is finite, the weights after its update are not
    with pytest.raises(UserError, match="training broke down by step 1"):
        gpt2_ft.main(tiny_flags(max_epoch=2, work_dir="w", lr=1e39, warmup_step=0, save_interval=1))
    assert not list(folder.glob("w/*.pt"))


@pytest.mark.slow
@pytest.mark.parametrize("limit", [4_000, 30_000])  # bytes: below a LoRA-only checkpoint; below a complete one
def test_a_full_disk_ends_with_one_line_and_no_half_written_file(folder, limit):
    def no_large_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, str(SRC / "gpt2_ft.py"), *tiny_flags(max_epoch=2, work_dir="w")],
        cwd=folder,
        env=environment(PYTHONDONTWRITEBYTECODE="1"),
        preexec_fn=no_large_files,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(r"error: w/\S+\.pt: File too large\n", done.stderr), done.stderr
    for path in folder.glob("w/model.*.pt"):
        assert tensors_of(path)
    assert not list(folder.glob("w/.*"))


def test_a_model_card_of_another_size_than_the_weights_is_refused(folder):
    (folder / "wide.json").write_text(json.dumps({**TINY, "n_embd": 64}))
    with pytest.raises(UserError, match=r"has shape \(96,\), the model expects \(192,\); check --model_card"):
        gpt2_ft.main(tiny_flags(max_epoch=1, work_dir="w", model_card="wide.json"))


WRONG_CHECKPOINTS = {
    "text": b"Blue Spice is a coffee shop .\n" * 20,
    "JSON": b'{"wte.weight": [1, 2]}\n',
    "words": b"hello world, these are no weights",
    "zeros": bytes(5000),
    "line": b"0\n",
    "opcodes": b"c\n.R}q\x00(.",
}


@pytest.mark.parametrize("content", WRONG_CHECKPOINTS.values(), ids=WRONG_CHECKPOINTS)
@pytest.mark.parametrize("name", ["x.bin", "x.safetensors"])
def test_any_file_in_place_of_a_checkpoint_is_named(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"checkpoint {name} is .*not a"):
        gpt2_ft.main(tiny_flags(max_epoch=1, work_dir="w", init_checkpoint=name))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lora_config": ["alpha"]}, "its 'lora_config' is damaged"),
        ({"lora_config": {"alpha": "32"}}, "its 'lora_config' is damaged"),
        ({"lora_config": {"base": {"path": "base.safetensors"}}}, "its 'lora_config' is damaged"),
        ({"model_state_dict": {1: torch.ones(1)}}, "does not hold a state dict"),
        ({"model_state_dict": {"h.0.attn.c_attn.lora_B": torch.ones(4)}}, "lora_B should be a matrix, got shape .4,."),
    ],
)
def test_a_checkpoint_of_a_wrong_form_is_named(folder, changed, message):
    gpt2_ft.main(tiny_flags(max_step=1, work_dir="w", save_interval=1, lora_only_checkpoints=True))
    torch.save({**torch.load("w/model.1.pt", weights_only=True), **changed}, "x.pt")
    with pytest.raises(UserError, match=f"checkpoint x.pt.*{message}"):
        gpt2_ft.main(tiny_flags(max_epoch=1, work_dir="v", init_checkpoint="x.pt", base_checkpoint="base.safetensors"))


@pytest.mark.parametrize("key", ["identity", "progress", "train", "processes"])
@pytest.mark.parametrize("value", [None, [], {}, "x"])
def test_a_training_state_of_a_wrong_form_is_named(folder, key, value):
    gpt2_ft.main(tiny_flags(max_step=1, work_dir="w"))
    state = torch.load("w/training_state.pt", weights_only=True)
    torch.save({**state, key: value}, "w/training_state.pt")
    with pytest.raises(UserError, match=r"training_state\.pt (is damaged or not|belongs to another run)"):
        gpt2_ft.main([*tiny_flags(max_step=1, work_dir="w"), "--resume"])


@pytest.mark.parametrize("row", ["[" * 100_000, '{"context": [' + "1" * 5000 + '], "completion": [1]}'])
def test_json_that_python_cannot_read_is_named(folder, row):
    (folder / "deep.json").write_text(row + "\n")
    with pytest.raises(UserError, match=r"deep\.json line 1: "):
        gpt2_ft.main(tiny_flags(max_step=1, work_dir="w", train_data="deep.json"))
    with pytest.raises(UserError, match=r"--model_card deep\.json: not JSON"):
        gpt2_ft.main(tiny_flags(max_step=1, work_dir="w", model_card="deep.json"))
    with pytest.raises(UserError, match=r"deep\.json"):
        format_converting_dart.main(["deep.json", "out"])


@pytest.mark.slow
def test_programs_run_without_docstrings(folder):
    for program in ("gpt2_ft.py", "gpt2_beam.py", "results_table.py"):
        command = [sys.executable, "-OO", str(SRC / program), "--help"]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=100)
        assert (done.returncode, done.stderr) == (0, "") and "usage" in done.stdout


@pytest.mark.slow
def test_a_locale_of_ascii_alone_shows_other_names_in_escapes(folder):
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = run_program(folder, tiny_flags(max_step=1, work_dir="café"), **ascii_only)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "Experiment dir : caf" in done.stdout and (folder / "café" / "model.1.pt").exists()
