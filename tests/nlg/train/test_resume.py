"""A run that was interrupted and resumed ends exactly as one that was not: every bit of every weight and log row."""

import json
import shutil
import signal
import time

import gpt2_ft
import pytest
import torch
from train.loop import Trainer

from examples.common.errors import UserError
from tests.nlg.train.helpers import run_program, start_program, tensors_of, tiny_flags

# dropout draws random numbers, three micro-batches an update leave gradients behind at most steps
HARD = {"lora_dropout": 0.1, "grad_acc": 3, "clip": 0.5, "max_epoch": 3, "correct_bias": None}


def stop_at(monkeypatch, step, signum=signal.SIGINT):
    """Sends a signal during the given micro-batch of the next run."""
    train_batch = Trainer._train_batch

    def stopping(self, rows):
        train_batch(self, rows)
        if self.progress.step == step:
            signal.raise_signal(signum)

    monkeypatch.setattr(Trainer, "_train_batch", stopping)


def assert_same_end(one, other):
    assert (one / "log.jsonl").read_text() == (other / "log.jsonl").read_text()
    names = sorted(path.name for path in one.glob("model.*.pt"))
    assert names == sorted(path.name for path in other.glob("model.*.pt")) and "model.best.pt" in names
    for name in names:
        a, b = tensors_of(one / name), tensors_of(other / name)
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a), name
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (one, other)]
    for key in ("steps", "tokens", "best_valid_loss", "best_step", "final_valid_loss", "final_valid_token_loss"):
        assert metrics[0][key] == metrics[1][key], key
    assert metrics[0]["finished"] and metrics[1]["finished"]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Makes ``whole``, or another copy of an uninterrupted run, in the working folder; each is trained once."""
    trained = {}

    def whole(copy="whole", **flags):
        key = json.dumps(flags, sort_keys=True)
        if key not in trained:
            trained[key] = tmp_path_factory.mktemp("trained") / "run"
            gpt2_ft.main(tiny_flags(work_dir=str(trained[key]), **flags))
        shutil.copytree(trained[key], copy)

    return whole


@pytest.mark.slow
@pytest.mark.parametrize(  # of 15 steps; 5 and 10 end an epoch, 4 and 8 save
    ("lora_dim", "step"), [*((4, step) for step in (1, 3, 4, 5, 7, 10, 14)), (0, 4), (0, 5), (0, 14)]
)
def test_resuming_after_ctrl_c_equals_an_uninterrupted_run(folder, whole_run, monkeypatch, capsys, step, lora_dim):
    flags = HARD if lora_dim else {**HARD, "lora_dim": 0, "lora_dropout": 0.0}
    whole_run(**flags)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(SystemExit, match="130"):
            gpt2_ft.main(tiny_flags(work_dir="parts", **flags))
    printed = capsys.readouterr().out
    assert printed.endswith("-" * 100 + "\nExiting from training early\ncleanup dist ...\n")
    assert json.loads((folder / "parts" / "run.json").read_text())["finished"] is False
    gpt2_ft.main([*tiny_flags(work_dir="parts", **flags), "--resume"])
    assert f"resuming after step {step} in epoch" in capsys.readouterr().out
    assert_same_end(folder / "whole", folder / "parts")


@pytest.mark.slow
def test_a_run_may_be_interrupted_again_and_again(folder, whole_run, monkeypatch):
    whole_run(**HARD)
    for step in (2, 6, 7, 13):
        with monkeypatch.context() as patch:
            stop_at(patch, step, signal.SIGTERM)
            with pytest.raises(SystemExit, match="143"):
                gpt2_ft.main([*tiny_flags(work_dir="parts", **HARD), "--resume"])
    gpt2_ft.main([*tiny_flags(work_dir="parts", **HARD), "--resume"])
    assert_same_end(folder / "whole", folder / "parts")


@pytest.mark.slow
def test_resuming_after_kill_9_equals_an_uninterrupted_run(folder):
    flags = {**HARD, "max_epoch": 40, "lora_only_checkpoints": True}
    killed = start_program(folder, tiny_flags(work_dir="parts", **flags))
    log = folder / "parts" / "log.jsonl"
    deadline = time.monotonic() + 120
    while not log.exists() or log.read_text().count("\n") < 12:
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    done = run_program(folder, [*tiny_flags(work_dir="parts", **flags), "--resume"])
    assert done.returncode == 0, done.stderr
    assert "resuming after step" in done.stdout
    gpt2_ft.main(tiny_flags(work_dir="whole", **flags))
    assert_same_end(folder / "whole", folder / "parts")


@pytest.mark.slow
def test_ctrl_c_from_outside_ends_with_130_and_a_saved_state(folder):
    program = start_program(folder, tiny_flags(work_dir="w", max_epoch=100000))
    assert program.stdout is not None
    while program.stdout.readline() != "":
        if (folder / "w" / "training_state.pt").exists():
            break
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=60)
    assert program.returncode == 130, err
    assert out.endswith("Exiting from training early\ncleanup dist ...\n") and "Traceback" not in err
    state = torch.load(folder / "w" / "training_state.pt", weights_only=True)
    assert json.loads((folder / "w" / "metrics.json").read_text())["steps"] == state["progress"]["step"]


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing(folder, whole_run, capsys):
    whole_run(copy="w", **HARD)
    before = {path.name: path.read_bytes() for path in (folder / "w").glob("model.*.pt")}
    log = (folder / "w" / "log.jsonl").read_text()
    capsys.readouterr()
    gpt2_ft.main([*tiny_flags(work_dir="w", **HARD), "--resume"])
    assert "End of training" in capsys.readouterr().out
    assert before == {path.name: path.read_bytes() for path in (folder / "w").glob("model.*.pt")}
    assert log == (folder / "w" / "log.jsonl").read_text()


def test_resuming_without_a_state_starts_from_the_beginning_and_says_so(folder, capsys):
    gpt2_ft.main([*tiny_flags(work_dir="w", max_step=2), "--resume"])
    assert "w holds no training state; training starts from the beginning" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lr": 0.02}, "--lr was 0.01, is 0.02"),
        ({"max_epoch": 2}, "--max_step was 15, is 10; --max_epoch was 3, is 2"),
        ({"max_epoch": None, "max_step": 14}, "--max_step was 15, is 14"),
        ({"eval_interval": 6}, "--eval_interval was 5, is 6"),
        ({"random_seed": 1}, "--random_seed was 110, is 1"),
        ({"lora_alpha": 16}, "--lora_alpha was 32, is 16"),
        ({"train_data": "valid.jsonl"}, "the content of --train_data was "),
        ({"valid_data": "other.jsonl"}, "the content of --valid_data was "),
        ({"init_checkpoint": None}, "the content of --init_checkpoint was .* is None"),
    ],
)
def test_the_state_of_another_run_is_refused_with_the_difference(folder, whole_run, changed, message):
    whole_run(copy="w", **HARD)
    (folder / "other.jsonl").write_text((folder / "valid.jsonl").read_text() * 2)
    with pytest.raises(UserError, match=rf"--resume: w/training_state.pt belongs to another run: .*{message}"):
        gpt2_ft.main([*tiny_flags(work_dir="w", **{**HARD, **changed}), "--resume"])


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["constant", "linear"])
def test_a_finished_run_goes_on_to_a_later_end(folder, capsys, scheduler):
    """At a constant rate it then equals a run that was so long from the beginning; other rates follow the new end."""
    flags = {**HARD, "scheduler": scheduler}
    gpt2_ft.main(tiny_flags(work_dir="parts", **{**flags, "max_epoch": 2}))
    capsys.readouterr()
    gpt2_ft.main([*tiny_flags(work_dir="parts", **flags), "--resume"])
    said = capsys.readouterr()
    assert "resuming after step 10 in epoch 3" in said.out
    assert said.err == (
        "warning: --resume: --max_step was 10, is 15; --max_epoch was 2, is 3: training goes on longer, "
        "from here at the rates of that length\n"
    )
    if scheduler == "constant":
        gpt2_ft.main(tiny_flags(work_dir="whole", **flags))
        assert_same_end(folder / "whole", folder / "parts")
    rows = [json.loads(line) for line in (folder / "parts" / "log.jsonl").read_text().splitlines()]
    rates = {row["step"]: row["lr"] for row in rows if "lr" in row}
    peak = 0.01  # reached after 3 steps
    assert rates[12] == pytest.approx(peak if scheduler == "constant" else peak * (15 - 11) / (15 - 3))


@pytest.mark.slow
def test_a_run_that_ended_inside_an_epoch_goes_on_there(folder):
    flags = {**HARD, "scheduler": "constant", "max_epoch": None}
    gpt2_ft.main(tiny_flags(work_dir="whole", **flags, max_step=13))
    gpt2_ft.main(tiny_flags(work_dir="parts", **flags, max_step=7))
    gpt2_ft.main([*tiny_flags(work_dir="parts", **flags, max_step=13), "--resume"])
    (folder / "parts" / "model.7.pt").unlink()  # of the first end
    whole, parts = (
        [json.loads(line) for line in (folder / run / "log.jsonl").read_text().splitlines()]
        for run in ("whole", "parts")
    )
    assert [row for row in whole if row["step"] != 8] == [row for row in parts if row["step"] != 8]  # mean since step 7
    states = [torch.load(folder / run / "training_state.pt", weights_only=True) for run in ("whole", "parts")]
    assert all(torch.equal(t, states[1]["train"]["weights"][n]) for n, t in states[0]["train"]["weights"].items())
    assert states[0]["progress"]["epoch"] == states[1]["progress"]["epoch"] == 3


@pytest.mark.slow
def test_how_often_a_run_reports_may_change_when_it_goes_on(folder, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stop_at(patch, 7)
        gpt2_ft.main(tiny_flags(work_dir="w", **HARD))
    gpt2_ft.main([*tiny_flags(work_dir="w", **HARD, log_interval=3, save_interval=9), "--resume"])
    steps = [json.loads(line)["step"] for line in (folder / "w" / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 5, 6, 9, 10, 12, 15, 15]


@pytest.mark.slow
def test_equal_files_at_other_places_are_the_same_run(folder, whole_run):
    whole_run(copy="w", **HARD)
    (folder / "moved.safetensors").write_bytes((folder / "base.safetensors").read_bytes())
    gpt2_ft.main([*tiny_flags(work_dir="w", **HARD, init_checkpoint="moved.safetensors", save_interval=9), "--resume"])


@pytest.mark.parametrize("content", [b"", b"no state", b"PK\x03\x04"])
def test_a_damaged_state_is_refused(folder, content):
    (folder / "w").mkdir()
    (folder / "w" / "training_state.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"training_state\.pt is damaged"):
        gpt2_ft.main([*tiny_flags(work_dir="w", **HARD), "--resume"])
