"""``gpt2_ft.py`` as a whole, in one process: lines and files against recorded runs of the released program."""

import json
import os
import re
import shlex
import subprocess
import sys

import gpt2_ft
import pytest
import torch
from safetensors.torch import load_file
from train.flags import check_flags

from tests.nlg.train.helpers import NLG, SRC, TINY_TRAIN, environment, run_program, tensors_of, tiny_flags
from tests.warm_python import PYTHON

CLI = NLG / "cli"
CHECKPOINTS = json.loads((CLI / "ft_checkpoints.json").read_text())
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
OTHER_VALUES = ("train_data", "valid_data", "model_card", "init_checkpoint", "dist")  # files have other names here


def comparable(line):
    """(text without decimal numbers, the numbers); times and file names are left out."""
    line = re.sub(r"(ms/batch|time:) +[\d.<T>]+", r"\1", line)
    line = re.sub(rf"^( +- (?:{'|'.join(OTHER_VALUES)}) :).*", r"\1", line)
    return NUMBER.sub("#", line), [float(number) for number in NUMBER.findall(line)]


def assert_lines_contain(printed, golden):
    """Every recorded line is printed, in order; lines between them are new."""
    lines = iter(printed.splitlines())
    for wanted in golden.splitlines():
        text, numbers = comparable(wanted)
        for line in lines:
            found, values = comparable(line)
            if found == text and values == pytest.approx(numbers, rel=1e-6):
                break
        else:
            pytest.fail(f"not printed, or not in this place: {wanted}")


def kinds(work_dir):
    """Name to (container of the tensors, how many), for numbered checkpoints."""
    found = {}
    for path in work_dir.glob("model.[0-9]*.pt"):
        state = tensors_of(path)
        found[path.name] = (type(state).__name__, len(state))
    return found


def recorded_kinds(run):
    return {name: (c["container"], c.get("n", len(c.get("keys", ())))) for name, c in CHECKPOINTS[run].items()}


