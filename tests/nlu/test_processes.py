"""Killed and resumed, in two processes or in accumulated steps: the same run."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from examples.common.errors import UserError, run_main
from examples.common.lock import LOCK_NAME, locked
from examples.common.resume import last_checkpoint
from tests.nlu.world import (
    PROGRAM,
    assert_close_weights,
    assert_same_weights,
    lora_flags,
    one_step,
    read_json,
    run,
    run_here,
    train_flags,
)
from tests.shared_data import REPOSITORY
from tests.warm_python import PYTHON

SAVING = ["--save_strategy", "steps", "--save_steps", 4]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_very_same_weights(world, tmp_path):
    """SIGKILL at any moment after a checkpoint; the same command then ends where the uninterrupted run did."""
    flags = [*lora_flags(), *train_flags(epochs=12), "--do_eval", *SAVING, "--save_total_limit", 3]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(*world.flags(whole), *flags)
    command = [PYTHON, str(PROGRAM), *map(str, [*world.flags(killed), *flags])]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while last_checkpoint(killed) is None and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed; give it more epochs"
    result = run(*world.flags(killed), *flags)
    assert "going on from" in result.stderr
    assert read_json(killed / "run.json")["resumed_from"] is not None
    assert_same_weights(whole, killed)
    for key in ("eval_loss", "eval_matthews_correlation"):
        assert read_json(whole / "eval_results.json")[key] == read_json(killed / "eval_results.json")[key]


@pytest.mark.slow
def test_a_checkpoint_cut_off_while_it_was_written_is_passed_over(world, tmp_path, monkeypatch):
    out, whole = tmp_path / "out", tmp_path / "whole"
    flags = [*lora_flags(), *train_flags(epochs=2), *SAVING]
    run_here(monkeypatch, *world.flags(whole), *flags)
    run_here(monkeypatch, *world.flags(out), *flags)
    newest = last_checkpoint(out)
    (newest / "trainer_state.json").write_text('{"epoch": 1.', encoding="utf-8")
    assert last_checkpoint(out) not in (newest, None)
    run_here(monkeypatch, *world.flags(out), *flags)
    assert read_json(out / "run.json")["resumed_from"] != str(newest)
    assert_same_weights(whole, out)


def test_a_checkpoint_whose_removal_was_cut_off_is_removed_by_the_next_start(world, tmp_path, monkeypatch):
    flags = [*world.flags(tmp_path / "out"), *lora_flags(), *train_flags(epochs=1), *SAVING, "--save_total_limit", 1]
    run_here(monkeypatch, *flags)
    (tmp_path / "out/checkpoint-16").mkdir()
    (tmp_path / "out/checkpoint-16/optimizer.pt").touch()
    run_here(monkeypatch, *flags)
    assert [folder.name for folder in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-20"]


@pytest.mark.slow
@pytest.mark.parametrize("stopped_at", [4, 20, 40])  # inside an epoch of 20 steps, at its end, at the end of the run
def test_a_resumed_run_writes_the_losses_and_evaluations_of_the_whole_run(stopped_at, world, tmp_path, monkeypatch):
    """Checkpoints every 4 steps, evaluations after epochs, logging every 6: nothing is lost or counted twice."""
    out = tmp_path / "out"
    flags = [*lora_flags(), *train_flags(epochs=2), *SAVING, "--evaluation_strategy", "epoch", "--logging_steps", 6]
    run_here(monkeypatch, *world.flags(out), *flags)
    whole, history = read_json(out / "all_results.json"), rows_of(out)
    assert [row["step"] for row in history if "eval_loss" in row] == [20, 40]
    for folder in out.glob("checkpoint-*"):
        if int(folder.name.removeprefix("checkpoint-")) > stopped_at:
            shutil.rmtree(folder)
    run_here(monkeypatch, *world.flags(out), *flags)
    assert read_json(out / "run.json")["resumed_from"].endswith(f"checkpoint-{stopped_at}")
    assert read_json(out / "all_results.json")["train_loss"] == whole["train_loss"] > 0
    assert rows_of(out) == history
    assert read_json(out / "metrics.json")["best"]["step"] in (20, 40)


def rows_of(out):
    """What a run logged, without times."""
    rows = read_json(out / "trainer_state.json")["log_history"]
    return [
        {name: value for name, value in row.items() if "second" not in name and "runtime" not in name} for row in rows
    ]


@pytest.mark.slow
def test_the_best_checkpoint_is_loaded_with_its_update_counted_once(world, tmp_path, monkeypatch):
    """transformers saves in eval mode; the file must hold the plain factors, and the base must not change."""
    out = tmp_path / "out"
    run_here(
        monkeypatch,
        *(*world.flags(out), *lora_flags(), *train_flags(epochs=4), "--do_eval", "--load_best_model_at_end"),
        *("--save_strategy", "epoch", "--evaluation_strategy", "epoch", "--metric_for_best_model", "eval_loss"),
    )
    best = read_json(out / "trainer_state.json")["best_metric"]
    assert read_json(out / "eval_results.json")["eval_loss"] == pytest.approx(best, abs=1e-7)


@pytest.mark.parametrize("name", ["file", "stream", "safetensors", "text"])
def test_a_full_disk_is_one_line(name, tmp_path, capsys):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    value = {"a": torch.zeros(100_000)}

    def write():
        if name == "safetensors":  # its words, as it cannot write to a device
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        if name == "file":
            torch.save(value, full)
        with full.open("w" if name == "text" else "wb") as stream:
            stream.write("x" * 100_000) if name == "text" else torch.save(value, stream)

    with pytest.raises(SystemExit) as end:
        run_main(write)
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1
    assert "No space left on device" in error or "cannot be written: is the disk full?" in error


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pytorch_model_lora.bin", "optimizer.pt"])
def test_a_run_that_met_a_full_disk_goes_on_from_the_checkpoint_before(name, world, tmp_path, monkeypatch):
    """The second checkpoint cannot be written; with room again the same command ends where it would have ended."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    flags = [*lora_flags(), *train_flags(epochs=1), *SAVING, "--save_total_limit", 1]
    run_here(monkeypatch, *world.flags(whole), *flags)
    real = torch.save

    def save(value, file):
        path = str(Path(f"/proc/self/fd/{file.fileno()}").readlink()) if hasattr(file, "fileno") else str(file)
        if "checkpoint-8" in path and name in path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        real(value, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(OSError, match="No space left"):
            run_here(monkeypatch, *world.flags(out), *flags)
    assert last_checkpoint(out).name == "checkpoint-4"
    run_here(monkeypatch, *world.flags(out), *flags)
    assert_same_weights(whole, out)


@pytest.mark.slow
def test_accumulated_steps_give_the_gradient_of_the_whole_batch(world, still_base, tmp_path, monkeypatch):
    run_here(monkeypatch, *one_step(still_base, world, tmp_path / "one", batch=8, accumulation=1))
    run_here(monkeypatch, *one_step(still_base, world, tmp_path / "four", batch=2, accumulation=4))
    assert_close_weights(tmp_path / "one", tmp_path / "four")
    losses = [read_json(tmp_path / name / "trainer_state.json")["log_history"][0]["loss"] for name in ("one", "four")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--reg_loss_wgt", 1.0], ["--label_smoothing_factor", 0.1]])
def test_accumulated_steps_equal_the_last_batch_of_an_epoch_too(more, world, still_base, tmp_path, monkeypatch):
    """45 rows in batches of 16: the last has 13, which are accumulated as 4, 4, 4 and 1."""
    for name, batch, accumulation in (("one", 16, 1), ("four", 4, 4)):
        flags = one_step(still_base, world, tmp_path / name, batch=batch, accumulation=accumulation)
        run_here(monkeypatch, *flags, "--max_train_samples", 45, *more)
    assert_close_weights(tmp_path / "one", tmp_path / "four")
    logged = [read_json(tmp_path / name / "trainer_state.json")["log_history"][2] for name in ("one", "four")]
    for key in ("loss", "grad_norm"):
        assert logged[0][key] == pytest.approx(logged[1][key], abs=1e-4)


THREADS = f"""
import atexit, os, runpy, sys

def name(task):
    try:
        return open(f"/proc/self/task/{{task}}/comm").read().strip()
    except OSError:  # it ended meanwhile
        return ""

def say():
    names = [name(task) for task in os.listdir("/proc/self/task")]
    os.write(1, f"at exit {{[name for name in names if 'gloo' in name]}}\\n".encode())

atexit.register(say)
sys.argv[0] = {str(PROGRAM)!r}
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_two_processes_give_the_gradient_of_one(world, still_base, tmp_path, monkeypatch):
    """And leave no thread of the process group to the interpreter's exit, which such a thread may abort."""
    run_here(monkeypatch, *one_step(still_base, world, tmp_path / "one", batch=8, accumulation=1))
    program = PROGRAM
    if Path("/proc/self/task").exists():
        program = tmp_path / "threads.py"
        program.write_text(THREADS, encoding="utf-8")
    flags = [*one_step(still_base, world, tmp_path / "two", batch=4), "--ddp_backend", "gloo"]
    result = run(*flags, processes=2, program=program)
    assert_close_weights(tmp_path / "one", tmp_path / "two")
    assert program == PROGRAM or result.stdout.count("at exit []\n") == 2


@pytest.mark.slow
def test_a_mistake_in_two_processes_is_still_one_line(world, tmp_path):
    result = run(
        *(*world.flags(tmp_path / "out"), *lora_flags(), *train_flags(), "--train_file", "x.csv"),
        processes=2,
        check=False,
    )
    assert result.returncode != 0
    assert result.stderr.count("error: --data_dir and --train_file") == 1


@pytest.mark.slow
def test_two_runs_never_mix_in_one_folder(world, tmp_path, monkeypatch):
    """The second is refused before it reads or writes anything; the system frees the lock of a killed one."""
    out = tmp_path / "out"
    out.mkdir()
    (out / ".metrics.json.abcdefgh.partial").write_text("half")
    with locked(out / LOCK_NAME), pytest.raises(UserError, match=f"out is in use: another process holds .*{LOCK_NAME}"):
        run_here(monkeypatch, *world.flags(out), *lora_flags(), *train_flags(), "--overwrite_output_dir")
    assert {path.name for path in out.iterdir()} == {LOCK_NAME, ".metrics.json.abcdefgh.partial"}
    run_here(monkeypatch, *world.flags(out), *lora_flags(), *train_flags(epochs=1))
    assert (out / "metrics.json").is_file() and not list(out.glob(".*"))
