"""A work folder holds one run, and one trainer at a time: nothing of one run is ever taken for another's."""

import signal
import time

import gpt2_ft
import pytest
from train.loop import Trainer

from examples.common.errors import UserError
from tests.nlg.train.helpers import start_program, tiny_flags


def stop_after(monkeypatch, step):
    """Ends the next run with a request to stop after this micro-batch."""
    train_batch = Trainer._train_batch

    def stopping(self, rows):
        train_batch(self, rows)
        if self.progress.step == step:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_train_batch", stopping)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_new_run_in_the_folder_of_a_stopped_one_is_refused_and_changes_nothing(folder, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="143"):
        stop_after(patch, 7)
        gpt2_ft.main(tiny_flags(work_dir="w", max_epoch=3))
    before = contents(folder / "w")
    with pytest.raises(UserError, match=r"^w holds 4 checkpoints of an earlier run, first model\.4\.pt: add --resume "):
        gpt2_ft.main(tiny_flags(work_dir="w", max_epoch=3, random_seed=1))
    assert contents(folder / "w") == before


@pytest.mark.parametrize("left", ["model.best.pt", "model.20.pt", "training_state.pt"])
def test_any_checkpoint_that_is_left_refuses_a_new_run(folder, left):
    (folder / "w").mkdir()
    (folder / "w" / left).write_bytes(b"")
    with pytest.raises(UserError, match=f"w holds 1 checkpoints of an earlier run, first {left}: add --resume "):
        gpt2_ft.main(tiny_flags(work_dir="w", max_step=2))


def test_a_folder_that_a_run_left_before_its_first_checkpoint_is_used(folder):
    (folder / "w").mkdir()
    for name in ("log.jsonl", "run.json", "train.log"):
        (folder / "w" / name).write_text("{}\n")
    gpt2_ft.main(tiny_flags(work_dir="w", max_step=2))
    assert len((folder / "w" / "log.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("rows", [0, 2, None])
def test_a_log_that_is_shorter_than_the_state_says_is_refused(folder, rows):
    gpt2_ft.main(tiny_flags(work_dir="w", max_epoch=1))
    log = folder / "w" / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    assert len(lines) == 3
    log.unlink() if rows is None else log.write_text("".join(lines[:rows]))
    with pytest.raises(UserError, match=rf"--resume: w/log\.jsonl has {rows or 0} rows, .* written after row 3"):
        gpt2_ft.main([*tiny_flags(work_dir="w", max_epoch=1), "--resume"])
    assert log.exists() is (rows is not None)


@pytest.mark.slow
def test_a_second_trainer_in_a_folder_is_refused_until_the_first_one_is_dead(folder):
    first = start_program(folder, tiny_flags(work_dir="w", max_epoch=100000))
    deadline = time.monotonic() + 120
    while not (folder / "w" / "training_state.pt").exists():
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    for more in ([], ["--resume"]):
        second = start_program(folder, [*tiny_flags(work_dir="w", max_epoch=100000), *more])
        _, err = second.communicate(timeout=120)
        assert second.returncode == 2
        assert err == "error: w is in use: another process holds w/training.lock\n"
    first.kill()
    first.communicate()
    with pytest.raises(UserError, match="--max_step was 500000, is 5"):  # not: in use
        gpt2_ft.main([*tiny_flags(work_dir="w", max_epoch=1), "--resume"])


@pytest.mark.parametrize(
    ("flag", "name"),
    [("init_checkpoint", "model.6.pt"), ("base_checkpoint", "model.best.pt"), ("train_data", "log.jsonl")],
)
@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_an_input_that_the_run_would_overwrite_is_refused(folder, flag, name, more):
    (folder / "w").mkdir()
    (folder / "w" / name).write_bytes(b"precious")
    (folder / "link").symlink_to("w")
    for work_dir in ("w", "link"):
        with pytest.raises(UserError, match=rf"^{work_dir}/{name} would be written, but it is an input too"):
            gpt2_ft.main([*tiny_flags(work_dir=work_dir, max_step=2, **{flag: f"w/{name}"}), *more])
    assert contents(folder / "w") == {name: b"precious"}


KILLED_WHILE_SAVING = """
import os, signal, sys
import gpt2_ft

replace = os.replace
def killed(temporary, path):
    if str(path).endswith("training_state.pt"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(temporary, path)

os.replace = killed
gpt2_ft.main()
"""


@pytest.mark.slow
def test_what_a_kill_during_a_save_left_is_removed_at_the_next_start(folder, capsys):
    (folder / "killed.py").write_text(KILLED_WHILE_SAVING)
    flags = tiny_flags(work_dir="w", max_epoch=1)
    start_program(folder, flags, program=folder / "killed.py").communicate(timeout=120)
    (left,) = folder.glob("w/.training_state.pt.*.partial")
    mine = {".model.4.pt.partial", ".notes.abcdefgh.partial", "model.4.pt.abcdefgh.partial"}
    for name in mine:
        (folder / "w" / name).write_text("of the user")
    gpt2_ft.main([*flags, "--resume"])
    assert "removed 1 unfinished files of a killed run from w\n" in capsys.readouterr().out
    assert not left.exists()
    assert {path.name for path in folder.glob("w/*") if "partial" in path.name} == mine