@pytest.mark.slow
def test_lines_and_files_of_the_recorded_run(folder):
    done = run_program(folder, tiny_flags(max_epoch=2, work_dir="w1"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("myrank: 0 local_rank: 0 device_count: ")
    assert_lines_contain(done.stdout, (CLI / "ft_world1_stdout.txt").read_text())
    assert done.stderr == ""
    assert kinds(folder / "w1") == recorded_kinds("w1")
    for name in ("model.10.pt", "model.4.pt"):
        assert list(tensors_of(folder / "w1" / name)) == CHECKPOINTS["w1"][name]["keys"]
    final = tensors_of(folder / "w1" / "model.10.pt")
    for name, golden in load_file(CLI / "ft_world1_final_lora.safetensors").items():
        assert (final[name] - golden).abs().max() <= 1e-4 * golden.abs().max(), name
    base = load_file(folder / "base.safetensors")
    for name, tensor in base.items():
        assert torch.equal(final[f"module.transformer.{name}"], tensor), name


def test_max_step_ends_inside_an_epoch_with_a_complete_checkpoint(folder):
    gpt2_ft.main(tiny_flags(max_step=7, work_dir="w2"))
    assert kinds(folder / "w2") == recorded_kinds("w2_max_step7")


@pytest.mark.slow
def test_metrics_and_record_of_a_run(folder, monkeypatch):
    monkeypatch.setattr("sys.argv", ["gpt2_ft.py", "--some", "flag"])
    gpt2_ft.main(tiny_flags(max_epoch=2, work_dir="w"))
    metrics, record = (json.loads((folder / "w" / name).read_text()) for name in ("metrics.json", "run.json"))
    assert metrics["trainable_parameters"] == 2 * (8 * 32 + 64 * 4)  # blocks x (lora_A + lora_B)
    assert (
        metrics["total_parameters"]
        == sum(t.numel() for t in load_file(folder / "base.safetensors").values()) + metrics["trainable_parameters"]
    )
    completions = [len(json.loads(line)["completion"]) for line in TINY_TRAIN.read_text().splitlines()]
    assert metrics["steps"] == 10
    assert 2 * sum(completions) < metrics["tokens"] <= 2 * (sum(completions) + max(completions))  # and a filler row
    assert metrics["checkpoint_bytes"] == (folder / "w" / "model.10.pt").stat().st_size
    assert metrics["best_valid_loss"] == metrics["final_valid_loss"] and metrics["best_step"] == 10
    assert metrics["settings"]["lora_dim"] == 4 and metrics["seed"] == 110 and metrics["finished"] is True
    assert record["finished"] is True and record["files"].keys() == {"train_data", "valid_data", "init_checkpoint"}
    assert record["command"].endswith("gpt2_ft.py --some flag")
    assert 0 < metrics["peak_memory_bytes"] <= record["peak_memory_bytes"]
    rows = [json.loads(line) for line in (folder / "w" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train_loss" in row] == [2, 4, 6, 8, 10]
    assert [row["step"] for row in rows if "valid_loss" in row] == [5, 10]
    assert rows[-1]["valid_loss"] == metrics["final_valid_loss"]


@pytest.mark.slow
def test_the_best_checkpoint_is_that_of_the_lowest_validation_loss(folder):
    # a rate that is far too high in the end makes later steps worse
    flags = {"scheduler": "cycle", "i_steps": "0,4,8,9", "i_lrs": "0.01,0.01,2.0,2.0", "eval_interval": 2}
    gpt2_ft.main(tiny_flags(max_epoch=9, work_dir="w", save_interval=2, **flags))
    rows = [json.loads(line) for line in (folder / "w" / "log.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["valid_loss"] for row in rows if "valid_loss" in row}
    best = min(losses, key=lambda step: losses[step])
    assert best < max(losses)
    saved, of_step = tensors_of(folder / "w" / "model.best.pt"), tensors_of(folder / "w" / f"model.{best}.pt")
    assert saved.keys() == of_step.keys() and all(torch.equal(saved[name], of_step[name]) for name in saved)


@pytest.mark.slow
def test_without_lora_every_checkpoint_is_complete(folder):
    gpt2_ft.main(tiny_flags(max_step=5, work_dir="w", lora_dim=0, lora_alpha=None))
    assert kinds(folder / "w") == {"model.4.pt": ("OrderedDict", 31), "model.5.pt": ("OrderedDict", 31)}
    assert "module.transformer.wte.weight" in tensors_of(folder / "w" / "model.best.pt")


@pytest.mark.slow
def test_lora_only_checkpoints_and_evaluation_at_epoch_ends(folder, capsys):
    gpt2_ft.main(
        tiny_flags(max_epoch=2, work_dir="w", lora_only_checkpoints=True, eval_each_epoch=True, eval_interval=100)
    )
    assert set(kinds(folder / "w").values()) == {("dict", 4)}
    assert re.findall(r"Eval +\d+ at step +(\d+)", capsys.readouterr().out) == ["5", "10"]


@pytest.mark.slow
def test_the_printed_best_restarts_each_epoch(folder, capsys):
    flags = {"scheduler": "cycle", "i_steps": "0,4,6,20", "i_lrs": "0.01,0.01,2.0,2.0", "eval_interval": 5}
    gpt2_ft.main(tiny_flags(max_epoch=2, work_dir="w", **flags))
    evaluations = re.findall(r"valid ppl +(\S+) \| best ppl +(\S+) ", capsys.readouterr().out)
    assert len(evaluations) == 2 and float(evaluations[1][0]) > float(evaluations[0][0])
    assert [ppl for ppl, _ in evaluations] == [best for _, best in evaluations]


def test_the_default_cycle_ends_after_one_epoch_as_released(folder, capsys):
    gpt2_ft.main(tiny_flags(max_epoch=3, work_dir="w", scheduler="cycle"))
    assert "max_step is rest to 0\n" in capsys.readouterr().out
    assert json.loads((folder / "w" / "metrics.json").read_text())["steps"] == 5


def test_a_cycle_needs_no_other_end(folder):
    gpt2_ft.main(tiny_flags(work_dir="w", scheduler="cycle", i_steps="0,7", i_lrs="0.01,0.02"))
    assert json.loads((folder / "w" / "metrics.json").read_text())["steps"] == 7


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals")
def test_a_progress_bar_on_a_terminal_leaves_the_lines_as_they_are(folder):
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # rows, columns
    program = subprocess.Popen(
        [PYTHON, str(SRC / "gpt2_ft.py"), *tiny_flags(max_epoch=2, work_dir="w")],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    lines, _ = program.communicate(timeout=100)
    shown = os.read(ours, 100_000).decode(errors="replace")  # may end inside a character
    os.close(theirs)
    os.close(ours)
    assert "/10 [" in shown
    assert_lines_contain(lines, (CLI / "ft_world1_stdout.txt").read_text().replace("w1", "w"))


def test_dead_flags_are_accepted_with_one_warning_that_names_them(folder, capsys):
    gpt2_ft.main([*tiny_flags(max_step=1, work_dir="w"), "--rank", "3", "--device", "0", "--roll_lr", "0.1"])
    err = capsys.readouterr().err
    assert err == "warning: no effect, as in the released code: --device --rank --roll_lr\n"


def test_local_rank_is_accepted_with_a_dash(folder, capsys):
    gpt2_ft.main([*tiny_flags(max_step=1, work_dir="w"), "--local-rank=0"])
    assert "        - local_rank : 0\n" in capsys.readouterr().out


def test_the_command_of_the_released_readme_is_understood():
    flags = (
        "--train_data ./data/e2e/train.jsonl --valid_data ./data/e2e/valid.jsonl --train_batch_size 8 --grad_acc 1 "
        "--valid_batch_size 4 --seq_len 512 --model_card gpt2.md "
        "--init_checkpoint ./pretrained_checkpoints/gpt2-medium-pytorch_model.bin --platform local --clip 0.0 "
        "--lr 0.0002 --weight_decay 0.01 --correct_bias --adam_beta2 0.999 --scheduler linear --warmup_step 500 "
        "--max_epoch 5 --save_interval 1000 --lora_dim 4 --lora_alpha 32 --lora_dropout 0.1 --label_smooth 0.1 "
        "--work_dir ./trained_models/GPT2_M/e2e --random_seed 110"
    )
    args = gpt2_ft.build_parser().parse_args(shlex.split(flags))
    check_flags(args)
    assert (args.adam_epislon, args.adam_beta1, args.eval_interval, args.obj) == (1e-6, 0.9, 2000, "clm")


@pytest.mark.slow
def test_tf32_is_off_unless_asked_for(folder):
    try:
        gpt2_ft.main(tiny_flags(max_step=1, work_dir="w", tf32=True))
        assert torch.get_float32_matmul_precision() == "high"
        gpt2_ft.main(tiny_flags(max_step=1, work_dir="v"))
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("init", ["independent", "paper", "paper_era"])
def test_other_initialisations_differ_between_blocks(folder, init):
    gpt2_ft.main(tiny_flags(max_step=1, save_interval=1, work_dir="w", lora_init=init))  # the first rate is 0
    state = tensors_of(folder / "w" / "model.1.pt")
    A = [state[f"module.transformer.h.{block}.attn.c_attn.lora_A"] for block in (0, 1)]
    assert not torch.equal(*A)


def test_released_initialisation_is_equal_in_all_blocks(folder):
    gpt2_ft.main(tiny_flags(max_step=1, save_interval=1, work_dir="w"))
    state = tensors_of(folder / "w" / "model.1.pt")
    assert torch.equal(*(state[f"module.transformer.h.{block}.attn.c_attn.lora_A"] for block in (0, 1)))
    assert not state["module.transformer.h.0.attn.c_attn.lora_B"].any()


@pytest.mark.slow
def test_training_goes_on_from_a_lora_checkpoint_of_an_earlier_run(folder):
    gpt2_ft.main(tiny_flags(max_step=4, work_dir="w", lora_only_checkpoints=True))
    gpt2_ft.main(tiny_flags(max_step=4, work_dir="v", init_checkpoint="w/model.4.pt", lr=0.0))
    first, second = tensors_of(folder / "w" / "model.4.pt"), tensors_of(folder / "v" / "model.4.pt")
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.slow
def test_tensorboard_events_are_written_when_asked_for(folder):
    pytest.importorskip("tensorboard")
    gpt2_ft.main(tiny_flags(max_step=5, work_dir="w", tensorboard=True))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "w"))
    events.Reload()
    rows = [json.loads(line) for line in (folder / "w" / "log.jsonl").read_text().splitlines()]
    logged = [(row["step"], row["train_loss"]) for row in rows if "train_loss" in row]
    assert [(e.step, pytest.approx(e.value)) for e in events.Scalars("train_loss")] == logged


@pytest.mark.slow
def test_a_run_says_what_it_trains_and_how_much_is_left(folder, capsys):
    gpt2_ft.main(tiny_flags(max_epoch=2, work_dir="w"))
    metrics = json.loads((folder / "w" / "metrics.json").read_text())
    lines = capsys.readouterr().out.splitlines()
    said = f"trainable parameters: {metrics['trainable_parameters']:,} of {metrics['total_parameters']:,}"
    assert lines.index(said) < lines.index("start to train the model................ 1")
    for step in (2, 4, 6, 8):
        (line,) = [line for line in lines if line.startswith(f"  step {step} of 10, ")]
        assert re.fullmatch(rf"  step {step} of 10, \S+ a second, about \d+:\d\d:\d\d left", line)
    assert sum(" left" in line for line in lines) == 4  # none at the last step
